"""The world that a run trains in: what each of its processes opens of it, and what it cannot honour."""

import sys

import torch

from cluster.config.run_config import Config
from models.worlds import tiny_world
from models.worlds.video_codec import VideoCodec
from models.worlds.world import Text, open_codec, open_text
from rewards.reward_config import SHIPPED


def text_of(config: Config, device: torch.device) -> Text:
    """The run's text encoder, which takes memory on `device` while it encodes a prompt that nobody has encoded yet.

    That the negative prompt is cut is not for it to say: `check_world` does, once for all processes. Raises ValueError
    where its folder is missing or does not fit.
    """
    # One type in all processes, with GPUs and without: embeddings of another would be other entries of the cache.
    dtype = torch.bfloat16 if config.cluster.rank_gpus else torch.float32
    folder = config.text_encoder_folder(config.teacher_path, config.base_source.path)
    return open_text(
        config.student.wan, folder, config.text_cache_folder, device, dtype, warned_prompts=[config.negative_prompt]
    )


def codec_of(config: Config, device: torch.device) -> VideoCodec:
    """The run's codec on `device`. Raises ValueError where its folder is missing or does not fit."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    folder = config.vae_folder(config.teacher_path, config.base_source.path)
    return open_codec(config.student.wan, folder, device, dtype)


def check_world(config: Config) -> None:
    """Refuse, in one line with the key to change, what cannot be trained in the run's world. Raises ValueError."""
    if not config.in_wan_world:
        _check_tiny_world(config)
        return
    if "teacher" in config.stages:
        raise ValueError("stage teacher learns the tiny world's own videos; leave it out, and give weights as teacher=")
    if config.prompts is None:
        raise ValueError(f"student.model={config.student.model} needs prompts to train on; give prompts=<file>")
    if config.window.frames == config.student.block_frames and {"dmd", "grpo"} & set(config.stages):
        raise ValueError(
            f"window.frames = {config.window.frames} is one block, which is left out of the loss in the middle of a "
            f"video; raise window.frames to {2 * config.window.frames} or more"
        )
    if "grpo" in config.stages:
        _check_rewards(config)
    cpu = torch.device("cpu")
    _say_cut(config, text_of(config, cpu))
    if {"dmd", "grpo"} & set(config.stages):
        codec_of(config, cpu)


def _say_cut(config: Config, text: Text) -> None:
    read = config.student.wan.text_len
    if surplus := text.truncated_tokens(config.negative_prompt):
        print(f"note: prompt.negative has {read + surplus} tokens; the first {read} are read", file=sys.stderr)


def _check_tiny_world(config: Config) -> None:
    for key, given, wanted in (
        ("student.height", config.student.height, tiny_world.SIZE),
        ("student.width", config.student.width, tiny_world.SIZE),
        ("student.horizon_frames", config.student.horizon_frames, tiny_world.HORIZON),
    ):
        if given != wanted:
            raise ValueError(f"{key} is {given}, but training is in the tiny world, where it is {wanted}; set it back")


def _check_rewards(config: Config) -> None:
    for key, names in (("reward.terms", config.reward.weights), ("sentinel.metrics", config.sentinel.metrics)):
        if tiny := [name for name in names if SHIPPED.get(name, name).startswith("rewards.tiny.")]:
            raise ValueError(
                f"{key} has {', '.join(tiny)}, which judges the tiny world only, and student.model="
                f"{config.student.model} is of another; take it out of {key}"
            )
