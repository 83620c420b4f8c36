"""Two ranks on Gloo train as one rank does. All of what two ranks do is done in one pair of processes, once."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, multiprocessing
from torch.distributed.tensor import DTensor

from actors.group_actor import GroupActor
from actors.rollout_config import WindowConfig
from learner.build import LearnerParts, dmd_learner, ode_initializer, policy_learner, pretrainer
from learner.optimizer import NonFiniteError, Optimizer, muon
from learner.parallel import collectives
from learner.parallel.shard_files import OwnShards, ShardFiles
from learner.parallel.sharding import full_tensor, shard
from learner.policy_config import GrpoConfig
from learner.score_distillation import DmdLearner
from learner.stage_config import AdamWConfig, DmdConfig, LearnerConfig, MuonConfig, OdeConfig, PretrainConfig, Source
from learner.trained_network import FlatCopy
from models.checkpoints.weight_files import load_weights, save_weights
from models.network_config import CONFIGS, StudentConfig
from models.records import GRPO, STUDENT, Group, GroupPlan, Rollout, Weights, Window
from models.wan.network import Wan
from models.worlds.tiny_prompts import PROMPTS
from models.worlds.tiny_world import encode_text
from models.worlds.video_codec import TinyCodec
from rewards.sentinels import SentinelConfig
from tests.cluster.runs.trajectories import kept_in, origin, straight
from tests.fakes.fixed_weights import FixedWeights
from tests.learner.networks import SHALLOW, network

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")
SHAPE = StudentConfig(model=SHALLOW, height=4, width=8, horizon_frames=6, attention_frames=6)
BATCH = 4
Results = dict[str, Tensor]


def windows(update: int) -> list[Window]:
    """A step's windows, of noise: histories of 0, 3 and 6 frames, and weights and ages of their own."""
    generator, made = torch.Generator().manual_seed(update), []
    for i in range(BATCH):
        start = 3 * ((i + update) % 3)
        context, latents, noisy = torch.randn(start + 12, *SHAPE.frame_shape, generator=generator).split([start, 6, 6])
        made.append(
            Window(
                rollout=update, attempt=0, index=i, role=STUDENT, prompt=PROMPTS[i], seed=100 * update + i,
                start=start, step=3 if i % 2 else 1, versions=(0,), context=context, latents=latents, noisy=noisy,
                age=i % 3, weight=1.0 if i % 2 else 0.5,
            )
        )  # fmt: skip
    return made


def write_networks(folder: Path) -> None:
    for seed, name in enumerate(("init", "base", "teacher")):
        save_weights(network(seed).state_dict(), folder / f"{name}.safetensors", {})
    save_weights(network(3, "tiny_wide").state_dict(), folder / "wide.safetensors", {})


def parts(
    folder: Path, learner: LearnerConfig, seed: int, student: str = "init", teacher: str = "teacher"
) -> LearnerParts:
    files = {"student": student, "critic": "base", "teacher": teacher}
    return LearnerParts(
        student=SHAPE, teacher_wan=CONFIGS["tiny_wide"] if teacher == "wide" else SHAPE.wan, learner=learner,
        encode_text=encode_text, seed=seed, device=CPU,
        sources={role: Source(folder / f"{name}.safetensors", name) for role, name in files.items()},
    )  # fmt: skip


def distiller(folder: Path, learner: LearnerConfig, wide: bool = False, **changes) -> DmdLearner:
    config = DmdConfig(batch_size=BATCH, ema_decay=0.9, **changes)
    return dmd_learner(parts(folder, learner, 5, teacher="wide" if wide else "teacher"), config)


def train(trained: DmdLearner, first: int, end: int) -> Results:
    """Updates of critic and student, each rank with its share of the windows; what they log."""
    log = {}
    for update in range(first, end):
        critics, students = (
            [given[place] for place in collectives.own_places(BATCH)]
            for given in (windows(update), windows(1000 + update))
        )
        metrics = trained.update_critic(critics) | trained.update_student(students)
        log |= {f"{name} {update}": torch.tensor(value, dtype=torch.float64) for name, value in metrics.items()}
    return log


