"""Why work ends before its time."""


class RunFailed(Exception):
    """The run stopped on its own: one line that says where, why, and what to change."""

    status = 1
    """Exit status of the command."""


class CannotStart(RunFailed):
    """The cluster cannot take the run: said before any process of it is made."""

    status = 2


class StageEnded(Exception):
    """Nobody waits for this any more: another stage has begun, or the same one again."""


class Leaving(Exception):
    """This rollout process is about to go away: another one goes on with its videos."""
