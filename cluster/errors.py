"""Why a run ends before its time."""


class RunFailed(Exception):
    """The run stopped on its own: one line that says where, why, and what to change."""
