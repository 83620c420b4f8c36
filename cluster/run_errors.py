"""Reasons for which a run, a stage or a process ends early."""

from models.errors import StopsRun


class RunFailed(StopsRun):
    """Stop the run with one line that names place, reason and cure."""


class CannotStart(RunFailed):
    """Reject a run that the cluster has no place for, before any of its processes starts."""

    status = 2


class StageEnded(Exception):
    """Report that the caller's stage is over: another has begun, or the same one again."""


class Leaving(Exception):
    """End a rollout process at a block boundary; another process continues its videos."""
