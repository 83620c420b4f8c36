"""The prompts of a run: said once, kept for as long as it lives."""

import re
import socket

import pytest

import settings
from cluster.runs.factory import make_dispatcher
from cluster.runs.stage_spec import inputs_of, stage_spec
from cluster.runs.stage_texts import stage_texts
from models.errors import ConfigError
from models.worlds import tiny_prompts
from tests.fakes.commands import mistake
from tests.fakes.endpoint import longer, served

UNKNOWN = "a cat on a mat"
"""A prompt that the tiny world cannot show."""


def run(tmp_path, *arguments):
    return settings.load([f"run_dir={tmp_path}/run", f"prompts={tmp_path}/given.txt", *arguments])


def check_prompts(config):
    inputs_of(config).prompts.check(config.sentinel.prompts if "grpo" in config.stages else 0, not config.in_wan_world)


def given(tmp_path, *lines: str) -> None:
    (tmp_path / "given.txt").write_text("".join(f"{line}\n" for line in lines))


def test_a_run_says_what_it_dropped_once_and_keeps_its_prompts_whatever_becomes_of_the_file(tmp_path):
    given(tmp_path, "a cat on a mat", "no", "a dog in a bog")
    config = run(tmp_path)
    (line,) = inputs_of(config).prompts.prepare()
    name, _, counts = line.partition(": ")
    assert name == f"prompts={tmp_path}/given.txt" and re.findall(r"\d+", counts) == ["2", "1"]
    given(tmp_path, "a bird in the word")
    assert inputs_of(config).prompts.prepare() == []
    assert list(inputs_of(config).prompts.training()) == ["a cat on a mat", "a dog in a bog"]


def test_rollouts_of_stages_ode_and_dmd_are_of_these_prompts(tmp_path):
    texts = [f"a cat on mat {i}" for i in range(5)]
    given(tmp_path, *texts)
    for stage in ("ode", "dmd"):
        dispatcher = make_dispatcher(stage_spec(stage, run(tmp_path)))
        assert {rollout.prompt for i in range(20) for rollout in dispatcher.rollouts(8 * i)} == set(texts)


def test_sentinels_watch_prompts_that_stage_grpo_does_not_train_on(tmp_path):
    given(tmp_path, *(f"a cat on mat {i}" for i in range(20)))
    training, watched = inputs_of(run(tmp_path, "stage=grpo", "sentinel.prompts=4")).prompts.groups(4)
    assert list(watched) == [f"a cat on mat {i}" for i in range(4)]
    assert set(training).isdisjoint(watched) and len(training) == 16


def test_evaluations_watch_the_first_prompts_in_turn_which_the_learner_encodes(tmp_path):
    texts = [f"a cat on mat {i}" for i in range(3)]
    given(tmp_path, *texts)
    for videos, expected in ((2, texts[:2]), (5, [*texts, *texts[:2]])):
        config = run(tmp_path, "evaluation.every=1", f"evaluation.prompts={videos}", "dmd.steps=1", "rollout.batch=1")
        spec = stage_spec("dmd", config)
        assert list(spec.evaluation.prompts) == expected and set(expected) <= set(stage_texts(spec))
    assert stage_spec("dmd", run(tmp_path)).evaluation is None


def test_evaluations_of_the_tiny_world_are_of_prompts_that_stage_grpo_holds_out(tmp_path):
    config = settings.load([f"run_dir={tmp_path}", "evaluation.every=1", "evaluation.prompts=8"])
    prompts = stage_spec("dmd", config).evaluation.prompts
    assert prompts == tiny_prompts.SENTINEL_PROMPTS + tiny_prompts.SENTINEL_PROMPTS[:2]


def test_too_few_prompts_for_the_sentinels_are_refused(tmp_path):
    given(tmp_path, *(f"a cat on mat {i}" for i in range(8)))
    with pytest.raises(ConfigError, match=r"^sentinel\.prompts=8: .*\b8 prompts"):
        check_prompts(run(tmp_path, "stage=grpo", "sentinel.prompts=8"))
    assert not (tmp_path / "run").exists()


