"""Check keys of stage grpo against each other, each rule on the parts that it compares.

Every function raises ConfigError.
"""

import math

import numpy

from actors.rollout_config import GroupConfig, RolloutConfig, WindowConfig
from actors.window_law import parse_law, window_starts
from cluster.config.buffer_config import BufferConfig
from cluster.config.cluster_config import ClusterConfig
from cluster.config.rules import check_batch, check_blocks
from learner.policy_config import GrpoConfig
from models.errors import ConfigError
from models.keys import nearest_multiples
from models.network_config import StudentConfig
from rewards.reward_config import RewardConfig, check_reward_name
from rewards.sentinels import SentinelConfig


def check_group_frames(
    student: StudentConfig, group: GroupConfig, reward: RewardConfig, sentinel: SentinelConfig
) -> None:
    """Check that groups, sentinels and rewarded windows are whole blocks and windows, with the frames before them."""
    block, window = student.block_frames, reward.window_frames
    for name, frames in (("group.frames", group.frames), ("sentinel.frames", sentinel.frames)):
        if frames % block or frames % window:
            raise ConfigError(
                name,
                frames,
                f"no multiple of student.block_frames={block} and reward.window_frames={window}",
                nearest_multiples(name, frames, math.lcm(block, window)),
            )
    if sentinel.frames == window:
        raise ConfigError(
            "sentinel.frames",
            sentinel.frames,
            "one window of reward.window_frames would be compared with itself",
            f"write sentinel.frames={2 * sentinel.frames} or more",
        )
    check_blocks(block, {"reward.window_frames": window, "group.burn_in_frames": group.burn_in_frames})
    lead = group.burn_in_frames + student.context_frames
    if reward.lead_frames > lead:
        raise ConfigError(
            "reward.lead_frames",
            reward.lead_frames,
            f"a group has {lead} frames before its fork: group.burn_in_frames and the student's context",
            f"write reward.lead_frames={lead} or less, or raise group.burn_in_frames",
        )


def check_forks(
    student: StudentConfig, rollout: RolloutConfig, window: WindowConfig, group: GroupConfig, earliest_fork: int
) -> None:
    """Check that every horizon holds a group from `earliest_fork` on, at a start that the law of windows allows."""
    law = parse_law(window.law)
    for frames in {rollout.frames, *(step[1] for step in rollout.curriculum)}:
        if earliest_fork + group.frames > frames:
            raise ConfigError(
                "group.frames",
                group.frames,
                f"reaches past the end of rollouts of {frames} frames",
                "shorten the groups, or lengthen rollout.frames (or rollout.curriculum)",
            )
        starts = window_starts(frames, group.frames, student.block_frames, earliest_fork)
        try:
            law(starts, group.frames, student.horizon_frames, numpy.random.default_rng(0))
        except ValueError as error:
            raise ConfigError(
                "group.frames",
                group.frames,
                f"window.law={window.law} has no place for a group ({error})",
                "change one",
            ) from error


def check_members(
    student: StudentConfig, window: WindowConfig, group: GroupConfig, grpo: GrpoConfig, replay: str, earliest_fork: int
) -> None:
    """Check that members suit the extended DMD loss, and that lists of numbers fit the stochastic transitions."""
    given = f"longer than group.frames={group.frames}"
    if earliest_fork and grpo.dmd_noising == "recorded":
        raise ConfigError(
            "window.frames",
            window.frames,
            f"{given}, so windows of the extended DMD loss begin before the fork, where no inputs are recorded",
            f"write grpo.dmd_noising=fresh, window.frames={group.frames} or less, or grpo.dmd_weight=0",
        )
    if earliest_fork > group.burn_in_frames:
        raise ConfigError(
            "group.burn_in_frames",
            group.burn_in_frames,
            f"window.frames={window.frames} is {given} and this together, the frames that a group brings",
            f"write group.burn_in_frames={earliest_fork} or more",
        )
    if grpo.dmd_weight and student.in_wan_world and window.frames != group.frames:
        raise ConfigError(
            "window.frames",
            window.frames,
            f"the extended DMD loss needs an image latent where windows begin, and group.frames={group.frames} has one "
            "at the fork",
            f"write window.frames={group.frames}, or grpo.dmd_weight=0",
        )
    if grpo.dmd_weight and replay == "blockwise":
        raise ConfigError(
            "dmd.replay",
            replay,
            "it makes windows again from a video's own noise, which members of a group do not have",
            "write dmd.replay=masked, or grpo.dmd_weight=0",
        )
    if grpo.dmd_weight and grpo.dmd_members > group.members:
        raise ConfigError(
            "grpo.dmd_members",
            grpo.dmd_members,
            f"more than group.members={group.members}",
            f"write grpo.dmd_members={group.members} or less, or grpo.dmd_weight=0",
        )
    stochastic = len(student.timesteps) - 1
    if not stochastic:
        raise ConfigError(
            "student.timesteps", student.timesteps, "one step draws nothing to learn from", "give more steps"
        )
    for name, numbers in (
        ("grpo.transition_weights", grpo.transition_weights),
        ("group.transition_shares", group.transition_shares),
    ):
        if numbers and len(numbers) != stochastic:
            raise ConfigError(
                name,
                numbers,
                f"student.timesteps has {stochastic} stochastic transitions",
                f"give {stochastic} numbers, or none",
            )


