"""Lines for the driver's terminal, from whatever process they come."""

import logging

import ray


class News(logging.Handler):
    """Warnings of our own code in this process, sent to the coordinator; nobody waits for it."""

    def __init__(self, coordinator: ray.actor.ActorHandle):
        super().__init__(logging.WARNING)
        self.coordinator = coordinator

    def emit(self, record: logging.LogRecord) -> None:
        """Send one."""
        self.coordinator.tell.remote(record.getMessage())


def forward_warnings(coordinator: ray.actor.ActorHandle, *packages: str) -> None:
    """From now on the warnings of `packages` reach the terminal; Ray forwards no logs of ours."""
    for package in packages:
        logging.getLogger(package).addHandler(News(coordinator))
