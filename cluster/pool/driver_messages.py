"""Send warnings of this process to the driver's terminal, because Ray does not forward our logs."""

import logging

import ray


class NewsHandler(logging.Handler):
    """Sends warnings of our own code to the coordinator, without waiting."""

    def __init__(self, coordinator: ray.actor.ActorHandle):
        super().__init__(logging.WARNING)
        self.coordinator = coordinator

    def emit(self, record: logging.LogRecord) -> None:
        """Send one warning."""
        self.coordinator.tell.remote(record.getMessage())


def forward_warnings(coordinator: ray.actor.ActorHandle, *packages: str) -> None:
    """Forward the warnings of `packages` to the driver's terminal from now on."""
    for package in packages:
        logging.getLogger(package).addHandler(NewsHandler(coordinator))
