"""What a person may type, and what is answered when it cannot be."""

from importlib import import_module
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

import settings
from actors.generation.generation_config import GenerationConfig
from cluster.config.plan_config import PlannedRun
from cluster.config.run_config import Config
from cluster.config.scan_config import Scan
from convert import ConvertOptions
from evaluation.evaluation_config import EvaluationConfig
from models.errors import ConfigError
from models.keys import check_ranges

TrialOptions = import_module("rewards.try").TrialOptions
SCHEMAS = [Config, Scan, PlannedRun, GenerationConfig, ConvertOptions, TrialOptions, EvaluationConfig]


def test_presets_groups_and_keys_compose_in_hydra_syntax():
    config = settings.load(["preset=smoke", "cluster=inline", "window=prefix", "dmd.steps=7"])
    assert (config.cluster.kind, config.window.law, config.dmd.steps) == ("inline", "prefix(1)", 7)
    assert config.stages == ["teacher", "ode", "dmd", "grpo"]


def test_a_law_with_numbers_needs_no_second_pair_of_quotes():
    assert settings.load(["window.law=beta(1, 2)"]).window.law == "beta(1, 2)"


@pytest.mark.parametrize(
    "key",
    [
        "run_dir",
        "teacher",
        "base",
        "prompts",
        "vae",
        "text_encoder",
        "text_cache",
        "ode.pairs_dir",
        "reward.learned.videoalign_code",
    ],
)
@given(text=st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1).map(lambda text: f"/{text}/x"))
@hypothesis.settings(max_examples=10)
def test_a_path_is_taken_as_typed_whatever_its_characters(key, text):
    config: Any = settings.load([f"{key}={text}"])
    for name in key.split("."):
        config = getattr(config, name)
    assert Path(config) == Path(text)


@pytest.mark.parametrize(
    "name", ["a=b", "run (1)", "x,y", "#1", "a@b", "50%", "${x}", "beta(1, 2)", "[x]", "{a: b}", "it's"]
)
def test_special_characters_in_a_path_need_no_second_pair_of_quotes(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert settings.load([f"run_dir={name}"]).run_dir == str(tmp_path / name)
    assert settings.load([f"run_dir='{name}'" if "'" not in name else f'run_dir="{name}"']).run_dir == str(
        tmp_path / name
    )


def test_null_is_the_absence_of_an_optional_path():
    assert settings.load(["stage=dmd", "init=null"]).init is None


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["seed=1", "seed=2"], "seed"),
        (["seed=1", "run_dir=x", "seed=1"], "seed"),
        (["preset=smoke", "preset=tiny"], "preset"),
        (["dmd.student_lr=1e-4", "dmd.optimizer.lr=1e-4"], "dmd.optimizer.lr"),
        (["init=x", "init=null"], "init"),
        (["reward.terms.no_cut=1", "reward.terms.no_cut=2"], "reward.terms.no_cut"),
    ],
)
def test_a_key_that_is_given_twice_is_refused(arguments, key):
    with pytest.raises(ConfigError) as error:
        settings.load(arguments)
    assert error.value.key == key and error.value.problem.startswith("given twice")


@pytest.mark.parametrize(("first", "second"), [("a.pt", "b.pt"), ("[a.pt,b.pt]", "owner/name")])
def test_a_lora_that_is_given_twice_is_written_as_a_list_in_the_cure(first, second):
    base = ["source=x", "out=y"]
    with pytest.raises(ConfigError) as error:
        settings.read_keys([*base, f"lora={first}", f"lora={second}"], ConvertOptions)
    _, cured, _ = error.value.fix.split("'")
    assert error.value.key == "lora"
    names = settings.read_keys([*base, cured], ConvertOptions).lora_names
    assert names == [*first.strip("[]").split(","), second]


def test_a_teacher_beside_the_stage_that_trains_one_is_refused():
    with pytest.raises(ConfigError) as error:
        settings.load(["stage=[teacher,ode]", "teacher=assets/tiny/teacher.safetensors"])
    assert error.value.key == "teacher"
    settings.load(["stage=ode", "teacher=assets/tiny/teacher.safetensors"])


