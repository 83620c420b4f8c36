"""What is kept of stage ode's trajectories, and what of them is made again: no network, no process."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import settings
from cluster.launch import preflight
from cluster.runs.factory import make_dispatcher, make_supply
from cluster.runs.stage_spec import inputs_of, stage_spec
from cluster.runs.stage_texts import stage_texts
from cluster.runs.trajectory_folder import TrajectoriesFailed
from models.checkpoints.weight_files import save_weights, stored_tensors
from models.errors import ConfigError
from models.records import ODE, Trajectory
from tests.fakes.commands import replaced
from tests.fakes.simulated_supply import deliver, opened
from tests.fakes.small_runs import small


def config_of(pairs=27, batch=4, **changes):
    config = small()
    config.ode = replace(config.ode, pairs=pairs, first_pairs=5, steps=40, **changes)
    config.rollout = replace(config.rollout, batch=batch)
    config.buffer.windows = 8
    return config


def trajectories(config, dispatch):
    """What a real actor would make, all numbers the trajectory's own."""
    frames = (config.student.horizon_frames, *config.student.frame_shape)
    for rollout in dispatch.rollouts:
        states = torch.full((len(config.student.timesteps), *frames), float(rollout.id))
        yield Trajectory(rollout.id, rollout.attempt, 0, ODE, rollout.prompt, rollout.seed, states, states[0])


def taken_from(config, supply):
    """Trajectories one by one, as the learner asks for them."""
    for number in range(10**6):
        while (taken := supply.take(number, ODE, 1)) is None:
            dispatch = supply.next()
            if dispatch is None:
                return
            for trajectory in trajectories(config, dispatch):
                deliver(supply, dispatch, trajectory)
        yield opened(taken[0])


@pytest.mark.parametrize(("pairs", "batch"), [(27, 4), (8, 8), (5, 8), (9, 1)])
def test_the_order_is_that_in_which_a_run_that_makes_everything_takes_them(pairs, batch):
    config = config_of(pairs, batch)
    taken = [trajectory.rollout for trajectory in taken_from(config, make_supply(stage_spec("ode", config)))]
    assert taken == inputs_of(config).trajectories.order and sorted(taken) == list(range(pairs))


@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_on_disk_already_updates_draw_from_the_same_trajectories_and_only_missing_ones_are_made(
    tmp_path, seed
):
    config = config_of(27)
    config.run_dir, config.teacher = str(tmp_path), str(settings.ROOT / "assets/tiny/teacher.safetensors")
    draw, whole = random.Random(seed), make_supply(stage_spec("ode", config))
    kept = draw.sample(range(27), draw.randrange(27))
    everything = {trajectory.rollout: trajectory for trajectory in taken_from(config, whole)}
    with inputs_of(config).trajectories.open() as before:
        before.add([everything[number] for number in kept])
    with inputs_of(config).trajectories.open() as pairs:
        assert sorted(pairs.entries) == sorted(kept)
        supply = make_supply(stage_spec("ode", config), kept=sorted(pairs.entries))
        coming = taken_from(config, supply)
        for step in range(config.ode.steps):
            arrived = config.ode.pairs_at(step)
            while len(pairs) < arrived:
                pairs.add([next(coming)])
            assert [pairs[place].rollout for place in range(arrived)] == inputs_of(config).trajectories.order[:arrived]
        assert all((pair.states == pair.rollout).all() for pair in pairs)
        assert supply.buffer.counts["dispatched"] == 27 - len(kept)


def test_a_run_on_given_trajectories_prepares_their_prompts_and_not_those_of_its_own_rollouts(tmp_path):
    made, teacher = config_of(27), str(settings.ROOT / "assets/tiny/teacher.safetensors")
    made.run_dir, made.teacher, made.seed = str(tmp_path / "made"), teacher, 5
    with inputs_of(made).trajectories.open() as pairs:
        pairs.add(list(taken_from(made, make_supply(stage_spec("ode", made)))))
    given = config_of(27, pairs_dir=str(tmp_path / "made/ode_pairs"))
    given.run_dir, given.teacher = str(tmp_path / "given"), teacher
    assert prompts_of(made) <= set(stage_texts(stage_spec("ode", given)))
    given.ode = replace(given.ode, steps=3)  # comes to know 7 of them
    assert len(set(stage_texts(stage_spec("ode", given))) - {given.negative_prompt}) <= 7


def prompts_of(config):
    return {trajectory.prompt for trajectory in taken_from(config, make_supply(stage_spec("ode", config)))}


def test_a_trajectory_is_asked_for_with_its_own_prompt_and_seed_whatever_else_is_missing():
    config = config_of()
    whole = make_dispatcher(stage_spec("ode", config))
    some = make_dispatcher(stage_spec("ode", config), kept=[n for n in range(27) if n not in (3, 11, 12, 26)])
    assert some.rollouts(0) == [whole.rollouts(n)[0] for n in (3, 11, 12, 26)]
    assert not some.rollouts(4) and len(whole.rollouts(0)) == 4