def outcome(trained: DmdLearner) -> Results:
    results = {f"raw {name}": tensor for name, tensor in trained.student.weights().items()}
    return results | {f"averaged {name}": tensor for name, tensor in trained.student.averaged().items()}


def distil(folder: Path, updates: int, learner: LearnerConfig, wide: bool = False, **changes) -> Results:
    trained = distiller(folder, learner, wide, **changes)
    return train(trained, 0, updates) | outcome(trained)


def stop_half_way(folder: Path) -> Results:
    """Two updates; each rank writes its shards of the state after the first of them."""
    trained = distiller(folder, LearnerConfig())
    log = train(trained, 0, 1)
    tensors, counts = trained.state()
    assert counts == {"student": 1, "critic": 1}
    assert bool(trained.student.weights()) == (collectives.rank() == 0)
    if collectives.size() > 1:
        for group, named in tensors.items():
            OwnShards.of(named).write(folder / f"half {collectives.rank()} {group}.safetensors")
    return log | train(trained, 1, 2) | outcome(trained)


def initialise(folder: Path) -> Results:
    config = OdeConfig(steps=8, batch_size=BATCH, optimizer=MuonConfig(lr=2e-3, adamw_lr=5e-4))
    trained = ode_initializer(parts(folder, LearnerConfig(micro_batch=1), 3, student="base"), config)
    pairs, log = straight(5, SHAPE), {}
    if collectives.size() > 1:  # two ranks read what one has in memory: of two shards, and of what is no shard yet
        pairs = kept_in(folder / "pairs", range(5), 2, origin(SHAPE))
        pairs.add(straight(5, SHAPE))
        assert len(pairs.entries) == 4 and len(pairs) == 5
    for i in range(2):
        log[f"loss {i}"] = torch.tensor(trained.update(pairs, 5)["ode/loss"])
    return log | dict(trained.trained.raw())


def pretrain(folder: Path) -> Results:
    config = PretrainConfig(steps=8, batch_size=BATCH, optimizer=MuonConfig(lr=2e-3, adamw_lr=5e-4))
    trained = pretrainer(parts(folder, LearnerConfig(micro_batch=2), 3), config)
    log = {f"loss {i}": torch.tensor(trained.update()["pretrain/loss"]) for i in range(2)}
    return log | dict(trained.trained.averaged())


def groups(folder: Path) -> list[Group]:
    """Four, by a real actor with the first student, forked at the beginning and after the cache has rolled."""
    student = Wan(SHAPE.wan).eval()
    load_weights(student, folder / "init.safetensors", "init")
    actor = GroupActor(
        SHAPE, WindowConfig(frames=6, burn_in_frames=18), encode_text, TinyCodec(), FixedWeights(Weights.of(0, student))
    )
    rollouts = [
        Rollout(i, 0, PROMPTS[i], 11 + i, 24, (GroupPlan(GRPO, start, 3, 0, 2, 6, (1,), (0,), 0.5, False),))
        for i, start in enumerate((0, 6, 15, 15))
    ]
    made = [item for item in actor.windows(rollouts) if isinstance(item, Group)]
    return [replace(group, scores={"r": [[0.1 * group.rollout], [0.7 - 0.2 * group.rollout]]}) for group in made]


