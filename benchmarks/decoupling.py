"""Measure the speed-up of streamed windows and block-wise weight swaps over the synchronous loop.

python -m benchmarks.decoupling   simulated compute, no Ray: sleeping actors and a sleeping learner around the run's own
coordinator, supply and buffer. About a minute. One JSON line for each of the quantities at the end of this file.

The arithmetic, for Wan 1.3B at 480x832, all of it scaled down SCALE times:
- 100 s of video are 402 latent frames, 134 blocks of 3; at 17 video frames a second they take 94 s, a block 0.70 s.
- A window has 21 frames. Six are drawn from each rollout, one for the student and five for the critic.
- On one H100 (989 TFLOP/s of dense bf16) at 40 % of its peak a student window, its last step regenerated and scored,
  is 3.1 PF and takes 7.8 s, a critic window 1.13 PF and 2.9 s: the six of a rollout 22.1 s.
- With 4 learner GPUs 17 actors are the balanced ratio: 17 rollouts are made in 94 s and trained on in 17 x 22.1 / 4 =
  94.0 s. An update takes 4 x (1 + 5) windows and 22.1 s.

Lock-step, at the balanced ratio: every actor makes a rollout with the newest weights; when the last one is there the
learner trains on all windows in whole updates (the rest goes to the next round); then all actors start again. Transport
of weights and windows costs it nothing. Streaming, with as many actors: the windows leave as they are finished, the
learner takes them in the order drawn at dispatch. The ceiling of the speedup is (rollouts + training) / training of the
lock-step loop's own rounds, 2.0 where they are equal: a learner that never waits.
"""

import asyncio
import gc
import selectors
import statistics
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from scipy.stats import chisquare

from actors.rollout_config import RolloutConfig, WindowConfig
from actors.window_law import window_starts
from benchmarks.line import print_line
from cluster.config.buffer_config import BufferConfig
from cluster.config.cluster_config import ClusterConfig
from cluster.config.run_config import Config
from cluster.planning.pool_balance import made_share, pool_size
from cluster.runs.factory import make_dispatcher
from cluster.runs.stage_spec import stage_spec
from cluster.supply.dispatch import Dispatch
from cluster.supply.wire import open_item
from cluster.weights.version import WeightsVersion
from learner.stage_config import DmdConfig
from models.network_config import StudentConfig
from models.records import CRITIC, STUDENT, Window
from tests.fakes.simulated_pool import SimulatedCoordinator, SimulatedPool, no_weights

SCALE = 100
ROLLOUT_S = 94 / SCALE
GPU_FLOPS = 0.40 * 989e12
STUDENT_WINDOW_S, CRITIC_WINDOW_S = 3.1e15 / GPU_FLOPS / SCALE, 1.13e15 / GPU_FLOPS / SCALE
LEARNER_GPUS, CRITIC_UPDATES, BALANCED_ACTORS = 4, 5, 17
UPDATE_S = STUDENT_WINDOW_S + CRITIC_UPDATES * CRITIC_WINDOW_S
"""Seconds of an update on a batch with one window per GPU."""
REPEATS, ROUNDS, UPDATES = 3, 4, 17
WARM_UP = 9
"""Number of updates until rollouts no longer begin together: two rollouts' time."""
POSITION_BINS = 16


def run_config(actors: int, seed: int = 0) -> Config:
    """Make a Wan-shaped run in time, with latents of a few bytes."""
    return Config(
        seed=seed,
        student=StudentConfig(height=4, width=4, horizon_frames=21, attention_frames=21),
        rollout=RolloutConfig(frames=402, batch=1, windows=1 + CRITIC_UPDATES),
        window=WindowConfig(frames=21, burn_in_frames=9),
        dmd=DmdConfig(batch_size=LEARNER_GPUS, critic_updates=CRITIC_UPDATES),
        buffer=BufferConfig(windows=192, policy="wait", max_age=8),
        cluster=ClusterConfig(rollout_actors=actors, timeout_s=60.0),
    )


def block_s(config: Config) -> float:
    """Return the seconds per block."""
    return ROLLOUT_S * config.student.block_frames / config.rollout.frames


