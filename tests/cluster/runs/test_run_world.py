"""What a run's world cannot honour is said in one line before anything starts, and each process opens what it needs."""

import re

import pytest
import torch

import settings
from cluster.launch import preflight
from cluster.runs.factory import make_scorer, make_supply
from cluster.runs.stage_spec import inputs_of, stage_spec
from cluster.runs.stage_texts import prepared_text, stage_texts
from models.errors import ConfigError
from models.network_config import CONFIGS
from models.records import CRITIC, STUDENT
from models.text.negative_prompt import WAN_NEGATIVE_PROMPT
from models.wan.tiny_decoder import TinyDecoder, TinyDecoderCodec
from models.wan.vae import WanCodec
from models.worlds.tiny_prompts import PROMPTS as TINY_PROMPTS
from models.worlds.video_codec import TinyCodec
from tests.fakes.commands import mistake, replaced
from tests.fakes.simulated_supply import deliver
from tests.fakes.small_runs import pretended
from tests.fakes.small_world import CONFIG, NAME, PROMPTS, keys, save_small_world

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = save_small_world(tmp_path_factory.mktemp("world"))
    torch.save(TinyDecoder(CONFIG.in_channels).state_dict(), folder / "tiny.pth")
    return folder


@pytest.fixture(autouse=True)
def small_network_is_known(monkeypatch):
    monkeypatch.setitem(CONFIGS, NAME, CONFIG)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["prompts=null"], r"^prompts: "),
        (["window.frames=3"], r"^window\.frames=3: .*write window\.frames=6"),
        (["vae={world}/nowhere"], r"^vae=.*nowhere: .*vae/config\.json"),
        (["vae=taehv:{world}/tiny.pth"], r"^vae=.*/tiny\.pth: .*reward\.vae"),
        (["text_encoder={world}/nowhere"], r"^text_encoder=.*nowhere: .*text_encoder/config\.json"),
        (["teacher={world}/network.safetensors"], r"^text_encoder: .*width 16"),
        (
            ["teacher={world}/network.safetensors", "text_encoder={world}"],
            r"^vae: .*4 channels",
        ),
        (["teacher={world}/nowhere"], r"^teacher=.*nowhere"),
    ],
)
def test_what_another_world_cannot_honour_is_refused_in_one_line_that_names_the_key(world, tmp_path, arguments, said):
    given = [*keys(world, tmp_path / "run"), "stage=dmd", f"init={world}/network.safetensors"]
    config = settings.load(replaced(given, *(argument.format(world=world) for argument in arguments)))
    with pytest.raises(ValueError, match=said) as refused:
        preflight(config)
    assert "\n" not in str(refused.value) and not (tmp_path / "run").exists()


def test_rewarded_windows_are_decoded_by_the_tiny_decoder_where_one_is_named(world, tmp_path):
    given = [*keys(world, tmp_path / "run"), "stage=grpo", f"grpo.init={world}/network.safetensors"]

    def scorer(*arguments: str):
        return make_scorer(stage_spec("grpo", settings.load(replaced(given, *arguments))).scorer)

    assert isinstance(scorer().codec, WanCodec)
    assert isinstance(scorer(f"reward.vae=taehv:{world}/tiny.pth").codec, TinyDecoderCodec)
    with pytest.raises(ConfigError) as error:
        scorer(f"reward.vae={world}/none.pth")
    assert error.value.key == "reward.vae"


def test_stage_teacher_is_of_the_tiny_world_alone(world, tmp_path):
    given = [key for key in keys(world, tmp_path / "run") if not key.startswith("teacher=")]
    with pytest.raises(ConfigError) as refused:
        preflight(settings.load([*given, "stage=[teacher,ode]"]))
    assert refused.value.key == "stage" and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("argument", "named"),
    [
        ("sentinel.metrics=[exposure_drift,text_alignment]", r"^sentinel\.metrics: text_alignment "),
        ("reward.terms={tiny_judge:1.0,tiny_motion:0.0}", r"^reward\.terms: tiny_judge, tiny_motion "),
        ("reward.terms={rewards.tiny.TinyJudge:1.0}", r"^reward\.terms: rewards\.tiny\.TinyJudge "),
    ],
)
def test_judges_of_the_tiny_world_are_refused_by_name_in_another(world, tmp_path, argument, named):
    given = [*keys(world, tmp_path / "run"), "stage=grpo", f"grpo.init={world}/network.safetensors"]
    with pytest.raises(ValueError, match=named):
        preflight(settings.load(replaced(given, argument)))
    assert not (tmp_path / "run").exists()


