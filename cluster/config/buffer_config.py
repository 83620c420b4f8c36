"""Keys of the windows that wait between actors and learner. Imports no torch: help must be quick."""

from dataclasses import dataclass

from models.keys import key, require_positive, require_share


@dataclass(kw_only=True)
class BufferConfig:
    """Windows that wait for the learner."""

    windows: int = key(192, "windows dispatched or waiting at most; beyond that actors wait")
    policy: str = key("wait", "too old windows: wait (none are dispatched so early), drop (made again) or weight")
    max_age: int = key(8, "student updates between a window's oldest block and its use, from which it is too old")
    decay: float = key(0.5, "weight of a window per update beyond max_age (policy weight)")
    bad_share: float = key(0.1, "share of refused windows (NaN, wrong shape or version) above which the run stops")

    def __post_init__(self):
        if self.policy not in ("wait", "drop", "weight"):
            raise ValueError(f'buffer.policy is "{self.policy}"; set it to wait, drop or weight')
        require_positive("buffer", self, "windows", "max_age")
        require_share("buffer", self, "decay", "bad_share")