@dataclass
class Measured:
    """Holds the measurements of one run of the streaming loop."""

    config: Config
    elapsed_s: float = 0.0
    compute_s: float = 0.0
    """Seconds that the learner computed; like `elapsed_s`, after the warm-up."""
    updates: int = 0
    # No repr: asyncio.Runner has that of a task's result made (by signal.getsignal), seconds for thousands of windows.
    taken: list[Window] = field(default_factory=list, repr=False)
    lateness: list[float] = field(default_factory=list, repr=False)
    """Each window's time since the start of its rollout, over (start + K) / N of the rollout's time."""
    first_s: float = 0.0
    """Seconds from the first published weights to the first window that the learner could take."""
    predicted_first_s: float = 0.0

    @property
    def idle_share(self) -> float:
        return 1 - self.compute_s / self.elapsed_s

    @property
    def updates_per_s(self) -> float:
        return self.updates / self.elapsed_s


async def lock_step(config: Config, rounds: int) -> tuple[float, float]:
    """Return the updates per second of the synchronous loop, and the ceiling of an overlapped one."""
    dispatcher = make_dispatcher(stage_spec("dmd", config))
    clock = asyncio.get_running_loop().time
    newest = no_weights(0, 0)

    async def newer(
        epoch: int, than: int | None, wait_s: float, slot: int
    ) -> tuple[asyncio.Future[WeightsVersion]] | None:
        return (newest,) if than is None else None

    pool = SimulatedPool(config, newer, block_s(config))
    rollouts_s, training_s, updates, waiting = 0.0, 0.0, 0, 0

    async def roll_out(slot: int, i: int) -> None:
        nonlocal waiting
        async for delivery in pool.stream(slot, 0, Dispatch(dispatcher.rollouts(i))):
            waiting += delivery.header.kind == "Window"

    for i in range(rounds):
        started = clock()
        await asyncio.gather(*(roll_out(slot, i * len(pool.slots) + slot) for slot in pool.slots))
        made = clock()
        done = waiting // (config.dmd.batch_size * (1 + CRITIC_UPDATES))
        for _ in range(done):
            for seconds in [CRITIC_WINDOW_S] * CRITIC_UPDATES + [STUDENT_WINDOW_S]:
                await asyncio.sleep(seconds)
        updates, waiting = updates + done, waiting - done * config.dmd.batch_size * (1 + CRITIC_UPDATES)
        newest = no_weights(newest.result().version + 1, updates)
        pool.versions.clear()  # every actor begins the next round with the newest weights
        rollouts_s, training_s = rollouts_s + made - started, training_s + clock() - made
    return updates / (rollouts_s + training_s), (rollouts_s + training_s) / training_s


async def streaming(config: Config, warm_up: int, updates: int) -> Measured:
    """Run the learner's loop of train.py around the run's coordinator."""
    clock = asyncio.get_running_loop().time
    coordinator = SimulatedCoordinator(config, block_s(config))
    epoch = await coordinator.begin(stage_spec("dmd", config))
    measured, number = Measured(config, updates=updates), 0
    began = clock()
    await coordinator.publish(epoch, 0, 0, [no_weights(0, 0)])
    for update in range(warm_up + updates):
        if update == warm_up:
            started, measured.compute_s = clock(), 0.0
        for role, seconds in [(CRITIC, CRITIC_WINDOW_S)] * CRITIC_UPDATES + [(STUDENT, STUDENT_WINDOW_S)]:
            headers = await coordinator.take(epoch, number, role, config.dmd.batch_size, 0, 1)
            number += 1
            computing = clock()
            measured.taken += [open_item(header, header.payload) for header in headers]
            await asyncio.sleep(seconds - (clock() - computing))
            measured.compute_s += clock() - computing
        await coordinator.publish(epoch, update + 1, update + 1, [no_weights(update + 1, update + 1)])
        await coordinator.metrics(), await coordinator.report({})
    measured.elapsed_s = clock() - started
    note_deliveries(measured, coordinator, began)
    return measured


def note_deliveries(measured: Measured, coordinator: SimulatedCoordinator, began: float) -> None:
    """Compare each window's delivery with (start + K) / N of its rollout's time, and the first one's with all."""
    config, pool = measured.config, coordinator.pool
    dispatcher = make_dispatcher(stage_spec("dmd", config))
    predicted = {
        (rollout.id, plan.index): (plan.start + config.window.frames) / config.rollout.frames * ROLLOUT_S
        for i in pool.started
        for rollout in dispatcher.rollouts(i)
        for plan in rollout.windows
    }
    measured.lateness = [
        (available - pool.started[where[0]]) / predicted[where] for where, available in coordinator.available.items()
    ]
    measured.first_s = min(coordinator.available.values()) - began
    measured.predicted_first_s = min(s for (rollout, _), s in predicted.items() if rollout in pool.slots)


