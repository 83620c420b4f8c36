"""Measure the windows per second through the coordinator, by the size of the pool.

python -m benchmarks.control_plane   64, 256 and 1,024 actors that only emit headers. Two minutes.
More keys: repeats=3.

The coordinator object is driven directly, in one event loop with its actors and learner ranks: Ray on two cores cannot
hold a thousand processes. So these numbers include the cost of the simulated actors, but not Ray's own cost per
delivery.

`sustained`: actors emit and the learner's ranks take without pauses; windows
delivered and taken per second, by the size of the pool and of a window. With 1,024 actors a real pool makes 65 windows
and 1,460 blocks a second.
`memory`: growth of the coordinator's unshared memory on a local Ray, by WAITING windows of one size in the buffer. Its
limit is the size of these windows.
`latency`: at OFFERED windows per second over the whole pool, from the moment a window is due at its actor until a take
could return it; so a busy loop counts. It is not measured at saturation: there each actor's next window waits for all
the others', actors / throughput by Little's law, however fast the coordinator is.
`take`: at the same rate, from the request of a plan, or the arrival of its last window, until a rank has it.

An update takes one student and five critic plans of a quarter as many windows as there are actors (the balanced ratio
of benchmarks/decoupling.py), RANK_WINDOWS of them on each rank.
"""

import asyncio
import math
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.command import run
from benchmarks.decoupling import run_alone
from benchmarks.line import print_line
from cluster.config.run_config import Config
from cluster.runs.stage_spec import stage_spec
from cluster.weights.version import WeightsVersion
from models.keys import KeyGroup, key
from models.records import CRITIC, STUDENT
from tests.fakes.simulated_pool import SimulatedCoordinator, no_weights
from tests.fakes.small_runs import CRITIC_UPDATES, smallest_run

ACTORS = (64, 256, 1024)
RANK_WINDOWS = 8
BAR, OFFERED = 2000.0, 1000.0
MEASURED_S, WARM_UP = 1.5, 2
SIDES = {1: 120, 12: 416}
"""Side of a window's six latent frames, by megabytes of the window."""
SIZED_ACTORS, WAITING = 256, 12


@dataclass(kw_only=True)
class ControlPlaneOptions(KeyGroup):
    """Describes a measurement of the coordinator."""

    repeats: int = key(3, "runs of each size", ge=1)


@dataclass
class Measured:
    """Holds the measurements of one run."""

    windows: int = 0
    elapsed_s: float = 0.0
    cpu_s: float = 0.0
    """CPU seconds of this process: steadier than elapsed time on a shared machine."""
    latencies_s: list[float] = field(default_factory=list, repr=False)
    takes_s: list[float] = field(default_factory=list, repr=False)

    @property
    def windows_per_s(self) -> float:
        return self.windows / self.elapsed_s


async def measure(config: Config, block_s: float, seconds: float) -> Measured:
    """Time whole updates until `seconds` are over, after two that are not counted: in these the buffer fills."""
    clock = asyncio.get_running_loop().time
    coordinator = SimulatedCoordinator(config, block_s, spread_s=block_s)
    epoch = await coordinator.begin(stage_spec("dmd", config))
    await coordinator.publish(epoch, 0, 0, [no_weights(0, 0)])
    for updates in range(WARM_UP):
        await update(coordinator, epoch, updates, config)
    measured, updates, delivered = Measured(), WARM_UP, coordinator.supply.buffer.counts["delivered"]
    coordinator.available.clear()
    await coordinator.metrics()
    started, started_cpu = clock(), time.process_time()
    while clock() < started + seconds:
        measured.takes_s += await update(coordinator, epoch, updates, config)
        updates += 1
    measured.elapsed_s, measured.cpu_s = clock() - started, time.process_time() - started_cpu
    taken = (updates - WARM_UP) * config.dmd.batch_size * (1 + CRITIC_UPDATES)
    measured.windows = min(taken, coordinator.supply.buffer.counts["delivered"] - delivered)
    due = coordinator.pool.due
    measured.latencies_s = [available - due[where] for where, available in coordinator.available.items()]
    return measured


async def update(coordinator: SimulatedCoordinator, epoch: int, done: int, config: Config) -> list[float]:
    """Take one update's windows for all ranks; return the seconds that each take took since it could be met."""
    takes_s = []
    for i, role in enumerate([CRITIC] * CRITIC_UPDATES + [STUDENT]):
        number = done * (1 + CRITIC_UPDATES) + i
        takes_s += await take(coordinator, epoch, number, role, config.dmd.batch_size)
    await coordinator.publish(epoch, done + 1, done + 1, [no_weights(done + 1, done + 1)])
    await coordinator.metrics(), await coordinator.report({})
    return takes_s


