"""What stage grpo asks of the configuration as a whole, beside the rules of each part."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy

from actors.window_law import parse_law, window_starts
from learner.stage_config import check_batch
from rewards.reward_config import check_reward_name

if TYPE_CHECKING:
    from cluster.config.run_config import Config


def check(config: Config) -> None:
    """Raise ValueError, in one line with the key to change, for what stage grpo could not do."""
    _check_frames(config)
    _check_lead(config)
    _check_forks(config)
    _check_members(config)
    _check_transitions(config)
    _check_rounds(config)
    _check_buffer(config)
    _check_rewards(config)


def _check_rewards(config: Config) -> None:
    for name in config.sentinel.metrics:
        check_reward_name(name, "sentinel.metrics")
        if config.reward.weights.get(name):
            raise ValueError(
                f"{name} is rewarded (reward.terms) and a sentinel (sentinel.metrics); what is rewarded cannot show "
                "what the rewards cost: take it out of one of them"
            )
    if config.reward.flow == "raft" and config.cluster.kind == "ray" and not config.cluster.reward_gpus:
        raise ValueError(
            "reward.flow=raft takes half a minute for a pair of frames on a CPU; set cluster.reward_gpus, or "
            "reward.flow=dis"
        )


def _check_frames(config: Config) -> None:
    group, sentinel, block = config.group, config.sentinel, config.student.block_frames
    for name, frames in (("group.frames", group.frames), ("sentinel.frames", sentinel.frames)):
        if frames % block or frames % config.reward.window_frames:
            raise ValueError(
                f"{name} is {frames}; it must be a multiple of student.block_frames = {block} and of "
                f"reward.window_frames = {config.reward.window_frames}"
            )
    if sentinel.frames == config.reward.window_frames:
        raise ValueError(
            f"sentinel.frames = {sentinel.frames} is one window of reward.window_frames, which would be compared with "
            f"itself; raise sentinel.frames to {2 * sentinel.frames} or more"
        )
    for name, frames in (
        ("reward.window_frames", config.reward.window_frames),
        ("group.burn_in_frames", group.burn_in_frames),
    ):
        if frames % block:
            raise ValueError(f"{name} is {frames}, no multiple of student.block_frames = {block}; change {name}")


def _check_lead(config: Config) -> None:
    brought = config.group.burn_in_frames + config.student.context_frames
    if config.reward.lead_frames > brought:
        raise ValueError(
            f"reward.lead_frames is {config.reward.lead_frames}, and a group brings {brought} frames before its fork: "
            "those of group.burn_in_frames and of the student's context; lower the one, or raise the other"
        )


def _check_forks(config: Config) -> None:
    """Every horizon holds a group, and the law of windows finds a place for it."""
    group, block = config.group, config.student.block_frames
    law = parse_law(config.window.law)
    for frames in {config.rollout.frames, *(step[1] for step in config.rollout.curriculum)}:
        if config.earliest_fork + group.frames > frames:
            raise ValueError(
                f"group.frames = {group.frames} reaches past the end of rollouts of {frames} frames; shorten the "
                "groups, or lengthen rollout.frames (or rollout.curriculum)"
            )
        starts = window_starts(frames, group.frames, block, config.earliest_fork)
        try:
            law(starts, group.frames, config.student.horizon_frames, numpy.random.default_rng(0))
        except ValueError as error:
            raise ValueError(f"group.frames = {group.frames} and window.law={config.window.law}: {error}") from error


def _check_members(config: Config) -> None:
    group, grpo = config.group, config.grpo
    if config.earliest_fork and grpo.dmd_noising == "recorded":
        raise ValueError(
            f"window.frames = {config.window.frames} is more than group.frames = {group.frames}, so the windows of the "
            "extended DMD loss begin before the fork, where nobody records inputs; set grpo.dmd_noising=fresh, lower "
            "window.frames, or set grpo.dmd_weight=0"
        )
    if config.earliest_fork > group.burn_in_frames:
        raise ValueError(
            f"window.frames = {config.window.frames} is more than group.frames = {group.frames} and "
            f"group.burn_in_frames = {group.burn_in_frames} together, and more a group does not bring for the extended "
            "DMD loss beside its cache; raise group.burn_in_frames"
        )
    if grpo.dmd_weight and config.in_wan_world and config.window.frames != group.frames:
        raise ValueError(
            f"window.frames = {config.window.frames} is not group.frames = {group.frames}: the extended DMD loss needs "
            "an image latent where its windows begin, and members have one at the fork; make them equal, or set "
            "grpo.dmd_weight=0"
        )
    if grpo.dmd_weight and config.dmd.replay == "blockwise":
        raise ValueError(
            "dmd.replay=blockwise makes windows again with the video's own noise, which members of a group do not "
            "have; set dmd.replay=masked, or grpo.dmd_weight=0"
        )
    if grpo.dmd_weight and grpo.dmd_members > group.members:
        raise ValueError(
            f"grpo.dmd_members = {grpo.dmd_members} is more than group.members = {group.members}; lower "
            "grpo.dmd_members, or set grpo.dmd_weight=0"
        )


def _check_transitions(config: Config) -> None:
    stochastic = len(config.student.timesteps) - 1
    if not stochastic:
        raise ValueError(
            f"student.timesteps is {config.student.timesteps}, one step, which draws nothing: stage grpo has no policy "
            "to train; give more steps"
        )
    for name, given in (
        ("grpo.transition_weights", config.grpo.transition_weights),
        ("group.transition_shares", config.group.transition_shares),
    ):
        if given and len(given) != stochastic:
            raise ValueError(
                f"{name} is {given}, but student.timesteps has {stochastic} stochastic transitions; give {stochastic} "
                "numbers, or none"
            )


def _check_rounds(config: Config) -> None:
    """A rank has whole groups, a minibatch has whole groups of a rank, a forward pass divides a minibatch."""
    grpo, ranks, micro_batch = config.grpo, config.cluster.learner_ranks, config.learner.micro_batch
    if grpo.groups % (ranks * grpo.minibatches):
        raise ValueError(
            f"grpo.groups = {grpo.groups} does not divide over cluster.learner_ranks = {ranks} and "
            f"grpo.minibatches = {grpo.minibatches}; make it a multiple of {ranks * grpo.minibatches}"
        )
    groups = grpo.groups // grpo.minibatches
    transitions = 1 if config.group.transitions == "one" else len(config.student.timesteps) - 1
    rows = groups * config.group.members * transitions
    check_batch("a minibatch of grpo.groups / grpo.minibatches * group.members transitions", rows, ranks, micro_batch)
    if grpo.dmd_weight:
        check_batch("grpo.groups * grpo.dmd_members", grpo.groups * grpo.dmd_members, ranks, micro_batch)
        check_batch("grpo.groups / grpo.minibatches * grpo.dmd_members", groups * grpo.dmd_members, ranks, micro_batch)


def _check_buffer(config: Config) -> None:
    """What the learner takes at once must fit, with what else its last dispatch brings; else both wait for ever."""
    groups, prompts, forks = config.grpo.groups, config.sentinel.prompts, config.group.forks
    between, batch = groups * config.sentinel.every, config.rollout.batch * forks
    if between % forks:
        raise ValueError(
            f"group.forks = {forks} does not divide grpo.groups * sentinel.every = {between}, the groups between two "
            "looks of the sentinels; change one of them"
        )
    # Dispatches and rounds both begin behind the sentinels; a round needs all dispatches that reach into it.
    dispatched = (min(-(-end // batch) * batch, between) for end in range(groups, between + 1, groups))
    needed = max(prompts, *(reached - groups * taken for taken, reached in enumerate(dispatched)))
    what = f"sentinel.prompts = {prompts} videos at once, or grpo.groups = {groups} from dispatches of {batch} groups"
    if config.buffer.windows < needed:
        raise ValueError(
            f"buffer.windows = {config.buffer.windows} never holds {what} (rollout.batch x group.forks); raise it to "
            f"{needed}"
        )
    if config.buffer.policy == "wait" and config.buffer.max_age * groups < needed:
        raise ValueError(
            f"buffer.max_age = {config.buffer.max_age} updates of grpo.groups = {groups} never hold {what} "
            f"(rollout.batch x group.forks); raise it to {math.ceil(needed / groups)}, or choose another buffer.policy"
        )