def test_the_preset_of_wan_names_its_missing_weights_in_one_line(tmp_path, capsys):
    line = mistake(capsys, "train.py", "preset=wan_mini", f"run_dir={tmp_path}/run", f"teacher={tmp_path}/none")
    assert line.startswith(f"teacher={tmp_path}/none: ") and not (tmp_path / "run").exists()


def test_vae_and_text_encoder_are_the_given_ones_else_the_teachers_else_the_bases(world, tmp_path):
    def load(*arguments: str):
        return settings.load(replaced(keys(world, tmp_path / "run"), "stage=dmd", *arguments))

    alone = f"teacher={world}/network.safetensors"
    for found in (load(), load(alone, f"base={world}"), load(alone, f"vae={world}", f"text_encoder={world}")):
        assert isinstance(inputs_of(found).world.codec(CPU), WanCodec)
        assert inputs_of(found).world.text(CPU)(PROMPTS[:1]).shape == (1, CONFIG.text_len, CONFIG.text_dim)
    tiny = settings.load(["preset=tiny"])
    assert isinstance(inputs_of(tiny).world.codec(CPU), TinyCodec)
    assert inputs_of(tiny).world.text(CPU)(TINY_PROMPTS[:1]).shape == (1, 12, 32)


def test_an_actor_that_sees_the_cache_never_loads_the_text_encoder_for_what_the_learner_prepared(world, tmp_path):
    config = settings.load([*keys(world, tmp_path / "run"), "stage=dmd", f"init={world}/network.safetensors"])
    inputs_of(config).prompts.prepare()
    prepared = prepared_text(inputs_of(config).world, stage_texts(stage_spec("dmd", config)), config.device)
    assert "_network" not in vars(prepared.encoder), "its memory is given back"
    actors = inputs_of(config).world.text(CPU)
    assert torch.equal(actors([*PROMPTS, WAN_NEGATIVE_PROMPT]), prepared([*PROMPTS, WAN_NEGATIVE_PROMPT]))
    actors.encoder.encode = None
    actors([*PROMPTS, WAN_NEGATIVE_PROMPT])


def test_a_negative_prompt_that_is_cut_is_said_once_by_its_key_and_not_by_every_process(world, tmp_path, capsys):
    given = [*keys(world, tmp_path / "run"), "stage=dmd", f"init={world}/network.safetensors"]
    config = settings.load([*given, "prompt.negative=a cat walks on a dog on a dog on grass"])
    preflight(config)
    note = capsys.readouterr().err
    assert note.startswith("note: prompt.negative ") and note.count("\n") == 1
    assert re.findall(r"\d+", note) == ["12", "8"]
    prepared_text(inputs_of(config).world, stage_texts(stage_spec("dmd", config)), config.device)
    for _ in range(2):
        inputs_of(config).world.text(CPU)([config.negative_prompt])
    assert not capsys.readouterr().err
    preflight(config)
    assert capsys.readouterr().err == note, "another command says it again"
    inputs_of(config).world.text(CPU)(["a cat walks on a cat on a cat"])
    assert " 10 " in capsys.readouterr().err


def test_no_rollout_of_a_stage_has_a_prompt_that_was_not_prepared_and_no_more_of_a_file_is_prepared(tmp_path):
    (tmp_path / "p.txt").write_text("".join(f"{prompt}\n" for prompt in TINY_PROMPTS))
    config = settings.load([
        f"prompts={tmp_path}/p.txt", f"run_dir={tmp_path}/run", "dmd.steps=3", "dmd.batch_size=2", "rollout.frames=30",
        "rollout.batch=3", "rollout.windows=4", "buffer.windows=64",
    ])  # fmt: skip
    supply, seen = make_supply(stage_spec("dmd", config)), set()
    supply.versions.publish(0, 0)

    def roll_out() -> bool:
        dispatch = supply.next()
        if dispatch is not None:
            seen.update(rollout.prompt for rollout in dispatch.rollouts)
            for item in pretended(config, dispatch, 0):
                deliver(supply, dispatch, item)
        return dispatch is not None

    for number, role in enumerate(([CRITIC] * config.dmd.critic_updates + [STUDENT]) * config.dmd.steps):
        while roll_out():  # as far ahead as the buffer lets actors run
            pass
        assert supply.take(number, role, config.dmd.batch_size) is not None
    prepared = stage_texts(stage_spec("dmd", config))
    assert len(seen) > 20 and seen <= set(prepared)
    assert len(prepared) < len(TINY_PROMPTS)