def test_a_group_and_a_key_of_it_are_two_keys():
    config = settings.load(["window=prefix", "window.frames=9", "cluster=ray", "cluster.kind=inline"])
    assert (config.window.law, config.window.frames, config.cluster.kind) == ("prefix(1)", 9, "inline")


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda one: one.__name__)
def test_every_number_of_every_command_has_bounds(schema):
    bases = {GenerationConfig: {"prompt": "x", "out": "x"}, ConvertOptions: {"source": "x", "out": "y"},
             TrialOptions: {"clips": True}, EvaluationConfig: {"videos": "x"}}  # fmt: skip
    for name, key in settings.keys_of(schema).items():
        whole, number = ("int" in str(key.kind), "float" in str(key.kind))
        if not (whole or number):
            continue
        owner: Any = (made := schema(**bases.get(schema, {})))
        *groups, last = name.split(".")
        for group in groups:
            owner = getattr(owner, group)
        huge = 10**30 if whole else 1e300
        shapes = {"list[list": [[0, huge]], "list": [huge], "dict": {"a": huge}}
        setattr(owner, last, next((value for shape, value in shapes.items() if shape in str(key.kind)), huge))
        with pytest.raises(ConfigError) as error:
            check_ranges(made)
        assert error.value.key.endswith(name)


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda one: one.__name__)
def test_null_is_refused_by_every_key_of_text_without_none_and_by_one_of_each_other_type(schema):
    keys = [key for key in settings.keys_of(schema).values() if key.hint is key.kind is not Any]
    others = {key.hint: key.name for key in keys if key.hint is not str}
    for name in [key.name for key in keys if key.hint is str] + list(others.values()):
        with pytest.raises(ConfigError) as error:
            settings.read_keys([f"{name}=null"], schema)
        assert error.value.key == name


@pytest.mark.parametrize("key", ["run_dir", "stage", "teacher", "cluster.rollout_labels", "wandb.project"])
def test_null_for_a_key_without_none_makes_no_run(key):
    with pytest.raises(ConfigError) as error:
        settings.load([f"{key}=null"])
    assert error.value.key == key and f"{key}=VALUE" in error.value.fix


@pytest.mark.parametrize("quote", "'\"")
def test_a_folder_that_is_called_null_is_named_in_quotes(quote, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert settings.load([f"run_dir={quote}null{quote}"]).run_dir == str(tmp_path / "null")


def test_what_is_given_on_the_command_line_beats_the_preset():
    assert settings.load(["preset=smoke", "rollout.frames=48"]).rollout.frames == 48


def test_a_window_file_names_a_law():
    assert settings.load(["window=priority"]).window.law == "priority(0.5)"


@pytest.mark.parametrize("preset", sorted(path.stem for path in (settings.ROOT / "conf/preset").glob("*.yaml")))
def test_every_shipped_preset_is_valid(preset):
    settings.load([f"preset={preset}"], schema=Scan if preset == "scan" else Config)


def rejected(*arguments: str) -> str:
    """Return the key that the one line of the error names."""
    with pytest.raises(ValueError) as caught:
        settings.load(arguments)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    return caught.value.key if isinstance(caught.value, ConfigError) else str(caught.value)


@pytest.mark.parametrize(
    ("argument", "key"),
    [
        ("window.foo=1", "window.foo"),
        ("foo=1", "foo"),
        ("window.law=gamma(2)", "window.law"),
        ("window.law=beta(1)", "window.law"),
        ("window.law=beta(1", "window.law"),
        ("window.law=beta(-1,1)", "window.law"),
        ("window.law=no.such.module", "window.law"),
        ("dmd.steps=many", "dmd.steps"),
        ("dmd.student_lr=.inf", "dmd.optimizer.lr"),
        ("cluster.timeout_s=.inf", "cluster.timeout_s"),
        ("cluster.slow_factor=.nan", "cluster.slow_factor"),
        ("stage=ode,dmd", "stage"),
        ("run_dir=", "run_dir"),
        ("nonsense", "nonsense"),
        ("+foo=1", "+foo"),
        ("~seed", "~seed"),
        ("--hlep", "--hlep"),
        ("dmd=3", "dmd"),
        ("cluster.learner_labels=role=learner", "cluster.learner_labels"),
        ("cluster.learner_labels={role:}", "cluster.learner_labels"),
        ("cluster.learner_labels=role:learner", "cluster.learner_labels"),
        ("cluster.learner_labels.role=learner", "cluster.learner_labels.role"),
        ("cluster.rollout_labels={role:[a]}", "cluster.rollout_labels"),
        ("preset=scan", "preset"),
    ],
)
def test_a_mistake_in_one_argument_names_its_key(argument, key):
    assert key in rejected(argument)


@pytest.mark.parametrize(
    ("argument", "suggested"),
    [
        ("rollout.frame=9", "rollout.frames=9"),
        ("dmd.critic_rl=1", "dmd.critic_lr=1"),
        ("sed=1", "seed=1"),
        ("widow.frames=9", "window.frames=9"),
        ("preset=smok", "preset=smoke"),
        ("preset=wan_1.3b", "preset=wan_1_3b"),
        ("window=beta_erly", "window=beta_early"),
        ("cluster=h100-8", "cluster=h100_8"),
        ("promt=1", "prompts=1"),
        ("dmd.studnet_lr=1", "dmd.optimizer.lr=1"),
    ],
)
def test_the_nearest_key_or_choice_is_suggested(argument, suggested):
    with pytest.raises(ConfigError) as error:
        settings.load([argument])
    assert error.value.key == argument.partition("=")[0] and suggested in error.value.fix