def reward(folder: Path) -> Results:
    """Two rounds of stage grpo with the extended DMD loss and the KL term, of advantages over the whole batch."""
    config = GrpoConfig(
        groups=4,
        dmd_members=1,
        critic_updates=1,
        critic_warmup=0,
        kl=0.1,
        std_scope="batch",
        optimizer=AdamWConfig(lr=1e-3, weight_decay=0.0),
    )
    trained = policy_learner(
        parts(folder, LearnerConfig(micro_batch=1), 5), config, DmdConfig(), SentinelConfig(),
        rewards=lambda _: {"r": 1.0}, window_frames=6, coarse=0.5,
    )  # fmt: skip
    given, log = groups(folder), {}
    for update in range(2):
        metrics = trained.update([replace(given[place], age=update) for place in collectives.own_places(4)])
        log |= {f"{name} {update}": torch.tensor(value, dtype=torch.float64) for name, value in metrics.items()}
    return log | {f"raw {name}": t for name, t in trained.student.weights().items()}


def orthogonalise(folder: Path) -> Results:
    """Muon on gradients that are bit by bit those of one rank: of one batch on every rank, not clipped by a norm (which
    adds shards in another order), and none for the text (which backward adds up in another order).
    """
    student = network(0)
    shard(student, CPU)
    optimizer = Optimizer("x", student, muon(student, 1e-2, 1e-3), lr_key="x.lr", grad_clip=torch.inf)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        x_t, level = torch.randn(2, 6, *SHAPE.frame_shape, generator=generator), torch.full((2, 6), 900.0)
        with torch.no_grad():
            text = student.text_keys_values(encode_text(PROMPTS[:2]))
        optimizer.step([student.run(x_t, level, text).square().mean()])
    return {name: full_tensor(tensor).clone() for name, tensor in (student.state_dict() | optimizer.state()).items()}


def publish(folder: Path) -> Results:
    """What is published of a cut network, in two dtypes; counts the collectives of each."""
    student, gathers, gather = network(0), [], distributed.all_gather_into_tensor
    shard(student, CPU)
    weights, results = student.state_dict(), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "all_gather_into_tensor", lambda *given: gathers.append(1) or gather(*given))
        for dtype in (torch.float32, torch.bfloat16):
            whole = FlatCopy(weights, dtype).of(weights)
            results |= {f"{dtype} {name}": tensor for name, tensor in whole.items()}
    results["collectives"] = torch.tensor(len(gathers))
    return results


def break_one_rank(folder: Path) -> Results:
    """A NaN that only the last rank gets; what every rank then says, and that nothing moved."""
    trained = distiller(folder, LearnerConfig())
    given = [windows(0)[place] for place in collectives.own_places(BATCH)]
    if collectives.rank() == collectives.size() - 1:
        given[-1] = replace(given[-1], noisy=torch.full_like(given[-1].noisy, torch.nan))
    for update in (trained.update_critic, trained.update_student):
        with pytest.raises(NonFiniteError, match=r"\bnan\b.*\bnan\b.*\b1\b"):
            update(given)
    return outcome(trained)


def compute_in_halves(folder: Path) -> Results:
    learner = LearnerConfig(dtype="bfloat16", teacher_dtype="bfloat16", checkpoint_activations=True, micro_batch=1)
    trained = distiller(folder, learner)
    results = train(trained, 0, 1)
    assert all(p.dtype == torch.float32 and isinstance(p, DTensor) for p in trained.student.network.parameters())
    assert all(p.dtype == torch.bfloat16 for p in trained.scores.teacher.parameters())
    return results | outcome(trained)


FRUGAL = LearnerConfig(micro_batch=1, checkpoint_activations=True)
ADAPTERS = LearnerConfig(lora_rank=4, lora_alpha=8.0, micro_batch=1)
EQUAL: dict[str, Callable[[Path], Results]] = {
    "two updates": stop_half_way,
    "two updates in micro-batches of one with activation checkpointing": lambda folder: distil(folder, 2, FRUGAL),
    "adapters": lambda folder: distil(folder, 2, ADAPTERS),
    "block by block": lambda folder: distil(folder, 1, LearnerConfig(), replay="blockwise"),
    "a wide teacher and fresh noise": lambda folder: distil(folder, 1, LearnerConfig(), wide=True, noising="fresh"),
    "stage teacher": pretrain,
    "stage grpo": reward,
    "one rank's window is not finite": break_one_rank,
}
SCENES = EQUAL | {"stage ode": initialise, "muon": orthogonalise, "bfloat16": compute_in_halves, "publish": publish}


