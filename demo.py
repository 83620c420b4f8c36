"""The paper's result in the tiny world: short windows drift past the teacher's horizon, uniform windows do not.

ODE initialisation, then the same number of updates with each window law, then videos of 16 teacher horizons from each.

python demo.py [key=value ...]

Trains two tiny students on a local Ray and writes report.html into run_dir (runs/demo): five minutes on two cores.
The same command again continues where it stopped.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import settings
from cluster.config.run_config import Config

if TYPE_CHECKING:
    from cluster.runs.cluster_interface import Cluster
    from cluster.runs.run_log import RunLog


@dataclass(frozen=True)
class Method:
    """Describes one window law and the rollouts that suit it."""

    title: str
    law: str
    rollout: dict[str, int]


METHODS = {
    # Each of its windows comes from a video of its own: a prefix of one horizon has one window only.
    "prefix_1": Method("Self-Forcing: windows of the first horizon", "prefix(1)", {"batch": 32, "windows": 1}),
    "uniform": Method("Self-Forcing++: windows from anywhere", "uniform", {"windows": 12}),
}
FIXED = ("stage", "init", "window", "window.law", "evaluation.every")
"""Keys that the demo sets itself."""
TITLES = {"ode": "ODE initialisation: before distillation"} | {name: m.title for name, m in METHODS.items()}


def demo_loop(config: Config, cluster: "Cluster", log: "RunLog") -> None:
    """Train the students and generate their videos; finished parts are skipped."""
    from cluster.runs.run_folder import RunFolder
    from reports.demo_report import write_demo_videos
    from train import dmd, ode

    folder = RunFolder(config.run_dir)
    if not folder.stage("ode").finished:
        with folder.timed("ode"):
            ode(config, cluster, log)
    write_demo_videos(config, "ode", log)
    for name, method in METHODS.items():
        window, rollout = replace(config.window, law=method.law), replace(config.rollout, **method.rollout)
        if not folder.stage(name).finished:
            with folder.timed(name):
                dmd(replace(config, window=window, rollout=rollout), cluster, log, name)
        write_demo_videos(config, name, log)


def read_demo(arguments: Sequence[str]) -> Config:
    """Read the configuration of the demo. Raises ConfigError."""
    return settings.load(arguments, "demo", fixed=FIXED)


def main(config: Config) -> None:
    """Train, generate, judge, and write the report."""
    config = settings.run_loop(demo_loop, config)
    from reports.demo_report import write_demo_report

    write_demo_report(config, TITLES, {name: asdict(method) for name, method in METHODS.items()})


if __name__ == "__main__":
    main(settings.arguments(Config(run_dir="runs/demo"), __doc__, read_demo, fixed=FIXED))
