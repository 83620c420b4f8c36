"""What `dry_run=true` says before anything is made, against the published table and against what is really made."""

import re
import subprocess
import sys
import time

import pytest
import torch

import settings
from actors.rollout_actor import RolloutActor
from cluster.planning import flops, memory, rank_memory
from cluster.planning.run_shape import run_shape_of
from cluster.planning.units import with_unit
from cluster.runs.factory import computing_of, make_actor, make_dispatcher
from cluster.runs.stage_spec import inputs_of, stage_spec
from learner.optimizer import muon
from models.causal import write_block
from models.kv_cache import RollingCache
from models.records import ODE, STUDENT, Rollout, Trajectory, Weights, Window, WindowPlan
from models.text.negative_prompt import WAN_NEGATIVE_PROMPT
from models.wan.network import Wan
from models.worlds.tiny_prompts import PROMPTS
from models.worlds.tiny_world import encode_text
from models.worlds.video_codec import TinyCodec
from reports.dry_run import dry_run_text
from tests.fakes.fixed_weights import FixedWeights

ON_EIGHT = ["preset=wan_1_3b", "cluster.learner_ranks=8", "cluster.rollout_actors=24"]


def by_name(lines):
    return {line.name: line for line in lines}


def printed(lines):
    return {line.name: with_unit(line.value, line.unit) for line in lines}


# -- the table of the published arithmetic ----------------------------------------------------------------------------


def test_a_rank_of_eight_holds_what_the_published_table_says():
    config = settings.load([*ON_EIGHT, "stage=dmd", "init=x"])
    rank = by_name(rank_memory.rank_memory(run_shape_of(config), "dmd"))
    student_and_critic = sum(rank[name].value for name in ("weights", "gradients", "optimiser"))
    assert with_unit(student_and_critic / 2, "B") == "2.84 GB"
    assert f"{rank['frozen networks'].value / 1e9:.2f}" == "0.35"
    single = settings.load([*ON_EIGHT, "stage=dmd", "init=x", "learner.teacher_dtype=float32"])
    assert (
        f"{by_name(rank_memory.rank_memory(run_shape_of(single), 'dmd'))['frozen networks'].value / 1e9:.2f}" == "0.71"
    )
    large = settings.load([*ON_EIGHT, "stage=dmd", "init=x", "teacher_model=wan_14b", "base=x"])
    assert (
        f"{by_name(rank_memory.rank_memory(run_shape_of(large), 'dmd'))['frozen networks'].value / 1e9:.2f}" == "3.57"
    )
    assert f"{rank['activations'].value / 1e9 - 4.6:.1f}" == "3.0", "inputs of 30 layers, beside one layer's own"


def test_ranks_that_split_windows_hold_their_share_of_every_token():
    lines = [
        by_name(rank_memory.rank_memory(run_shape_of(settings.load([*keys, "teacher_model=wan_14b", "base=x"])), "dmd"))
        for keys in ([*ON_EIGHT, "dmd.batch_size=16"], [*ON_EIGHT, "dmd.batch_size=16", "cluster.sequence_ranks=4"])
    ]
    for name in ("activations", "the teacher's pass", "keys and values of the replay"):
        assert lines[0][name].value == pytest.approx(4 * lines[1][name].value, rel=1e-6), name
    for name in ("weights", "optimiser", "frozen networks"):
        assert lines[0][name].value == lines[1][name].value, name


def test_members_of_a_group_are_all_counted_and_one_layer_twice_while_it_is_appended():
    config = settings.load([*ON_EIGHT, "stage=grpo", "grpo.init=x", "teacher=x", "grpo.groups=16"])
    shared = by_name(memory.shared_memory(run_shape_of(config)))
    assert with_unit(shared["one group"].value, "B") == "356.63 MB"
    assert shared["the buffer"].value == config.buffer.max_age * 16 * shared["one group"].value
    actor = by_name(memory.actor_memory(run_shape_of(config), "grpo"))
    student, wan = config.student, config.student.wan
    frame = 2 * 2 * wan.num_layers * wan.dim * wan.tokens_per_frame(student.height, student.width)
    assert actor["keys and values"].value == config.group.members * student.attention_frames * frame
    last = config.group.members * student.context_frames * frame // wan.num_layers
    assert actor["keys and values of the last block"].value == last
    assert actor["keys and values of the past"].value == (student.context_frames + 2 * student.block_frames) * frame