def described_encoder(folder, tokens: bytes = b"") -> Path:
    """The files that say which encoder it is; nobody loads it."""
    for name, content in (
        ("text_encoder/config.json", b'{"model_type": "umt5", "d_model": 4096}'), ("tokenizer/spiece.model", tokens)
    ):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_at_wans_size_the_48_steps_of_the_solver_hold_all_four_levels(tmp_path):
    teacher = settings.ROOT / "assets/tiny/teacher.safetensors"
    config = settings.load([f"text_encoder={described_encoder(tmp_path)}", "preset=wan_1_3b", f"teacher={teacher}"])
    made_by = inputs_of(config).trajectories.origin()
    assert (made_by.solver_steps, made_by.shift, made_by.indices) == (48, 5.0, [0, 12, 24, 36, -1])
    assert (made_by.guidance, made_by.dtype, made_by.shape) == (6.0, "bfloat16", [21, 16, 60, 104])


def test_trajectories_of_another_text_encoder_are_others(tmp_path):
    common = ["preset=wan_1_3b", f"teacher={settings.ROOT}/assets/tiny/teacher.safetensors"]
    one, same, other = (
        inputs_of(
            settings.load([*common, f"text_encoder={described_encoder(tmp_path / name, tokens)}"])
        ).trajectories.origin()
        for name, tokens in (("one", b"1"), ("same", b"1"), ("other", b"2"))
    )
    assert one == same and "another text_encoder (" in one.difference(other)


# -- before anything starts -------------------------------------------------------------------------------------------

SMALL = ["preset=smoke", "cluster=inline", "stage=ode"]


@pytest.fixture
def made(tmp_path):
    """A run that has eight trajectories, with a teacher of its own."""
    teacher = tmp_path / "teacher.safetensors"
    save_weights(dict(stored_tensors(settings.ROOT / "assets/tiny/teacher.safetensors")), teacher, {"seed": 0})
    arguments = [*SMALL, f"teacher={teacher}", f"run_dir={tmp_path}/run"]
    config = settings.load(arguments)
    preflight(config)
    with inputs_of(config).trajectories.open() as pairs:
        for trajectory in taken_from(config, make_supply(stage_spec("ode", config))):
            pairs.add([trajectory])
    return arguments, tmp_path / "run/ode_pairs"


def another_teacher(arguments):
    """The same file with other weights in it."""
    path = settings.load(arguments).teacher_path
    save_weights({name: tensor * 1.001 for name, tensor in stored_tensors(path)}, path, {"seed": 0})


def test_the_same_run_goes_on_with_its_trajectories_and_files_may_be_of_another_size(made):
    arguments, _ = made
    preflight(settings.load([*arguments, "ode.shard_mb=2"]))


def test_trajectories_of_another_teacher_are_refused_before_anything_starts(made):
    arguments, folder = made
    another_teacher(arguments)
    with pytest.raises(TrajectoriesFailed, match=rf"^run_dir: {folder} .*teacher"):
        preflight(settings.load(arguments))


def test_a_new_run_takes_the_trajectories_of_another_and_only_of_the_same_teacher_and_settings(made, tmp_path):
    arguments, folder = made
    given = replaced(arguments, f"run_dir={tmp_path}/new", f"ode.pairs_dir={folder}")
    for changed, named in (
        (["ode.guidance=3"], r"ode\.guidance \(1\.5, here 3\.0\)"),
        (["ode.pairs=9", "ode.first_pairs=9"], r"\b1\b.*\b9\b"),
        ([f"ode.pairs_dir={tmp_path}/none"], f"{tmp_path}/none"),
    ):
        with pytest.raises(ValueError, match=rf"^ode\.pairs_dir.*{named}") as caught:
            preflight(settings.load(replaced(given, *changed)))
        assert "\n" not in str(caught.value) and not (tmp_path / "new").exists()
    trains_its_own = [one for one in given if not one.startswith("teacher=")]
    with pytest.raises(ConfigError) as refused:
        preflight(settings.load(replaced(trains_its_own, "stage=[teacher,ode]")))
    assert refused.value.key == "ode.pairs_dir"
    config = settings.load(given)
    preflight(config)
    assert len(inputs_of(config).trajectories.open()) == 8
    another_teacher(arguments)
    with pytest.raises(TrajectoriesFailed, match="teacher"):
        inputs_of(config).trajectories.open()


def test_more_trajectories_than_the_disk_has_room_for_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"^ode\.pairs=999999999: .*\b103,680 GB"):
        preflight(settings.load([*SMALL, "ode.pairs=999999999", f"run_dir={tmp_path}/run"]))


@pytest.mark.parametrize(
    ("argument", "named"), [("ode.dtype=float16", "ode.dtype="), ("ode.shard_mb=0", "ode.shard_mb=")]
)
def test_a_mistake_in_how_they_are_kept_is_answered_in_one_line_that_names_the_key(argument, named):
    with pytest.raises(ValueError, match=named):
        settings.load([argument])
