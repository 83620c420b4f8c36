"""What the teacher's trajectories are led away from."""

import torch

from actors.teacher_actor import TeacherActor
from models.network_config import StudentConfig
from models.records import ODE, Rollout, Trajectory, WindowPlan
from models.wan.network import Wan
from models.worlds.tiny_prompts import PROMPTS
from models.worlds.tiny_world import encode_text

SHAPE = StudentConfig(height=4, width=8, horizon_frames=6, attention_frames=6)


def end(guidance: float, negative_prompt: str) -> torch.Tensor:
    """x0 [K C H W] of one trajectory."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher = Wan(SHAPE.wan)
        for p in teacher.parameters():
            p.data.add_(torch.randn_like(p), alpha=0.3)
    actor = TeacherActor(teacher, SHAPE, encode_text, 4, guidance, negative_prompt=negative_prompt)
    (made,) = (
        item
        for item in actor.windows([Rollout(0, 0, PROMPTS[3], 1, 6, (WindowPlan(ODE, 0, 0, 0),))])
        if isinstance(item, Trajectory)
    )
    return made.latents


def test_guidance_away_from_the_prompt_itself_leads_nowhere_and_from_another_it_leads_elsewhere():
    unguided = end(1.0, "")
    torch.testing.assert_close(end(4.0, PROMPTS[3]), unguided, rtol=1e-4, atol=1e-4)
    ends = [unguided, end(4.0, ""), end(4.0, PROMPTS[7])]
    assert all((ends[a] - ends[b]).abs().max() > 0.05 for a, b in ((0, 1), (0, 2), (1, 2)))
