"""Size the rollout pool so that the learner does not wait for it."""

import math

from actors.dispatchers import StudentDispatcher
from actors.rollout_config import RolloutConfig, WindowConfig

_DISPATCHES, _WINDOWS = 512, 2**16
"""Most dispatches, and about as many windows, over which the law of windows is averaged: to about one percent."""


def pool_size(rollout_s: float, rollout_windows: int, update_s: float, update_windows: int) -> int:
    """Compute the fewest actors that make windows as fast as the learner takes them.

    An actor makes `rollout_windows` windows in `rollout_s` seconds, the learner takes `update_windows` of all roles in
    the `update_s` seconds between two publishes:

        actors = ceil((update_windows / update_s) / (rollout_windows / rollout_s))

    `rollout_s` is the time until a dispatch's last window (`made_share` of the whole video), `rollout_windows` those of
    all its videos. Raises ValueError for arguments that are not above 0.
    """
    given = {
        "rollout_s": rollout_s,
        "rollout_windows": rollout_windows,
        "update_s": update_s,
        "update_windows": update_windows,
    }
    for name, value in given.items():
        if not value > 0:
            raise ValueError(f"{name} is {value}; a pool is sized by numbers above 0")
    actors = update_windows * rollout_s / (update_s * rollout_windows)
    return max(1, math.ceil(actors * (1 - 1e-9)))  # a ratio that is whole must not be rounded up for its last bit


def made_share(dispatcher: StudentDispatcher, rollout: RolloutConfig, window: WindowConfig) -> float:
    """Average the share of `rollout.frames` that an actor makes: it stops after the last window of its videos.

    Over the first dispatches of `dispatcher`, so for any law of windows.
    """
    dispatches = min(_DISPATCHES, max(1, _WINDOWS // (rollout.batch * rollout.windows)))
    ends = [
        max(plan.start + window.frames for one in dispatcher.rollouts(i * rollout.batch) for plan in one.windows)
        for i in range(dispatches)
    ]
    return sum(ends) / (dispatches * rollout.frames)
