"""What a configuration will compute, and how long that may take, before anything is made."""

from dataclasses import dataclass

from actors.teacher_actor import solver_sigmas
from cluster.config.devices import DEVICES
from cluster.config.run_config import Config
from cluster.planning import wan_costs
from cluster.planning.pool_balance import made_share
from cluster.runs.factory import make_dispatcher
from models.flow_matching import warped_sigmas
from models.records import GRPO

_DISPATCHES = 256
"""Dispatches over which the place of forks is averaged."""


@dataclass(frozen=True)
class Line:
    """One number; `unit` is parameters, B or FLOP."""

    name: str
    value: float
    unit: str
    note: str = ""


@dataclass(frozen=True)
class StageCost:
    """Operations of a whole stage: of all actors together, and of all learner ranks together."""

    stage: str
    actors: float
    learner: float
    ahead: float = 0.0
    """Of the actors' operations, those that are over before the learner begins."""


def operations(config: Config) -> list[Line]:
    """FLOP of the parts that everything else is made of."""
    student, stage = config.student, judged_stage(config)
    block, frames = student.block_frames, config.window.frames
    one = wan_costs.block_pass_flops(student, student.attention_frames)
    made = wan_costs.rollout_flops(student, block, before=student.attention_frames)
    lines = [
        Line("one pass of a block", one, "FLOP", f"sees {student.attention_frames} frames"),
        Line("one finished block", made, "FLOP", f"{len(student.timesteps)} steps and a read"),
        Line("one rollout", wan_costs.rollout_flops(student, config.rollout.frames), "FLOP", "to rollout.frames"),
        Line("one window of the student", student_window_flops(config, stage), "FLOP", f"{frames} frames, with scores"),
        Line("one window of the critic", critic_window_flops(config, stage), "FLOP", f"{frames} frames"),
    ]
    if config.in_wan_world:
        context = history_frames(config, stage)
        lines += [
            Line("VAE, one block decoded", wan_costs.decode_flops(student, block), "FLOP", f"{block} latent frames"),
            Line(
                "image latent of a mid-video window",
                wan_costs.image_latent_flops(student, context),
                "FLOP",
                f"{context} frames decoded, one image encoded; the first block is left out of the loss",
            ),
        ]
    return lines


def student_window_flops(config: Config, stage: str) -> float:
    """One window of the student's update: its x0 with gradient, two scores of the teacher, one of the critic."""
    student, frames = config.student, config.window.frames
    gradient = wan_costs.gradient_passes(config.learner.checkpoint_activations)
    x0 = wan_costs.replay_flops(student, frames, history_frames(config, stage), config.dmd.replay, gradient)
    teacher = wan_costs.score_flops(config.teacher_wan, student, frames)
    return x0 + 2 * teacher + wan_costs.score_flops(student.wan, student, frames)


def critic_window_flops(config: Config, stage: str) -> float:
    """One window of the critic's update: the student's x0 without gradient, one pass of the critic with it."""
    student, frames = config.student, config.window.frames
    gradient = wan_costs.gradient_passes(config.learner.checkpoint_activations)
    x0 = wan_costs.replay_flops(student, frames, history_frames(config, stage), config.dmd.replay, 1)
    return x0 + gradient * wan_costs.score_flops(student.wan, student, frames)


def stage_cost(config: Config, stage: str) -> StageCost:
    """Operations of a whole stage, as it is configured."""
    return {"teacher": _teacher_cost, "ode": _ode_cost, "dmd": _dmd_cost, "grpo": _grpo_cost}[stage](config)


def seconds(config: Config, flops: float, processes: int) -> float:
    """Time of `flops` on `processes` of the expected devices, at the share of their peak that the table names."""
    device = DEVICES[config.expected_device]
    per_process = config.cluster.threads if config.expected_device == "cpu" else 1
    return flops / (processes * per_process * device.peak_flops * device.sustained)


def stage_seconds(config: Config, cost: StageCost) -> float:
    """Expected time of a stage: actors and learner work side by side, but for what is made ahead."""
    actors, ranks = config.cluster.rollout_actors, config.cluster.learner_ranks
    beside = max(seconds(config, cost.actors - cost.ahead, actors), seconds(config, cost.learner, ranks))
    return seconds(config, cost.ahead, actors) + beside


