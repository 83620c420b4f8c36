"""Declare the keys of the window buffer between actors and learner."""

from dataclasses import dataclass

from models.keys import KeyGroup, key


@dataclass(kw_only=True)
class BufferConfig(KeyGroup, group="buffer"):
    """Configures size and age limit of the window buffer."""

    windows: int = key(
        192, "largest number of windows dispatched or waiting; at this limit actors wait", ge=1, le=1_000_000
    )
    policy: str = key(
        "wait",
        "policy for windows above buffer.max_age: wait (dispatch later), drop (make again) or weight (buffer.decay)",
        choices=("wait", "drop", "weight"),
    )
    max_age: int = key(8, "largest age of a window, in student updates between its oldest block and its use", ge=1)
    decay: float = key(
        0.5, "factor on a window's weight per update beyond buffer.max_age, with buffer.policy=weight", ge=0, lt=1
    )
    bad_share: float = key(
        0.1, "share of rejected windows (NaN, wrong shape or version) above which the run stops", ge=0, lt=1
    )
