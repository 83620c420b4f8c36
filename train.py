"""Longtake: train a 5-second video model to generate minutes, by correcting it on its own mistakes.

Read from the top: a teacher for the tiny world, ODE initialisation, extended DMD on the student's own long rollouts,
GRPO with rewards of optical flow.

python train.py [key=value ...]

Trains in the folder run_dir; the same command again continues from the last checkpoint.
  python train.py preset=smoke                     every stage once, on a local Ray
  python train.py preset=tiny window=prefix        Self-Forcing: windows of the first teacher horizon only
"""

import settings
from cluster.config.run_config import Config

if __name__ == "__main__":  # help and mistakes are answered before torch is imported, which takes seconds
    config = settings.arguments(Config, __doc__, settings.load)

from cluster.runs.cluster_interface import Cluster
from cluster.runs.run_folder import RunFolder
from cluster.runs.run_log import RunLog
from cluster.runs.stage_spec import stage_spec
from cluster.runs.stage_texts import learner_parts
from learner import build
from models.records import CRITIC, GRPO, ODE, SENTINEL, STUDENT


def teacher(config: Config, cluster: Cluster, log: RunLog) -> None:
    """Train stage 0, tiny world only: a bidirectional teacher learns real videos by flow matching."""
    learner = build.pretrainer(learner_parts(config, "teacher"), config.pretrain)
    with RunFolder(config.run_dir).stage("teacher", config.checkpoint) as folder:
        folder.restore(learner)
        metrics = {}
        while learner.step < config.pretrain.steps:
            metrics = learner.update()
            log("teacher", learner.step, config.pretrain.steps, metrics)
            if learner.step % config.checkpoint.every == 0:
                folder.save(learner, learner.step)
        folder.finish(learner.trained.averaged(), {"seed": config.seed, "steps": learner.step} | metrics)


def ode(config: Config, cluster: Cluster, log: RunLog) -> None:
    """Train stage 1: the few-step causal student regresses onto trajectories of the teacher (Self-Forcing++, Eq. 4)."""
    learner = build.ode_initializer(learner_parts(config, "ode"), config.ode)
    spec = stage_spec("ode", config)
    with RunFolder(config.run_dir).stage("ode", config.checkpoint) as folder, spec.inputs.trajectories.open() as pairs:
        folder.restore(learner)
        cluster.begin(spec, kept=sorted(pairs.entries))
        metrics = {}
        while learner.step < config.ode.steps:
            arrived = config.ode.pairs_at(learner.step)  # the rest arrive while training
            while len(pairs) < arrived:
                pairs.add(cluster.take_all(ODE, 1))
            metrics = learner.update(pairs, arrived)
            log("ode", learner.step, config.ode.steps, metrics | cluster.metrics())
            if learner.step % config.checkpoint.every == 0:
                pairs.write()
                folder.save(learner, learner.step)
        folder.finish(learner.trained.raw(), {"seed": config.seed, "steps": learner.step} | metrics)


def dmd(config: Config, cluster: Cluster, log: RunLog, name: str = "dmd") -> None:
    """Train stage 2: roll out far past the teacher; it corrects windows of that (Self-Forcing++, Alg. 1)."""
    learner = build.dmd_learner(learner_parts(config, "dmd"), config.dmd)
    with RunFolder(config.run_dir).stage(name, config.checkpoint) as folder:
        cluster.begin(stage_spec("dmd", config), folder.restore(learner))
        cluster.publish(learner.student.weights, learner.step)
        metrics = {}
        while learner.step < config.dmd.steps and cluster.improving():
            for _ in range(config.dmd.critic_updates):  # the critic follows the student
                metrics = learner.update_critic(cluster.take(CRITIC, config.dmd.batch_size))
            metrics |= learner.update_student(cluster.take(STUDENT, config.dmd.batch_size))
            cluster.publish(learner.student.weights, learner.step)  # actors pull at their next block
            log(name, learner.step, config.dmd.steps, metrics | cluster.metrics())
            if learner.step % config.checkpoint.every == 0:
                folder.save(learner, learner.step, cluster.state())
        origin = {"seed": config.seed, "steps": learner.step} | metrics
        folder.finish(learner.student.averaged(), origin, critic=learner.critic.raw())


def grpo(config: Config, cluster: Cluster, log: RunLog, name: str = "grpo") -> None:
    """Train stage 3: fork long rollouts, make the better continuations likelier (Self-Forcing++, Eq. 5-7)."""
    learner = build.policy_learner(
        learner_parts(config, "grpo"), config.grpo, config.dmd, config.sentinel,
        rewards=config.reward.weights_at, window_frames=config.window.frames, coarse=config.group.coarse,
    )  # fmt: skip
    with RunFolder(config.run_dir).stage(name, config.checkpoint) as folder:
        cluster.begin(stage_spec("grpo", config), folder.restore(learner))
        cluster.publish(learner.student.weights, learner.step)
        metrics: dict[str, float] = {}
        while learner.step < config.grpo.steps and cluster.improving():
            metrics = {}
            if learner.step % config.sentinel.every == 0:  # a held-out metric must not pay for the rewards
                metrics = learner.sentinels.check(cluster.take_all(SENTINEL, config.sentinel.prompts), learner.step)
            metrics |= learner.update(cluster.take(GRPO, config.grpo.groups))
            cluster.publish(learner.student.weights, learner.step)
            log(name, learner.step, config.grpo.steps, metrics | cluster.metrics())
            if learner.step % config.checkpoint.every == 0:
                folder.save(learner, learner.step, cluster.state())
        folder.finish(learner.student.averaged(), {"seed": config.seed, "steps": learner.step} | metrics)


def loop(config: Config, cluster: Cluster, log: RunLog) -> None:
    """Run all configured stages; a finished one is not run again."""
    stages = {"teacher": teacher, "ode": ode, "dmd": dmd, "grpo": grpo}
    for stage in config.stages:
        if not RunFolder(config.run_dir).stage(stage).finished:
            stages[stage](config, cluster, log)


if __name__ == "__main__":
    done = settings.run_loop(loop, config)
    results = [RunFolder(done.run_dir).stage(stage) for stage in done.stages]
    print("finished:", *(stage.result for stage in results if stage.finished))