def judged_stage(config: Config) -> str:
    """The stage whose windows are spoken of where only one is: dmd, unless grpo runs alone."""
    return "grpo" if config.stages == ["grpo"] else "dmd"


def window_frames(config: Config, stage: str) -> int:
    """Latent frames that a pass with gradient covers."""
    return {"dmd": config.window.frames, "grpo": config.group.frames}.get(stage, config.student.horizon_frames)


def history_frames(config: Config, stage: str) -> int:
    """Clean frames that come with a window; stages teacher and ode see whole videos."""
    if stage not in ("dmd", "grpo"):
        return 0
    return config.student.context_frames + config.window_of(stage).burn_in_frames


def _teacher_cost(config: Config) -> StageCost:
    videos = config.pretrain.steps * config.pretrain.batch_size
    gradient = wan_costs.gradient_passes(config.learner.checkpoint_activations)
    score = wan_costs.score_flops(config.teacher_wan, config.student, config.student.horizon_frames)
    return StageCost("teacher", 0.0, videos * gradient * score)


def _ode_cost(config: Config) -> StageCost:
    student, ode = config.student, config.ode
    steps = len(solver_sigmas(warped_sigmas(student.timesteps, student.shift), ode.solver_steps, student.shift))
    pairs = ode.pairs if ode.pairs_dir is None else 0
    made = pairs * steps * 2 * wan_costs.score_flops(config.teacher_wan, student, student.horizon_frames)
    gradient = wan_costs.gradient_passes(config.learner.checkpoint_activations)
    window = wan_costs.replay_flops(student, student.horizon_frames, 0, "masked", gradient)
    ahead = made * ode.pairs_at(0) / ode.pairs
    return StageCost("ode", made, ode.steps * ode.batch_size * window, ahead)


def _dmd_cost(config: Config) -> StageCost:
    """Rollouts stop behind their last window. Every mid-video window of Wan also needs an image latent."""
    student, dmd, rollout = config.student, config.dmd, config.rollout
    windows = dmd.steps * config.samples_per_update("dmd")
    end = round(made_share(config) * rollout.frames)
    made = windows / rollout.windows * wan_costs.rollout_flops(student, end - end % student.block_frames)
    if config.in_wan_world:
        made += windows * wan_costs.image_latent_flops(student, history_frames(config, "dmd"))
    critic = dmd.critic_updates * critic_window_flops(config, "dmd")
    return StageCost("dmd", made, dmd.steps * dmd.batch_size * (student_window_flops(config, "dmd") + critic))


def _grpo_cost(config: Config) -> StageCost:
    """Without what decoding and rewards cost, which other processes pay, and without the sentinels' videos."""
    student, grpo, group = config.student, config.grpo, config.group
    forked = grpo.steps * grpo.groups / group.forks
    past = _mean_last_fork(config)
    own = wan_costs.rollout_flops(student, group.frames, before=student.attention_frames)
    made = forked * (wan_costs.rollout_flops(student, past) + group.forks * group.members * own)
    transitions = 1 if group.transitions == "one" else len(student.timesteps) - 1
    clean, noisy = wan_costs.masked_flops(student, group.frames, history_frames(config, "grpo"))
    gradient = wan_costs.gradient_passes(config.learner.checkpoint_activations)
    networks = 2 if grpo.kl else 1
    passes = networks * (clean + noisy) + grpo.passes * (clean + gradient * noisy)
    learnt = grpo.steps * grpo.groups * group.members * transitions * passes
    if grpo.dmd_weight:
        windows = grpo.steps * grpo.groups * grpo.dmd_members
        scored = grpo.passes * student_window_flops(config, "grpo")
        learnt += windows * (scored + grpo.critic_updates * critic_window_flops(config, "grpo"))
    return StageCost("grpo", made, learnt)


def _mean_last_fork(config: Config) -> int:
    """Frames that a rollout has before its last fork, on average over what a run with this seed dispatches."""
    dispatcher = make_dispatcher("grpo", config)
    last = [
        max(plan.start for plan in rollout.windows)
        for number in range(_DISPATCHES)
        for rollout in dispatcher.rollouts(config.sentinel.prompts + number * config.rollout.batch)
        if rollout.windows[0].role == GRPO
    ]
    return round(sum(last) / len(last) / config.student.block_frames) * config.student.block_frames