def test_prompts_that_the_tiny_world_cannot_show_are_refused_by_name(tmp_path):
    given(tmp_path, tiny_prompts.PROMPTS[0], UNKNOWN)
    with pytest.raises(ConfigError) as error:
        check_prompts(run(tmp_path))
    assert error.value.key == "prompts" and UNKNOWN in str(error.value)
    check_prompts(run(tmp_path, "preset=wan_1_3b"))
    given(tmp_path, *tiny_prompts.PROMPTS[:9])
    check_prompts(run(tmp_path))
    with pytest.raises(ConfigError, match=r"^prompt\.url="):
        check_prompts(run(tmp_path, "prompt.url=http://127.0.0.1:9/v1"))


def test_a_mistake_in_the_file_ends_the_command_before_a_folder_is_claimed(tmp_path, capsys):
    line = mistake(capsys, "train.py", f"run_dir={tmp_path}/run", f"prompts={tmp_path}/none.txt")
    assert line.startswith(f"prompts={tmp_path}/none.txt: ")
    assert not (tmp_path / "run").exists()


def test_without_a_file_the_prompts_are_the_tiny_worlds():
    config = settings.load([])
    assert inputs_of(config).prompts.prepare() == [] and inputs_of(config).prompts.training() == tiny_prompts.PROMPTS
    assert inputs_of(config).prompts.groups(4) == (tiny_prompts.TRAINING_PROMPTS, tiny_prompts.SENTINEL_PROMPTS)


def extending(tmp_path, url: str):
    return run(tmp_path, "preset=wan_1_3b", f"prompt.url={url}", "prompt.retries=0", "prompt.parallel=1")


def test_an_endpoint_that_answers_less_than_half_is_refused_and_what_it_answered_is_kept(tmp_path):
    """A run would train on the short prompts for good: it keeps its prompts."""
    given(tmp_path, *(f"a cat on mat {i}" for i in range(5)))
    alive = {"a cat on mat 0", "a cat on mat 1"}

    def answer(body, _):
        return (200, longer(body)) if body["messages"][1]["content"] in alive else (404, {})

    with served(answer) as url:
        config = extending(tmp_path, url)
        with pytest.raises(ConfigError) as error:
            inputs_of(config).prompts.prepare()
        assert error.value.key == "prompt.url" and re.findall(r"\b[345]\d*\b", error.value.problem)[:3] == [
            "3",
            "5",
            "404",
        ]
        assert not (tmp_path / "run/prompts.txt").exists()
        alive.add("a cat on mat 2")
        assert re.findall(r"\b\d\b", inputs_of(config).prompts.prepare()[1])[:3] == ["3", "1", "2"]
    plain = {f"a cat on mat {i}" for i in range(5)}
    assert len(set(inputs_of(config).prompts.training()) - plain) == 3


def test_an_endpoint_that_is_dead_is_refused_with_its_key_and_the_reason(tmp_path):
    given(tmp_path, "a cat on a mat")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        config = extending(tmp_path, f"http://127.0.0.1:{free.getsockname()[1]}/v1")
    with pytest.raises(ConfigError, match=r"^prompt\.url=.*\b1 of 1 .*ClientConnectorError"):
        inputs_of(config).prompts.prepare()


@pytest.mark.parametrize("place", ["/proc/nope/x", "given.txt/x"])
def test_a_cache_of_prompts_that_cannot_be_written_is_named(place, tmp_path):
    given(tmp_path, "a cat on a mat")
    config = run(tmp_path, "preset=wan_1_3b", "prompt.url=http://127.0.0.1:1", f"prompt.cache={tmp_path / place}")
    with pytest.raises(ValueError, match=rf"^prompt\.cache={tmp_path / place}: "):
        inputs_of(config).prompts.prepare()