def work(rank: int, count: int, folder: Path) -> None:
    """What a rank does: every scene; rank 0 writes what came out."""
    torch.set_num_threads(1)
    store = f"file://{folder / 'store'}"
    patience = timedelta(seconds=120)
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=count, timeout=patience)
    for name, scene in SCENES.items():
        results = scene(folder)
        if rank == 0:
            save_file(results, folder / f"{name}.results")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("ranks")
    write_networks(made)
    multiprocessing.spawn(work, (2, made), nprocs=2)
    return made


def of_two_ranks(folder: Path, name: str) -> Results:
    return load_file(folder / f"{name}.results")


def distance(one: Results, other: Results) -> float:
    assert one.keys() == other.keys()
    return max((one[name].double() - other[name].double()).abs().max().item() for name in one)


@pytest.mark.parametrize("name", EQUAL)
def test_two_ranks_give_the_losses_and_weights_of_one(folder, name):
    assert distance(of_two_ranks(folder, name), EQUAL[name](folder)) <= 1e-5


def test_a_window_weighs_and_draws_by_its_place_in_any_micro_batch(folder):
    frugal = of_two_ranks(folder, "two updates in micro-batches of one with activation checkpointing")
    assert distance(frugal, of_two_ranks(folder, "two updates")) <= 1e-5


def test_one_rank_goes_on_from_the_state_of_two_as_they_do(folder):
    resumed = distiller(folder, LearnerConfig())
    groups = (*resumed.state()[0],)
    saved = {group: ShardFiles(folder / f"half {rank} {group}.safetensors" for rank in range(2)) for group in groups}
    resumed.load_state(saved, {"student": 1, "critic": 1})
    whole = of_two_ranks(folder, "two updates")
    made = train(resumed, 1, 2) | outcome(resumed)
    assert distance(made, {name: whole[name] for name in made}) <= 1e-6


def test_muon_steps_cut_matrices_as_whole_ones_bit_by_bit(folder):
    assert distance(of_two_ranks(folder, "muon"), orthogonalise(folder)) == 0


def test_published_weights_are_those_of_one_rank_bit_by_bit_with_one_collective_for_each_block(folder):
    cut, whole = of_two_ranks(folder, "publish"), publish(folder)
    assert cut.pop("collectives") == 2 * (len(network(0).blocks) + 1) and whole.pop("collectives") == 0
    assert distance(cut, whole) == 0
    assert any(tensor.shape[0] % 2 for tensor in whole.values()), "no tensor is cut unevenly"


def test_stage_ode_gives_the_losses_of_one_rank_and_its_weights_but_for_the_rounding_of_muon(folder):
    """Muon rounds gradients to bfloat16 and blows up their smallest directions: what differs is little of the way."""
    two, one, start = of_two_ranks(folder, "stage ode"), initialise(folder), network(1).state_dict()
    losses = [name for name in one if name.startswith("loss")]
    assert distance({name: two[name] for name in losses}, {name: one[name] for name in losses}) <= 1e-5
    apart = sum((two[name] - one[name]).square().sum() for name in start).sqrt()
    moved = sum((one[name] - start[name]).square().sum() for name in start).sqrt()
    assert apart < 0.02 * moved


def test_bfloat16_computes_about_what_float32_does_and_keeps_its_weights_in_float32(folder):
    half, single = of_two_ranks(folder, "bfloat16"), of_two_ranks(folder, "two updates")
    for name in ("critic/loss 0", "student/loss 0"):
        assert half[name].item() == pytest.approx(single[name].item(), rel=0.03)
    assert all(tensor.dtype == torch.float32 for name, tensor in half.items() if name.startswith("raw "))