def test_further_micro_batches_take_no_memory():
    one, four = (
        by_name(rank_memory.rank_memory(run_shape_of(settings.load([*ON_EIGHT, f"dmd.batch_size={8 * n}"])), "dmd"))
        for n in (1, 4)
    )
    assert one == four


def test_an_actor_holds_what_the_published_table_says_and_room_for_one_more_block():
    actor = printed(memory.actor_memory(run_shape_of(settings.load(ON_EIGHT)), "dmd"))
    assert actor["weights"] == "2.84 GB"
    assert actor["keys and values"] == "6.90 GB", "6.04 of 21 frames"
    assert actor["keys and values of the text"] == "94.37 MB"
    assert actor["keys and values of the last block"] == "862.62 MB"
    together = sum(line.value for line in memory.actor_memory(run_shape_of(settings.load(ON_EIGHT)), "dmd"))
    assert with_unit(together, "B") == "14.19 GB", "9.39 without the next version, the second block and the work of one"


def test_an_actor_of_stage_ode_holds_its_teacher():
    small, large = (
        by_name(memory.actor_memory(run_shape_of(settings.load([*ON_EIGHT, "stage=ode", "teacher=x", *more])), "ode"))
        for more in ([], ["teacher_model=wan_14b", "base=x"])
    )
    assert with_unit(small["weights"].value, "B") == "2.84 GB" and with_unit(large["weights"].value, "B") == "28.58 GB"
    assert large["one block at work"].value > small["one block at work"].value > 0


def test_stage_ode_takes_the_time_of_the_pairs_made_ahead_and_then_of_the_slower_half():
    config = settings.load([*ON_EIGHT, "stage=ode"])
    cost = flops.stage_cost(run_shape_of(config), "ode")
    made, learnt = (
        flops.seconds(run_shape_of(config), cost.actors, 24),
        flops.seconds(run_shape_of(config), cost.learner, 8),
    )
    assert flops.stage_seconds(run_shape_of(config), cost) == pytest.approx(made * 15 / 16 + max(made / 16, learnt))
    without = flops.StageCost("dmd", cost.actors, cost.learner)
    assert flops.stage_seconds(run_shape_of(config), without) == max(made, learnt)


def test_operations_are_those_of_the_published_table():
    lines = printed(flops.operations(run_shape_of(settings.load(ON_EIGHT))))
    assert lines["one pass of a block"] == "40.41 TFLOP" and lines["one finished block"] == "202.03 TFLOP"
    assert lines["one rollout"] == "26.65 PFLOP"
    assert lines["VAE, one block decoded"] == "40.65 TFLOP"


# -- against what is really made --------------------------------------------------------------------------------------


def test_a_trained_parameter_costs_what_a_real_one_keeps():
    config = settings.load(["preset=tiny", "cluster=inline"])
    network = Wan(config.student.wan)
    optimizers = muon(network, 1e-3, 1e-3)
    sum(p.sum() for p in network.parameters()).backward()
    for optimizer in optimizers:
        optimizer.step()
    states = [state for optimizer in optimizers for state in optimizer.state.values()]
    moments = [x for state in states for x in state.values() if x.ndim]
    rank = by_name(rank_memory.rank_memory(run_shape_of(config), "ode"))
    assert rank["weights"].value == sum(p.nbytes for p in network.parameters())
    assert rank["gradients"].value == sum(p.grad.nbytes for p in network.parameters())
    assert rank["optimiser"].value == sum(moment.nbytes for moment in moments)


