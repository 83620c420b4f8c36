"""Define the errors that end a run, a stage or a process early."""

from models.errors import StopsRun


class RunFailed(StopsRun):
    """Stops the run with one line that names place, reason and fix."""


class CannotStart(RunFailed):
    """Rejects a run that does not fit the cluster, before any of its processes starts."""

    status = 2


class StageEnded(Exception):
    """Reports that the caller's stage is over: another has begun, or the same one again."""


class Leaving(Exception):
    """Ends a rollout process at a block boundary; another process continues its videos."""