async def take(coordinator: SimulatedCoordinator, epoch: int, number: int, role: str, n: int) -> list[float]:
    """Take one plan, by all ranks at once."""
    clock = asyncio.get_running_loop().time
    ranks, asked = n // RANK_WINDOWS, clock()

    async def share(rank: int) -> tuple[float, list[Any]]:
        headers = await coordinator.take(epoch, number, role, n, rank, ranks)
        return clock(), headers

    shares = await asyncio.gather(*(share(rank) for rank in range(ranks)))
    places = [(header.rollout, header.index) for _, headers in shares for header in headers]
    assert len(set(places)) == n, f"{n} windows were requested, {len(set(places))} came"
    possible = max(asked, *(coordinator.available.get(place, asked) for place in places))
    return [answered - possible for answered, _ in shares]


def percentile(values: list[float], share: float) -> float:
    """Return the value that a `share` of them do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def grown_mb(side: int) -> tuple[float, float]:
    """Return the MB that the coordinator's process grows by while WAITING windows come to wait, and their MB."""
    import ray

    from tests.fakes.sleeping_pool import SleepingCoordinator

    class Weighed(SleepingCoordinator):
        async def weigh(self) -> tuple[int, int, float]:
            """Return the waiting windows, their bytes, and MB of this process's own memory."""
            lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
            own = sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1000
            waiting = [] if self.supply is None else self.supply.buffer.waiting.values()
            return len(waiting), sum(header.nbytes for header in waiting), own

    config = smallest_run(8, side=side)
    config.cluster.rollout_actors, config.buffer.windows = 2, WAITING
    coordinator = ray.remote(Weighed).options(num_cpus=0, max_concurrency=1000).remote(config, 0.05, {})
    ray.get(coordinator.ready.remote(), timeout=config.cluster.start_timeout_s)
    _, _, before = ray.get(coordinator.weigh.remote())
    epoch = ray.get(coordinator.begin.remote(stage_spec("dmd", config)))
    version = WeightsVersion(0, {}, None, 0)
    ray.get(coordinator.publish.remote(epoch, 0, 0, [ray.put(version)]))
    while (weighed := ray.get(coordinator.weigh.remote()))[0] < WAITING:
        time.sleep(0.1)  # polling another process
    ray.kill(coordinator)
    return weighed[2] - before, weighed[1] / 1e6


def main(options: ControlPlaneOptions) -> None:
    sized(options.repeats)
    by_actors(options.repeats)


def sized(repeats: int) -> None:
    """Measure the effect of a window's size: none."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=2 * 2**30)
    for megabytes, side in SIDES.items():
        grown, windows = zip(*(grown_mb(side) for _ in range(repeats)), strict=True)
        shown = {"window_mb": megabytes, "waiting": WAITING}
        print_line("control_plane.memory", grown, "MB", "one coordinator on a local Ray", shown, windows[0])
    ray.shutdown()
    for megabytes, side in SIDES.items():
        runs = [run_alone(measure(smallest_run(SIZED_ACTORS, i, side), 0.0, MEASURED_S)) for i in range(repeats)]
        shown = {"actors": SIZED_ACTORS, "window_mb": megabytes}
        rates, cpu = [one.windows_per_s for one in runs], statistics.median(one.windows / one.cpu_s for one in runs)
        device = "one event loop, no Ray"
        print_line("control_plane.sustained", rates, "windows/s", device, shown, bar=BAR, per_cpu_second=round(cpu, 1))


def by_actors(repeats: int) -> None:
    """Measure the effect of the pool's size."""
    latency: dict[int, float] = {}
    takes: dict[int, float] = {}
    device = "one event loop, no Ray"
    for actors in ACTORS:
        config = smallest_run(actors)
        shown = {"actors": actors, "ranks": config.dmd.batch_size // RANK_WINDOWS, "plan": config.dmd.batch_size}
        free = [run_alone(measure(smallest_run(actors, seed), 0.0, MEASURED_S)) for seed in range(repeats)]
        rates, per_cpu_s = [m.windows_per_s for m in free], [m.windows / m.cpu_s for m in free]
        cpu = round(statistics.median(per_cpu_s), 1)
        print_line("control_plane.sustained", rates, "windows/s", device, shown, bar=BAR, per_cpu_second=cpu)
        block_s = actors / OFFERED
        paced = [run_alone(measure(smallest_run(actors, seed), block_s, MEASURED_S)) for seed in range(repeats)]
        shown |= {"offered_windows_per_s": round(statistics.median(m.windows_per_s for m in paced))}
        for name, kept, runs in (
            ("latency", latency, [m.latencies_s for m in paced]),
            ("take", takes, [m.takes_s for m in paced]),
        ):
            medians = [statistics.median(values) for values in runs]
            kept[actors] = statistics.median(medians)
            p99 = statistics.median(percentile(values, 0.99) for values in runs)
            print_line(f"control_plane.{name}", medians, "s", device, shown, p99_s=round(p99, 6))
    growth = {"from": ACTORS[0], "to": ACTORS[-1]}
    for name, kept in (("latency_growth", latency), ("take_growth", takes)):
        ratio = kept[ACTORS[-1]] / kept[ACTORS[0]]
        print_line(f"control_plane.{name}", [ratio], "x", device, growth, ACTORS[-1] / ACTORS[0])


if __name__ == "__main__":
    run(main, __doc__, ControlPlaneOptions)