def test_a_window_is_as_large_as_a_real_one():
    config = settings.load(["preset=tiny"])
    student = Weights.of(0, Wan(config.student.wan))
    actor = RolloutActor(config.student, config.window, encode_text, TinyCodec(), FixedWeights(student))
    rollout = Rollout(0, 0, PROMPTS[0], 1, 36, (WindowPlan(STUDENT, 24, 3, 0),))
    (window,) = (item for item in actor.windows([rollout]) if isinstance(item, Window))
    made = sum(x.nbytes for x in (window.context, window.latents, window.noisy))
    assert by_name(memory.shared_memory(run_shape_of(config)))["one window"].value == made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_actors_hold_and_compute_in_the_dtype_that_is_asked_for_and_hand_over_float32(dtype):
    config = settings.load(["preset=tiny", "stage=[ode,dmd]", f"rollout.dtype={str(dtype).removeprefix('torch.')}"])
    published = Weights(0, computing_of(config.rollout).cast(Wan(config.student.wan).state_dict()))
    actor = make_actor(stage_spec("dmd", config).actor, FixedWeights(published))
    rollout = Rollout(0, 0, PROMPTS[0], 1, 36, (WindowPlan(STUDENT, 24, 3, 0),))
    (window,) = (item for item in actor.windows([rollout]) if isinstance(item, Window))
    assert window.latents.dtype == window.noisy.dtype == torch.float32 and window.latents.isfinite().all()
    teacher = make_actor(stage_spec("ode", config).actor, None)
    for stage, network in (("dmd", actor.student), ("ode", teacher.teacher)):
        assert {p.dtype for p in network.parameters()} == {dtype}
        estimate = by_name(memory.actor_memory(run_shape_of(config), stage))["weights"].value
        assert estimate == sum(p.nbytes for p in network.parameters())


def test_while_a_block_is_appended_the_buffers_and_the_block_are_held():
    config = settings.load(["preset=tiny"])
    student, network = config.student, Wan(config.student.wan).requires_grad_(False)
    text = network.text_keys_values(encode_text([PROMPTS[0]]))
    block = torch.zeros(1, student.block_frames, *student.frame_shape)
    cache = RollingCache(student.wan, student.context_frames)
    while cache.window_frames < student.context_frames:
        cache = write_block(network, block, text, cache)
    past = cache.past(student.block_frames)
    own = network.keys_values(block, text, start=cache.frames, past=past)
    buffers = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for views in past for x in views}
    held = sum(buffers.values()) + sum(x.nbytes for layer in own for x in layer)
    config.rollout.batch = 1
    estimate = by_name(memory.actor_memory(run_shape_of(config), "dmd"))
    assert held == estimate["keys and values"].value + estimate["keys and values of the last block"].value


def test_trajectories_of_the_teacher_take_disk_and_of_memory_what_does_not_depend_on_their_number(tmp_path):
    few, many = (settings.load([*ON_EIGHT, "stage=ode", f"ode.pairs={pairs}"]) for pairs in (1600, 16000))
    assert memory.shared_memory(run_shape_of(few)) == memory.shared_memory(run_shape_of(many))
    assert rank_memory.rank_memory(run_shape_of(few), "ode") == rank_memory.rank_memory(run_shape_of(many), "ode")
    assert printed(memory.disk(run_shape_of(many))) == {"trajectories of the teacher": "335.46 GB"}
    assert "335.46 GB" in dry_run_text(many)
    given = settings.load([*ON_EIGHT, "stage=ode", "ode.pairs_dir=x"])
    assert not memory.disk(run_shape_of(given)) and flops.stage_cost(run_shape_of(given), "ode").actors == 0
    small = settings.load(["preset=tiny", "ode.pairs=20", f"run_dir={tmp_path}"])
    with inputs_of(small).trajectories.open() as pairs:
        shape = (small.student.horizon_frames, *small.student.frame_shape)
        for i in range(20):
            pairs.add([Trajectory(i, 0, 0, ODE, PROMPTS[i], i, torch.zeros(4, *shape), torch.zeros(shape))])
    (line,) = memory.disk(run_shape_of(small))
    assert line.value == pytest.approx(sum(f.stat().st_size for f in tmp_path.glob("ode_pairs/shard_*")), rel=0.002)


