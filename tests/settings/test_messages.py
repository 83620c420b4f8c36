"""Every command answers --help at once, and every mistake in one line of one form."""

import json
import re
import resource
import subprocess
import sys

import pytest

import demo
import settings
from cluster.config.plan_config import PlannedRun
from cluster.config.run_config import Config
from cluster.config.scan_config import Scan
from models.errors import ConfigError
from settings.help import COMMON, help_page
from settings.key_table import nearest
from tests.fakes.commands import mistake, run_script

COMMANDS = ["train.py", "tune.py", "demo.py", "plan.py", "generate.py", "convert.py", "evaluate.py", "rewards.try",
            "benchmarks.rollout_fps"]  # fmt: skip
FORM = re.compile(r"(?P<key>[^=: ]+)(=.*)?: \S.*\. Fix: \S.*\.")
WRONG = ["nonsense", "+seed=1", "~seed=1", "--hlep", "speed=", "no.such.key=1", "out", "=1"]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("argument", WRONG)
def test_every_parse_error_of_every_command_has_the_one_form(command, argument, capsys):
    line = mistake(capsys, command, argument)
    assert FORM.fullmatch(line), line


@pytest.mark.parametrize(
    ("command", "argument"),
    [
        ("train.py", "preset=smok"),
        ("train.py", "window=unifrom"),
        ("train.py", "cluster=h100"),
        ("train.py", "dmd.steps=many"),
        ("train.py", "dmd.steps=1,2"),
        ("train.py", "stage=ode,dmd"),
        ("train.py", "student={height: 3}"),
        ("train.py", "reward.terms=[1]"),
        ("tune.py", "window=uniform,prefx"),
        ("tune.py", "stage=dmd"),
        ("tune.py", "dmd.steps=1,many"),
        ("demo.py", "stage=ode"),
        ("demo.py", "window=prefix"),
        ("plan.py", "plan.block_s=fast"),
        ("plan.py", "plan.rollout_gpus=7"),
        ("generate.py", "preset=smok"),
        ("train.py", "widnow=prefix"),
        ("train.py", "presett=tiny"),
        ("generate.py", "seconds=1e9999"),
        ("generate.py", "seeds=3"),
        ("generate.py", "from=missing.json"),
        ("generate.py", "lora=missing.safetensors"),
        ("generate.py", "vae=missing.pth"),
        ("convert.py", "shard_gb=big"),
        ("convert.py", "format=gguf"),
        ("rewards.try", "reward.upsample=big"),
        ("benchmarks.rollout_fps", "model=wan"),
    ],
)
def test_a_wrong_value_names_key_and_value_as_typed(command, argument, capsys):
    needed = {"generate.py": ["prompt=x", "out=x.mp4"], "convert.py": ["source=x", "out=y"]}.get(command, [])
    line = mistake(capsys, command, *needed, argument)
    typed = argument if command != "tune.py" else argument.partition("=")[0]  # of several values it names one
    assert FORM.fullmatch(line) and line.startswith(typed), line


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("train.py", ["seed=1", "seed=2"]),
        ("demo.py", ["seed=1", "seed=2"]),
        ("tune.py", ["run_dir=a", "run_dir=b"]),
        ("tune.py", ["dmd.steps=1", "dmd.steps=1,2"]),
        ("tune.py", ["dmd.steps=1,2", "dmd.steps=3,4"]),
        ("plan.py", ["plan.learner_gpus=2", "plan.learner_gpus=4"]),
        ("generate.py", ["prompt=x", "out=x.mp4", "lora=a", "lora=b"]),
        ("convert.py", ["source=x", "out=y", "source=z"]),
        ("evaluate.py", ["videos=a", "videos=b"]),
        ("evaluate.py", ["checkpoint=a", "checkpoint=b", "prompt=x"]),
        ("evaluate.py", ["checkpoint=a", "seed=1", "seed=2", "prompt=x"]),
        ("evaluate.py", ["preset=paper", "preset=paper"]),
        ("rewards.try", ["clips=true", "clips=false"]),
    ],
)
def test_every_command_refuses_a_key_given_twice(command, arguments, capsys):
    line, repeated = mistake(capsys, command, *arguments), [argument.partition("=")[0] for argument in arguments]
    assert (form := FORM.fullmatch(line)) and repeated.count(form["key"]) == 2, line


REFUSED = {
    "train.py": ["dmd.steps=many"], "tune.py": ["dmd.steps=1,many"], "demo.py": ["window.frames=many"],
    "plan.py": ["plan.block_s=fast"], "generate.py": ["prompt=x", "out=x.mp4", "seed=-1"],
    "convert.py": ["source=x", "out=y", "shard_gb=big"], "evaluate.py": ["videos=x", "workers=0"],
    "rewards.try": ["clips=true", "reward.upsample=big"], "benchmarks.rollout_fps": ["repeats=many"],
}  # fmt: skip
"""Arguments of each command, the last of which has a wrong value."""
MISTAKES = [*REFUSED.items(), ("generate.py", ["out=x.mp4", "prompt=a whale sings"])]
"""The same, and a prompt outside the world of the student."""
TYPED = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from tests.fakes.commands import run_script

