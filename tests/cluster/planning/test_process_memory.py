"""What the dry run says that a process on a CPU holds is what it holds, libraries and allocator included."""

from dataclasses import replace

import pytest

import settings
from cluster.planning import memory
from cluster.planning.process_memory import LIBRARIES, processes_of, total_bytes
from cluster.planning.rank_memory import checkpoint_bytes, rank_memory
from cluster.planning.run_shape import run_shape_of
from models.network_config import CONFIGS, TINY
from models.network_sizes import parameters
from tests.fakes.commands import replaced
from tests.fakes.measured_child import NAME, peak_bytes, save_random_weights

WIDE = replace(TINY, num_attention_heads=12, attention_head_dim=128, ffn_dim=6144, num_layers=2)
LONG = replace(TINY, ffn_dim=1536, attention_head_dim=96, num_layers=8)
DEEP = replace(TINY, attention_head_dim=64, ffn_dim=1024, num_layers=30)
INLINE = ["preset=smoke", "cluster=inline", f"student.model={NAME}", "stage=dmd", "init=x", "dmd.critic_updates=1"]


@pytest.fixture
def named(monkeypatch):
    return lambda wan: monkeypatch.setitem(CONFIGS, NAME, wan)


def by_name(work, stage="dmd", place=0):
    return {line.name: line.value for line in processes_of(work, stage)[place].memory}


def shape(*arguments):
    return run_shape_of(settings.load(replaced(INLINE, *arguments)))


def test_a_checkpoint_holds_weights_moments_and_averages_of_student_and_critic(named):
    named(WIDE)
    trained = parameters(WIDE)
    assert checkpoint_bytes(shape("checkpoint.every=1"), "dmd") == (4 + 8 + 4 + 4 + 8) * trained
    assert checkpoint_bytes(shape("checkpoint.every=5"), "dmd") == 0, "the stage has four updates"
    assert checkpoint_bytes(shape("checkpoint.every=1", "stage=ode", "init=null"), "ode") < (4 + 8) * trained


def test_a_checkpoint_in_the_background_comes_on_top_and_one_that_is_waited_for_does_not(named):
    named(WIDE)
    behind, waited = (
        total_bytes(processes_of(shape("checkpoint.every=1", f"checkpoint.asynchronous={said}"), "dmd")[0].memory)
        for said in ("true", "false")
    )
    without = total_bytes(processes_of(shape("checkpoint.every=5"), "dmd")[0].memory)
    assert without < waited < behind == pytest.approx(without + 28 * parameters(WIDE), rel=0.02)


def test_the_allocator_holds_pieces_of_small_tensors_only(named):
    named(LONG)
    small = shape("dmd.batch_size=32", "rollout.windows=64", "buffer.windows=512", "checkpoint.every=5")
    assert by_name(small)["allocator"] > 0.3e9
    large = shape("dmd.batch_size=256", "rollout.windows=512", "buffer.windows=4096", "checkpoint.every=5")
    assert "allocator" not in by_name(large)


def test_one_process_holds_both_halves_and_on_ray_each_has_its_own(named):
    named(WIDE)
    inline, ray = shape(), shape("cluster=ray")
    rank, actor = (sum(by_name(ray, place=place).values()) for place in (0, 1))
    assert max(rank, actor) < sum(by_name(inline).values()) <= rank + actor - LIBRARIES
    assert [one.name for one in processes_of(shape("stage=teacher", "init=null"), "teacher")] == ["the process"]


def test_an_actor_on_a_cpu_holds_its_large_products_twice_where_they_are_laid_out(named):
    wide = replace(WIDE, num_attention_heads=4)
    named(wide)
    actor = by_name(shape("cluster=ray", "rollout.dtype=float32"), place=1)
    large = wide.num_layers * (8 * wide.dim**2 + 2 * wide.dim * wide.ffn_dim)
    assert 4 * large <= actor["laid-out weights"] <= 4 * parameters(wide)
    assert "laid-out weights" not in by_name(shape("cluster=ray", "student.model=wan_1_3b", "base=x"), place=1)


def test_reward_processes_are_listed_in_the_stage_that_has_them_on_gpus_and_on_cpus(named):
    named(WIDE)
    scored = ["stage=grpo", "init=null", "grpo.init=x"]
    on_ray = processes_of(shape("cluster=ray", *scored), "grpo")
    assert [one.name for one in on_ray][2:] == ["one reward process"] and total_bytes(on_ray[2].memory) > LIBRARIES
    wan = run_shape_of(settings.load(["preset=wan_1_3b", "cluster=h100_8", "stage=grpo", "grpo.init=x", "teacher=x"]))
    scorer = processes_of(wan, "grpo")[2]
    assert scorer.number == 6 and {line.name for line in scorer.memory} > {"VAE", "caches of the decoder", "CUDA"}
    assert len(processes_of(shape("cluster=ray"), "dmd")) == 2
    tiny_decoder = [line.name for line in memory.reward_memory(replace(wan, reward=replace(wan.reward, vae="x")))]
    assert "VAE" not in tiny_decoder and "decoded frames" in tiny_decoder


def test_on_gpus_a_rank_holds_what_its_device_holds():
    work = run_shape_of(settings.load(["preset=wan_1_3b", "cluster.learner_ranks=8"]))
    assert processes_of(work, "dmd")[0].memory == rank_memory(work, "dmd")


@pytest.mark.proof
@pytest.mark.parametrize(
    ("wan", "stage", "arguments"),
    [
        (WIDE, "dmd", ["checkpoint.every=2"]),
        (LONG, "dmd", ["dmd.batch_size=32", "rollout.windows=8", "rollout.batch=8", "buffer.windows=128",
                       "dmd.steps=2", "checkpoint.every=5"]),
        (DEEP, "grpo", ["init=null", "group.members=8", "grpo.dmd_members=2", "grpo.steps=2", "checkpoint.every=5"]),
        (DEEP, "ode", ["init=null", "ode.batch_size=48", "ode.pairs=48", "ode.first_pairs=48", "ode.steps=2",
                       "rollout.batch=8", "checkpoint.every=1"]),
    ],
    ids=["wide dmd", "long dmd", "deep grpo", "deep ode"],
)  # fmt: skip
def test_a_run_holds_what_its_dry_run_says_within_15_percent(wan, stage, arguments, named, tmp_path):
    named(wan)
    weights = save_random_weights(wan, tmp_path / "w.safetensors")
    starts = {"dmd": [f"init={weights}"], "grpo": [f"grpo.init={weights}", f"grpo.critic={weights}"], "ode": []}[stage]
    given = replaced(INLINE, *arguments, f"stage={stage}", f"teacher={weights}", *starts, f"run_dir={tmp_path}/run")
    held = peak_bytes(wan, "train.py", *given)
    (process,) = processes_of(run_shape_of(settings.load(given)), stage)
    planned = total_bytes(process.memory)
    print(f"{stage}: held {held / 1e9:.2f} GB, dry run {planned / 1e9:.2f}, {process.memory}")
    assert planned == pytest.approx(held, rel=0.15)