def test_the_rollouts_of_a_stage_cost_what_those_that_are_dispatched_do():
    config = settings.load(["preset=tiny", "dmd.steps=200", "rollout.horizon=sampled"])
    rollouts = config.dmd.steps * config.samples_per_update("dmd") // config.rollout.windows
    dispatcher = make_dispatcher(stage_spec("dmd", config))
    slow = 0.0
    for first in range(0, rollouts, config.rollout.batch):
        batch = dispatcher.rollouts(first)
        end = max(plan.start + config.window.frames for rollout in batch for plan in rollout.windows)
        slow += len(batch) * flops.rollout_flops(config.student, end)
    assert flops.stage_cost(run_shape_of(config), "dmd").actors == pytest.approx(slow, rel=0.03)


def test_twice_the_processes_take_half_the_time():
    config = settings.load(ON_EIGHT)
    assert flops.seconds(run_shape_of(config), 1e18, 4) == 2 * flops.seconds(run_shape_of(config), 1e18, 8)
    assert flops.seconds(run_shape_of(config), 989.4e12 * 0.4, 1) == 1


# -- the report -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["wan_1_3b", "tiny", "smoke"])
@pytest.mark.parametrize("stage", ["ode", "dmd", "grpo"])
def test_every_stage_of_every_preset_has_a_report_with_its_name(preset, stage):
    text = dry_run_text(settings.load([f"preset={preset}", f"stage={stage}"]))
    assert re.search(rf"(?m)^\S.*\b1\b.*\b{stage}\b", text) and f"\n  {stage:<8}" in text


def test_weights_that_are_not_opened_are_named():
    lines = dry_run_text(
        settings.load(["preset=wan_1_3b", "stage=dmd", "init=x", "vae=y", "dry_run=true"])
    ).splitlines()
    assert [line.partition(": ")[2] for line in lines if "not checked" in line] == ["teacher, init, vae"]


def test_the_report_says_who_would_run_where():
    text = dry_run_text(settings.load(["preset=wan_1_3b", "stage=dmd", "init=x", "cluster=h100_64_spot"]))
    for line in (
        "  learner         8 x 1 CPU, 1 GPU, on role=learner, ray.io/accelerator-type=H100",
        "  rollout        56 x 1 CPU, 0.75 GPU, on role=rollout, ray.io/accelerator-type=H100, first on "
        "ray.io/market-type=spot",
        "  role=learner, ray.io/accelerator-type=H100: 8 CPUs, 8 GPUs, nodes: 1 x 8 GPUs",
        "  role=rollout, ray.io/accelerator-type=H100: 56 CPUs, 56 GPUs, nodes: 7 x 8 GPUs",
    ):
        assert f"\n{line}\n" in text
    assert "CPU," not in dry_run_text(settings.load(["cluster=inline"])), "one process has nothing to place"


def test_what_does_not_fit_is_said():
    fits = [*ON_EIGHT, "stage=dmd"]
    assert "warning" not in dry_run_text(settings.load(fits))
    more = [*fits, "learner.micro_batch=1", "learner.checkpoint_activations=false"]
    assert "warning: " in dry_run_text(settings.load(more))
    crowded = dry_run_text(settings.load([*fits, "cluster.actor_gpus=0.1"]))
    assert crowded.count("warning: ") == 1, "of the processes of one GPU together, of which each alone fits"


def test_processes_that_share_a_gpu_are_added_up_and_samples_of_a_checkpoint_are_counted():
    given = ["preset=wan_1_3b", "cluster=h100_8", "stage=grpo", "grpo.init=x", "teacher=x", "checkpoint.every=1"]
    text = dry_run_text(settings.load(given))
    assert "\nMemory of one reward process, 6 in all, stage grpo\n" in text
    assert re.search(r"\n  rollout processes .*\n  reward processes .*\n  together ", text) and "warning" not in text
    work = run_shape_of(settings.load(given))
    lines = by_name(memory.shared_memory(work))
    assert lines["samples in a checkpoint"].value == memory.buffer_size(work)[0] > 20e9


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["cluster=laptop"], "cpu"),
        (["cluster=h100_8"], "h100"),
        (["preset=wan_1_3b"], "h100"),
        (["cluster=h100_8", "device_name=a100"], "a100"),
    ],
)
def test_without_a_name_the_device_is_what_the_processes_compute_on(arguments, expected):
    assert f"\ndevice_name={expected}: " in dry_run_text(settings.load(arguments))


