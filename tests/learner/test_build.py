"""Networks as the learner builds them: adapters, precision, teachers of other sizes, compiled blocks."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from learner.build import LearnerParts, dmd_learner, ode_initializer, pretrainer
from learner.score_distillation import DmdLearner
from learner.stage_config import AdamWConfig, DmdConfig, LearnerConfig, MuonConfig, OdeConfig, PretrainConfig, Source
from models.checkpoints.weight_files import save_weights
from models.errors import ConfigError
from models.network_config import CONFIGS, StudentConfig, WanConfig
from models.records import ODE, STUDENT, Trajectory, Window
from models.wan.network import Wan
from models.worlds.tiny_prompts import PROMPTS
from models.worlds.tiny_world import encode_text
from tests.learner.networks import SHALLOW, network
from tests.learner.saved_state import in_files

CPU = torch.device("cpu")
SHAPE = StudentConfig(model=SHALLOW, height=4, width=8, horizon_frames=6, attention_frames=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("networks")
    for seed, name in enumerate(("init", "base", "teacher")):
        save_weights(network(seed).state_dict(), made / f"{name}.safetensors", {})
    save_weights(network(3, "tiny_wide").state_dict(), made / "wide.safetensors", {})
    return made


def windows(count: int = 2) -> list[Window]:
    generator, made = torch.Generator().manual_seed(0), []
    for i in range(count):
        context, latents, noisy = torch.randn(15, *SHAPE.frame_shape, generator=generator).split([3, 6, 6])
        made.append(Window(0, 0, i, STUDENT, PROMPTS[i], i, 3, 3, (0, 0, 0), context, latents, noisy))
    return made


def parts(
    learner: LearnerConfig, seed: int, folder: Path = Path(), teacher_wan: WanConfig = SHAPE.wan, **files: str
) -> LearnerParts:
    """`files`: by role, a network of `folder`; its name is the key to change."""
    sources = {role: Source(folder / f"{name}.safetensors", name) for role, name in files.items()}
    return LearnerParts(
        student=SHAPE, teacher_wan=teacher_wan, learner=learner, encode_text=encode_text, sources=sources, seed=seed,
        device=CPU,
    )  # fmt: skip


def distiller(folder: Path, teacher: str = "teacher", **learner) -> DmdLearner:
    given = parts(
        LearnerConfig(**learner), 5, folder, teacher_wan=CONFIGS["tiny_wide"] if teacher == "wide" else SHAPE.wan,
        student="init", critic="base", teacher=teacher,
    )  # fmt: skip
    return dmd_learner(given, DmdConfig(batch_size=2, optimizer=AdamWConfig(lr=1e-3)))


def update(trained: DmdLearner, times: int = 1) -> dict[str, float]:
    for _ in range(times):
        metrics = trained.update_critic(windows()) | trained.update_student(windows())
    return metrics


def velocity(student: Wan) -> torch.Tensor:
    x_t = torch.randn(1, 6, *SHAPE.frame_shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return student(x_t, torch.tensor([700.0]), encode_text(PROMPTS[:1]))


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def held(trained: DmdLearner) -> dict[str, torch.Tensor]:
    return {f"{group}|{name}": tensor for group, named in trained.state()[0].items() for name, tensor in named.items()}


@pytest.mark.parametrize("keys", [{}, {"lora_rank": 4}])
def test_a_state_is_the_live_tensors_without_a_copy(folder, keys):
    """Checkpoints copy what a rank owns of weights, averages, moments and counts of steps, and nothing before that."""
    trained = distiller(folder, **keys)
    update(trained)
    state = held(trained)
    before = {name: tensor.clone() for name, tensor in state.items()}
    update(trained)
    now = held(trained)
    assert state.keys() == now.keys() and all(state[name].data_ptr() == now[name].data_ptr() for name in now)
    assert not same(state, before)
    assert {name.split("|")[0] for name in state} >= {"student", "critic", "student_optimizer", "critic_optimizer"}


def test_networks_start_from_the_files_that_are_named(folder):
    trained = distiller(folder)
    for made, seed in ((trained.student.network, 0), (trained.critic.network, 1), (trained.scores.teacher, 2)):
        assert same(made.state_dict(), network(seed).state_dict())


def test_adapters_start_as_nothing_and_alone_move(folder):
    trained = distiller(folder, lora_rank=4)
    start = {name: p.detach().clone() for name, p in trained.student.network.named_parameters()}
    assert same(trained.student.weights(), network(0).state_dict())
    update(trained, times=2)
    for name, p in trained.student.network.named_parameters():
        assert (".lora_" in name) == p.requires_grad == (not torch.equal(p, start[name])), name
    assert len(trained.student.ema.averages) == SHAPE.wan.num_layers * 10 * 2  # blocks, matrices of each, down and up


def test_merged_adapters_compute_what_unmerged_ones_do_under_the_names_of_the_whole_network(folder):
    trained = distiller(folder, lora_rank=4)
    update(trained, times=2)
    merged = Wan(SHAPE.wan)
    merged.load_state_dict(trained.student.weights(), strict=True)
    before = velocity(network(0))
    torch.testing.assert_close(velocity(merged), velocity(trained.student.network), rtol=1e-5, atol=1e-5)
    assert (velocity(merged) - before).abs().max() > 1e-2
    assert trained.student.averaged().keys() == merged.state_dict().keys()
    assert not same(trained.student.averaged(), trained.student.weights())


def test_adapters_are_merged_in_float32_and_published_in_the_dtype_of_the_actors(folder):
    given = parts(LearnerConfig(lora_rank=4), 5, folder, student="init", critic="base", teacher="teacher")
    given = replace(given, published_dtype=torch.bfloat16)
    trained = dmd_learner(given, DmdConfig(batch_size=2, optimizer=AdamWConfig(lr=1e-3)))
    update(trained)
    assert same(trained.student.weights(), {name: x.bfloat16() for name, x in trained.student.raw().items()})


def test_a_run_with_adapters_goes_on_from_its_state_bit_by_bit(folder, tmp_path):
    whole, first, resumed = (distiller(folder, lora_rank=4) for _ in range(3))
    update(first)
    tensors, counts = first.state()
    resumed.load_state(in_files(tmp_path, tensors), counts)
    update(whole, times=3)
    update(resumed, times=2)
    assert same(resumed.student.weights(), whole.student.weights()) and same(
        resumed.student.averaged(), whole.student.averaged()
    )


def test_a_state_of_another_network_is_refused_by_name_before_anything_is_written(folder, tmp_path):
    trained, other = distiller(folder), distiller(folder, lora_rank=4)
    tensors, counts = other.state()
    with pytest.raises(ValueError, match=r" blocks\.0\.\S+, "):
        trained.load_state(in_files(tmp_path, tensors), counts)
    assert same(trained.student.weights(), network(0).state_dict())


@pytest.mark.parametrize("kept", [False, True])
def test_recomputed_activations_give_the_same_update_bit_by_bit(folder, kept):
    plain, frugal = distiller(folder), distiller(folder, checkpoint_activations=True, keep_attention=kept)
    assert update(plain) == update(frugal) and same(plain.student.weights(), frugal.student.weights())


@pytest.mark.proof
@pytest.mark.slow
def test_compiled_blocks_give_the_same_losses(folder):
    """Stage ode compiles both of the student's ways: clean frames without gradient, and noisy ones that see them."""
    generator, losses = torch.Generator().manual_seed(0), []
    states, latents = torch.randn(4, 6, *SHAPE.frame_shape, generator=generator), torch.zeros(6, *SHAPE.frame_shape)
    pair = Trajectory(0, 0, 0, ODE, PROMPTS[0], 0, states, latents)
    for learner in (LearnerConfig(), LearnerConfig(compile=True)):
        trained = ode_initializer(parts(learner, 0, folder, student="base"), OdeConfig(batch_size=2))
        losses.append([trained.update([pair], 1)["ode/loss"] for _ in range(2)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_a_teacher_in_bfloat16_judges_about_as_one_in_float32(folder):
    single, half = distiller(folder), distiller(folder, teacher_dtype="bfloat16")
    assert {p.dtype for p in half.scores.teacher.parameters()} == {torch.bfloat16}
    assert update(half)["student/loss"] == pytest.approx(update(single)["student/loss"], rel=0.02)
    assert {tensor.dtype for tensor in half.student.weights().values()} == {torch.float32}


def test_a_teacher_may_be_larger_than_the_student(folder):
    trained = distiller(folder, teacher="wide")
    assert trained.scores.teacher.config.dim > trained.student.network.config.dim == trained.critic.network.config.dim
    assert update(trained)["student/dmd_gradient"] > 0
    with pytest.raises(ConfigError) as error:
        ode_initializer(parts(LearnerConfig(), 0, folder, student="wide"), OdeConfig())
    assert (error.value.key, error.value.value) == ("wide", folder / "wide.safetensors")


def test_the_teacher_runs_once_per_micro_batch_of_the_student_and_never_for_the_critic(folder):
    trained, seen = distiller(folder, micro_batch=1), []
    trained.scores.teacher.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    trained.update_critic(windows())
    assert seen == []
    trained.update_student(windows())
    assert seen == [2, 2]  # conditional and unconditional together, one window each


@pytest.mark.parametrize(("key", "value"), [("dtype", "bfloat16"), ("teacher_offload", True)])
def test_keys_that_need_learner_ranks_are_rejected_without_them(folder, key, value):
    with pytest.raises(ConfigError) as error:
        distiller(folder, **{key: value})
    assert (error.value.key, error.value.value) == (f"learner.{key}", value)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"dtype": "float16"}, r"learner\.dtype="),
        ({"teacher_dtype": "int8"}, r"learner\.teacher_dtype="),
        ({"micro_batch": 0}, r"learner\.micro_batch="),
        ({"lora_rank": -1}, r"learner\.lora_rank="),
        ({"lora_alpha": 0.0}, r"learner\.lora_alpha="),
    ],
)
def test_learner_keys_that_make_no_sense_are_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        LearnerConfig(**keys)


def test_a_pretrained_teacher_is_the_same_in_any_micro_batch_and_saved_as_its_average(tmp_path):
    config = PretrainConfig(steps=4, batch_size=4, optimizer=MuonConfig(lr=1e-3, adamw_lr=1e-3))
    whole, cut = (pretrainer(parts(LearnerConfig(micro_batch=n), 3), config) for n in (None, 1))
    for _ in range(2):
        assert cut.update()["pretrain/loss"] == pytest.approx(whole.update()["pretrain/loss"], rel=1e-5)
    assert not same(whole.trained.averaged(), whole.state()[0]["teacher"])
    resumed = pretrainer(parts(LearnerConfig(), 3), config)
    tensors, counts = whole.state()
    resumed.load_state(in_files(tmp_path, tensors), counts)
    assert resumed.update() == whole.update() and same(resumed.trained.averaged(), whole.trained.averaged())