def starts_p_value(runs: list[Measured], role: str) -> float:
    """Return the chi-square p of consumed starts against uniform, without the rollouts at both edges of a run.

    Those are the first of every actor, and all that have windows left.
    """
    config = runs[0].config
    starts = window_starts(config.rollout.frames, config.window.frames, config.student.block_frames)
    counts = [0] * POSITION_BINS
    for run in runs:
        taken = Counter(window.rollout for window in run.taken)
        first_open = next(i for i in count() if taken[i] < config.rollout.windows)
        for window in run.taken:
            if window.role == role and config.cluster.rollout_actors <= window.rollout < first_open:
                counts[starts.index(window.start) * POSITION_BINS // len(starts)] += 1
    expected = [0.0] * POSITION_BINS
    for i in range(len(starts)):
        expected[i * POSITION_BINS // len(starts)] += sum(counts) / len(starts)
    return float(chisquare(counts, expected).pvalue)


def run_alone(work: Coroutine[Any, Any, Any]) -> Any:
    """Run in an event loop that counts in microseconds: epoll's milliseconds are late by a seventh of a block."""
    gc.collect()
    gc.freeze()  # one collection over all that torch has imported would be longer than a block
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(work)


def main() -> None:
    config = run_config(BALANCED_ACTORS)
    share = made_share(make_dispatcher(stage_spec("dmd", config)), config.rollout, config.window)
    windows = config.dmd.batch_size * (1 + CRITIC_UPDATES)
    sized = pool_size(ROLLOUT_S * share, config.rollout.windows, UPDATE_S, windows)
    locked, ceilings, balanced, fitted = [], [], [], []
    for seed in range(REPEATS):
        updates_per_s, ceiling = run_alone(lock_step(run_config(BALANCED_ACTORS, seed), ROUNDS))
        locked.append(updates_per_s)
        ceilings.append(ceiling)
        balanced.append(run_alone(streaming(run_config(BALANCED_ACTORS, seed), WARM_UP, UPDATES)))
        fitted.append(run_alone(streaming(run_config(sized, REPEATS + seed), WARM_UP, UPDATES)))
    report(sized, share, locked, ceilings, balanced, fitted)


def report(
    sized: int,
    share: float,
    locked: list[float],
    ceilings: list[float],
    balanced: list[Measured],
    fitted: list[Measured],
) -> None:
    """Print the lines."""
    device = "simulated: sleeping actors and learner, one process, no Ray"
    config = {"scale": SCALE, "learner_gpus": LEARNER_GPUS, "rollout_s": ROLLOUT_S, "update_s": round(UPDATE_S, 4)}
    at_17, at_sized = config | {"actors": BALANCED_ACTORS}, config | {"actors": sized, "made_share": round(share, 4)}
    speedups = [run.updates_per_s / slow for run, slow in zip(balanced, locked, strict=True)]
    print_line("decoupling.lock_step", locked, "updates/s", device, at_17)
    rates = [run.updates_per_s for run in balanced]
    ages = statistics.mean(window.age for run in balanced for window in run.taken)
    print_line("decoupling.streaming", rates, "updates/s", device, at_17, 1 / UPDATE_S, mean_age_updates=round(ages, 2))
    print_line("decoupling.updates_speedup", speedups, "x", device, at_17, statistics.median(ceilings))
    print_line("decoupling.idle_share", [run.idle_share for run in fitted], "of the learner's time", device, at_sized)
    ratios = sorted(ratio for run in balanced + fitted for ratio in run.lateness)
    worst = [max(run.lateness) for run in balanced + fitted]
    p99 = ratios[int(0.99 * len(ratios))]
    unit = "x (start + K) / N of the rollout's time"
    print_line("decoupling.delivery_worst", worst, unit, device, config, 1.0, max(worst), windows=len(ratios))
    print_line("decoupling.delivery_p99", ratios, unit, device, config, 1.0, p99)
    first = [run.first_s for run in balanced]
    predicted = [run.predicted_first_s for run in balanced]
    ratio = [a / b for a, b in zip(first, predicted, strict=True)]
    print_line("decoupling.first_window", ratio, "x its prediction", device, at_17, 1.0, s=first, predicted_s=predicted)
    for role in (STUDENT, CRITIC):
        p_value = starts_p_value(balanced + fitted, role)
        counted = sum(window.role == role for run in balanced + fitted for window in run.taken)
        print_line(f"decoupling.{role}_starts", [p_value], "chi-square p", device, config, windows=counted)


if __name__ == "__main__":
    main()
