"""What teacher and critic are shown of windows from the middle of a video, and what of their word counts."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from learner.losses.dmd import score_sigmas
from learner.member_windows import windows_for_scores
from learner.replay import collate, masked_x0
from learner.score_distillation import ScoreDistillation
from learner.stage_config import DmdConfig
from models.flow_matching import add_noise
from models.network_config import CONFIGS, StudentConfig
from models.noise import Draw, generator_for
from models.records import GRPO, STUDENT, Group, Window
from tests.fakes.small_world import CONFIG, NAME, small_network

SEED = 5
DMD = DmdConfig(guidance=3.0)
BLOCK = 3


@pytest.fixture
def shape(monkeypatch) -> StudentConfig:
    monkeypatch.setitem(CONFIGS, NAME, CONFIG)
    return StudentConfig(model=NAME, height=4, width=6, horizon_frames=6, attention_frames=6)


def encode_text(prompts):
    drawn = [torch.Generator().manual_seed(len(prompt)) for prompt in prompts]
    return torch.stack([torch.randn(CONFIG.text_len, CONFIG.text_dim, generator=one) for one in drawn])


def windows() -> list[Window]:
    """One at the beginning of its video, two from the middle."""
    generator, made = torch.Generator().manual_seed(0), []
    for i, start in enumerate((0, 3, 9)):
        context, latents, noisy, image = torch.randn(16, 4, 4, 6, generator=generator).split([3, 6, 6, 1])
        made.append(
            Window(i, 0, 0, STUDENT, "cat " * i, i, start, 3, (0,) * (2 + (start > 0)), context[: min(start, 3)],
                   latents, noisy, image=image[0] if start else None)
        )  # fmt: skip
    return made


def scores(shape: StudentConfig) -> ScoreDistillation:
    networks = (small_network(seed) for seed in range(3))
    levels = partial(score_sigmas, shift=DMD.score_shift, low=DMD.score_min, high=DMD.score_max)
    return ScoreDistillation(
        *networks, encode_text, shape, replay=DMD.replay, context_gradient=False, noising=DMD.noising,
        score_levels=levels, guidance=DMD.guidance, negative_prompt="dog", micro_batch=None, seed=SEED,
    )  # fmt: skip


def drawn(update: Draw, place: int) -> tuple[Tensor, Tensor]:
    """Level and noise at which the window in that place of the first batch is judged."""
    generator = generator_for(SEED, update, 0, place)
    uniform = torch.rand((), generator=generator)
    shifted = DMD.score_shift * uniform / (1 + (DMD.score_shift - 1) * uniform)
    return shifted.clamp(DMD.score_min, DMD.score_max)[None], torch.randn(1, 6, 4, 4, 6, generator=generator)


def view(trained: ScoreDistillation, window: Window) -> tuple[Tensor, Tensor]:
    """The student's x0 [1 K C H W] with the image, where there is one, as its first frame; and its text."""
    batch = collate([window], encode_text, torch.device("cpu"))
    with torch.no_grad():
        x0 = masked_x0(trained.student, trained.shape, batch, batch.noisy, torch.tensor([trained.sigmas[window.step]]))
    return (x0 if window.image is None else torch.cat([window.image[None, None], x0[:, 1:]], dim=1)), batch.text


def test_the_students_loss_is_that_of_its_blocks_behind_the_image_which_the_teacher_sees_first(shape):
    trained, expected = scores(shape), []
    for place, window in enumerate(windows()):
        shown, text = view(trained, window)
        sigma, noise = drawn(Draw.STUDENT_UPDATE, place)
        x_t = add_noise(shown, noise, sigma)
        with torch.no_grad():
            cond, free = (trained.teacher(x_t, 1000 * sigma, t) for t in (text, encode_text(["dog"])))
            fake = x_t - sigma * trained.critic(x_t, 1000 * sigma, text)
        real = x_t - sigma * (free + DMD.guidance * (cond - free))
        gradient = (fake - real) / (shown - real).abs().mean()
        counted = gradient if window.image is None else gradient[:, BLOCK:]
        expected.append(0.5 * float((counted.double() ** 2).mean()))
    (loss,), _ = trained.student_losses(windows(), 0, [])
    assert loss.detach().item() == pytest.approx(sum(expected) / 3, rel=1e-4)


def test_the_critic_learns_all_of_what_it_is_shown(shape):
    trained, expected = scores(shape), []
    for place, window in enumerate(windows()):
        shown, text = view(trained, window)
        sigma, noise = drawn(Draw.CRITIC_UPDATE, place)
        with torch.no_grad():
            velocity = trained.critic(add_noise(shown, noise, sigma), 1000 * sigma, text)
        expected.append(float(((velocity - (noise - shown)) ** 2).mean()))
    (loss,), _ = trained.critic_losses(windows(), 0)
    assert loss.detach().item() == pytest.approx(sum(expected) / 3, rel=1e-4)


def test_an_image_changes_what_is_learnt_and_only_of_its_own_window(shape):
    def loss(given: list[Window], place: int) -> float:
        alone = [replace(window, weight=float(i == place)) for i, window in enumerate(given)]
        trained = scores(shape)
        losses, _ = trained.student_losses(alone, 0, [])
        return float(sum(loss.detach() for loss in losses))

    other = windows()
    other[1] = replace(other[1], image=other[1].image + 1)
    losses = [[loss(given, place) for place in range(3)] for given in (windows(), other)]
    assert losses[0][0] == losses[1][0] and losses[0][2] == losses[1][2]
    assert abs(losses[0][1] - losses[1][1]) > 1e-3


def test_members_of_a_group_bring_their_own_images_to_the_teacher():
    generator = torch.Generator().manual_seed(0)
    members, images = torch.randn(2, 6, 4, 4, 6, generator=generator), torch.randn(2, 4, 4, 6, generator=generator)
    nothing = torch.zeros(2, 0, 6, 4, 4, 6)
    group = Group(
        0, 0, 0, GRPO, "cat", 1, 3, 3, (), (0, 0, 0), torch.randn(3, 4, 4, 6), members, members, nothing, nothing,
        nothing, images=images,
    )  # fmt: skip
    for turn in (0, 1):
        found = {window.index: window for window in windows_for_scores([group], 2, 6, BLOCK, turn)}
        assert all(torch.equal(found[member].image, images[member]) for member in (0, 1))
    assert all(w.image is None for w in windows_for_scores([replace(group, images=None)], 2, 6, BLOCK, 0))
