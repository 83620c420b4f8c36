"""List devices by name, with their peak FLOPS, the expected share of it, and their memory."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """Describes one accelerator, or one CPU thread."""

    peak_flops: float
    """Dense multiplications and additions per second in the precision that training computes in."""
    sustained: float
    """Share of the peak that Wan is expected to get over a whole step. An assumption, not a measurement."""
    memory_bytes: float | None
    """Bytes of the device's memory; None for a CPU, which uses the machine's."""
    source: str


DEVICES = {
    "h100": Device(989.4e12, 0.40, 80e9, "H100 SXM, bfloat16 without sparsity (data sheet)"),
    "h200": Device(989.4e12, 0.40, 141e9, "H200 SXM, bfloat16 without sparsity (data sheet)"),
    "a100": Device(312e12, 0.45, 80e9, "A100 SXM 80 GB, bfloat16 without sparsity (data sheet)"),
    "cpu": Device(96e9, 0.40, None, "one core of 3 GHz with two 256-bit FMA units, float32"),
}