def typed(command, *arguments):
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as error:
        status = run_script(command, *arguments)
    return status, out.getvalue(), error.getvalue(), sorted(sys.modules)

asked = json.loads(sys.argv[1])
print(json.dumps([[typed(command, "--help") for command, _ in asked], [typed(one, *given) for one, given in asked]]))
"""


def answers(asked):
    """Give help, and the answer to a mistake, of commands: status, both streams, and the modules of their process."""
    command = [sys.executable, "-c", TYPED, json.dumps(asked)]
    shown = subprocess.run(command, cwd=settings.ROOT, capture_output=True, text=True, timeout=120, check=True)
    return dict(zip([repr(one) for one in asked], zip(*json.loads(shown.stdout), strict=True), strict=True))


@pytest.fixture(scope="module")
def answered():
    """All answers, in two processes: the benchmarks may import torch. Help comes first, since mistakes import Hydra."""
    benchmarks = [one for one in MISTAKES if one[0].startswith("benchmarks")]
    return answers(benchmarks) | answers([one for one in MISTAKES if one not in benchmarks])


@pytest.mark.parametrize("typed", MISTAKES, ids=lambda typed: typed[0])
def test_help_is_printed_without_torch_ray_and_hydra_and_a_mistake_without_torch_and_ray(answered, typed):
    (helped, out, said, at_help), (refused, _, line, at_mistake) = answered[repr(typed)]
    assert (helped, refused) == (0, 2) and typed[0] in out and said == "" and line.count("\n") == 1
    torch = set() if typed[0].startswith("benchmarks") else {"torch", "diffusers", "transformers"}
    assert not {"ray", "hydra", *torch} & {*at_help} and not {"ray", *torch} & {*at_mistake}


@pytest.mark.proof
@pytest.mark.parametrize(("command", "arguments"), [one for one in MISTAKES if not one[0].startswith("benchmarks")])
def test_a_mistake_is_answered_within_a_second(command, arguments):
    """Of processor time, which other processes do not prolong, of the best of three."""
    script = [command] if command.endswith(".py") else ["-m", command]
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run = [sys.executable, *script, *arguments]
        assert subprocess.run(run, cwd=settings.ROOT, capture_output=True, timeout=60).returncode == 2
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    assert min(times) < 1.0


@pytest.mark.parametrize("schema", [Config, Scan, PlannedRun])
def test_default_help_shows_the_keys_that_people_change_and_all_shows_every_one(schema):
    keys, few, every = settings.keys_of(schema), help_page("", schema, {}), help_page("", schema, {}, "all")
    assert 50 <= sum(f"\n  {name} " in few for name in keys) <= 75
    assert all(f"\n  {key.name} " in every and key.doc in every for key in keys.values())


def test_the_common_keys_exist():
    assert settings.keys_of(Scan).keys() | settings.keys_of(PlannedRun).keys() >= COMMON


@pytest.mark.parametrize(("topic", "others"), [("dmd", "grpo"), ("window", "dmd"), ("buffer", "window")])
def test_help_of_a_group_lists_its_keys_only(topic, others, capsys):
    assert run_script("train.py", "--help", topic) == 0
    shown = capsys.readouterr().out
    names = [name for name in settings.keys_of(Config) if name.startswith(f"{topic}.")]
    assert all(f"  {name} " in shown for name in names) and f"  {others}." not in shown


@pytest.mark.parametrize(("command", "fixed"), [("demo.py", demo.FIXED), ("tune.py", ("stage", "debug.rollout_only"))])
def test_help_leaves_out_the_keys_that_the_command_sets_itself(command, fixed, capsys):
    assert run_script(command, "--help", "all") == 0
    shown = capsys.readouterr().out
    assert not any(re.search(rf"^ +{re.escape(name)}[ =]", shown, re.MULTILINE) for name in fixed)


def test_help_of_an_unknown_group_names_the_nearest(capsys):
    line = mistake(capsys, "train.py", "--help", "dmb")
    assert FORM.fullmatch(line) and "--help dmd" in line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dmd.step", "dmd.steps"),
        ("grpo.step", "grpo.steps"),
        ("dmd.lr", "dmd.optimizer.lr"),
        ("student_lr", "dmd.optimizer.lr"),
        ("dmd.studnet_lr", "dmd.optimizer.lr"),
        ("ruin_dir", "run_dir"),
        ("steps", None),
        ("learning_rate", None),
        ("dmd.learning_rate", None),
        ("dmd.grad_clip_norm", "dmd.optimizer.grad_clip"),
        ("xyzzy", None),
    ],
)
def test_the_nearest_key_is_of_the_same_group_and_none_where_it_is_not_close(text, expected):
    assert nearest(text, settings.keys_of(Config)) == expected


def test_an_end_that_several_keys_share_names_them_all(capsys):
    line = mistake(capsys, "train.py", "steps=3")
    assert FORM.fullmatch(line) and all(f" {group}.steps" in line for group in ("ode", "dmd", "grpo"))


def test_a_key_that_a_command_sets_itself_is_a_mistake():
    with pytest.raises(ConfigError) as error:
        settings.load(["window.law=uniform"], "demo", fixed=("window.law",))
    assert error.value.key == "window.law"
