"""One update of critic and student of stage dmd by adapters, at the size of Wan 1.3B: a child whose memory is measured.

Windows have 128x128 pixels and two blocks: weights are what it holds.
"""

import sys
from pathlib import Path

import torch

from learner.build import LearnerParts, dmd_learner
from learner.stage_config import DmdConfig, LearnerConfig, Source
from models.network_config import StudentConfig
from models.records import CRITIC, STUDENT, Window

FRAMES, CONTEXT = 6, 6


def window(role: str, config: StudentConfig) -> Window:
    """Of noise, from the middle of a video."""
    clean = torch.randn(CONTEXT + 2 * FRAMES, *config.frame_shape, generator=torch.Generator().manual_seed(0))
    context, latents, noisy = clean.split([CONTEXT, FRAMES, FRAMES])
    versions = (0,) * ((CONTEXT + FRAMES) // config.block_frames)
    return Window(
        0, 0, 0, role, "x", 0, 60, len(config.timesteps) - 1, versions, context, latents, noisy, image=latents[0]
    )


def main(weights: Path) -> None:
    """Update the critic, then the student, and copy what would be published."""
    config = StudentConfig(
        model="wan_1_3b", height=16, width=16, horizon_frames=6, attention_frames=6, shift=5.0,
    )  # fmt: skip
    parts = LearnerParts(
        student=config, teacher_wan=config.wan, seed=0, device=torch.device("cpu"),
        learner=LearnerConfig(lora_rank=16, micro_batch=1, checkpoint_activations=True, teacher_dtype="bfloat16"),
        encode_text=lambda prompts: torch.zeros(len(prompts), config.wan.text_len, config.wan.text_dim),
        sources={role: Source(weights, role) for role in ("student", "critic", "teacher")},
        published_dtype=torch.bfloat16,
    )  # fmt: skip
    learner = dmd_learner(parts, DmdConfig(batch_size=1))
    print(learner.update_critic([window(CRITIC, config)]), learner.update_student([window(STUDENT, config)]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