def test_of_a_pool_that_sizes_itself_its_first_size_and_its_bounds_are_said():
    sized = ["autoscale.enabled=true", "autoscale.minimum=2", "autoscale.maximum=6", "cluster.rollout_actors=3"]
    added = set(dry_run_text(settings.load(sized)).splitlines()) - set(dry_run_text(settings.load([])).splitlines())
    assert ["3", "2", "6"] in [re.findall(r"\d+", line) for line in added]


def test_a_dry_run_makes_no_network_starts_no_ray_and_leaves_no_folder(tmp_path):
    """As a user types it. A network of this size would take 5.7 GB."""
    script = (
        "import sys, settings\n"
        "try:\n    settings.run_loop(None, settings.load(sys.argv[1:]))\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "import ray\nassert not ray.is_initialized()\n"
        "print('KB', next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))\n"
    )
    arguments = [*ON_EIGHT, "dry_run=true", f"run_dir={tmp_path}/run", f"teacher={tmp_path}/not/here"]
    shown = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=settings.ROOT, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
    assert "1,418,996,800" in shown.stdout
    assert int(shown.stdout.split("KB")[1]) < 2e6
    assert not (tmp_path / "run").exists()


def test_prompts_are_read_and_counted(tmp_path):
    (tmp_path / "p.txt").write_text("a cat on a mat\na cat on a mat\nno\n")
    text = dry_run_text(settings.load([f"prompts={tmp_path}/p.txt"]))
    (line,) = (line for line in text.splitlines() if "p.txt" in line)
    assert re.findall(r"\d+", line.partition("p.txt")[2]) == ["1", "1", "1"]
    with pytest.raises(ValueError, match=r"^prompts=.*none\.txt: "):
        dry_run_text(settings.load([f"prompts={tmp_path}/none.txt"]))


def test_guidance_leads_away_from_wans_own_negative_prompt_and_in_the_tiny_world_from_none():
    assert settings.load(["preset=wan_1_3b"]).negative_prompt == WAN_NEGATIVE_PROMPT
    assert settings.load(["preset=tiny"]).negative_prompt == ""
    assert settings.load(["preset=wan_1_3b", "prompt.negative=blurred"]).negative_prompt == "blurred"


@pytest.mark.proof
@pytest.mark.parametrize(
    "sizes",
    [
        ["rollout.frames=99999", "rollout.batch=1000", "rollout.windows=900", "buffer.windows=1000000",
         "buffer.max_age=100000"],
        ["window.law=priority(0.5)", "rollout.frames=99999"],
        ["stage=grpo", "sentinel.every=100000", "group.forks=4"],
        ["stage=grpo", "grpo.groups=100000", "grpo.minibatches=1", "group.forks=1", "buffer.windows=1000000"],
        ["cluster.rollout_actors=100000", "cluster.actor_gpus=1", "cluster.node_gpus=1"],
        ["cluster.rollout_actors=100000", "cluster.actor_gpus=0.3", "cluster.node_gpus=8", "autoscale.enabled=true",
         "autoscale.maximum=100000"],
        ["ode.pairs=2147483647", "dmd.steps=2147483647", "ode.steps=2147483647"],
        ["preset=wan_1_3b", "student.height=4096", "student.width=4096", "stage=dmd", "init=x"],
    ],
)  # fmt: skip
def test_a_dry_run_of_the_largest_sizes_takes_seconds(sizes):
    config, started = settings.load(sizes), time.process_time()
    assert "Memory" in dry_run_text(config)
    assert time.process_time() - started < 15.0
