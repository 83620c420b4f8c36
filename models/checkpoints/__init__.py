"""Read and write Wan checkpoints of every common format, and LoRA files."""