def check_rounds(
    student: StudentConfig, group: GroupConfig, grpo: GrpoConfig, ranks: int, micro_batch: int | None
) -> None:
    """Check that groups divide into ranks, ranks into minibatches, minibatches into forward passes."""
    if grpo.groups % (ranks * grpo.minibatches):
        raise ConfigError(
            "grpo.groups",
            grpo.groups,
            f"does not divide over cluster.learner_ranks / cluster.sequence_ranks = {ranks} and "
            f"grpo.minibatches={grpo.minibatches}",
            f"make it a multiple of {ranks * grpo.minibatches}",
        )
    groups = grpo.groups // grpo.minibatches
    transitions = 1 if group.transitions == "one" else len(student.timesteps) - 1
    rows = groups * group.members * transitions
    check_batch("grpo.groups / grpo.minibatches * group.members * transitions", rows, ranks, micro_batch)
    if grpo.dmd_weight:
        check_batch("grpo.groups * grpo.dmd_members", grpo.groups * grpo.dmd_members, ranks, micro_batch)
        check_batch("grpo.groups / grpo.minibatches * grpo.dmd_members", groups * grpo.dmd_members, ranks, micro_batch)


def check_group_buffer(
    rollout: RolloutConfig, group: GroupConfig, grpo: GrpoConfig, sentinel: SentinelConfig, buffer: BufferConfig
) -> None:
    """Check that the buffer holds all groups that a round needs; else learner and actors wait for each other."""
    groups, prompts, forks = grpo.groups, sentinel.prompts, group.forks
    between, batch = groups * sentinel.every, rollout.batch * forks
    if between % forks:
        raise ConfigError(
            "group.forks",
            forks,
            f"does not divide grpo.groups * sentinel.every = {between}, the groups between two measurements",
            "change one of them",
        )
    # Dispatches and rounds both begin behind the sentinels; a round needs all dispatches that reach into it.
    dispatched = (min(-(-end // batch) * batch, between) for end in range(groups, between + 1, groups))
    needed = max(prompts, *(reached - groups * taken for taken, reached in enumerate(dispatched)))
    need = f"sentinel.prompts={prompts} videos at once, or grpo.groups={groups} from dispatches of {batch} groups"
    if buffer.windows < needed:
        raise ConfigError("buffer.windows", buffer.windows, f"never holds {need}", f"write buffer.windows={needed}")
    if buffer.policy == "wait" and buffer.max_age * groups < needed:
        raise ConfigError(
            "buffer.max_age",
            buffer.max_age,
            f"updates of grpo.groups={groups} never hold {need}",
            f"write buffer.max_age={math.ceil(needed / groups)}, or another buffer.policy",
        )


def check_rewards(reward: RewardConfig, sentinel: SentinelConfig, cluster: ClusterConfig) -> None:
    """Check that sentinels are not rewarded, and that RAFT has a GPU."""
    for name in sentinel.metrics:
        check_reward_name(name, "sentinel.metrics")
        if reward.weights.get(name):
            raise ConfigError(
                "sentinel.metrics",
                name,
                "reward.terms has it too, and a reward cannot show its own side effects",
                "take it out of one of them",
            )
    if reward.flow == "raft" and cluster.kind == "ray" and not cluster.reward_gpus:
        raise ConfigError(
            "reward.flow",
            "raft",
            "a pair of frames takes half a minute on a CPU",
            "set cluster.reward_gpus, or write reward.flow=dis",
        )
