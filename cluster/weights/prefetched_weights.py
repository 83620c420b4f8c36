"""Prefetch weights in a thread of the rollout process, so that the rollout never waits for them."""

import logging
import threading
from collections.abc import Callable
from dataclasses import replace

import torch
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError

from cluster.run_errors import Leaving
from models.records import Weights

Fetch = Callable[[int | None], Weights | None]
"""Call that returns weights newer than a version, or None after some seconds without any."""

_FIRST_TIMEOUT_S = 60.0

_log = logging.getLogger(__name__)


class PrefetchedWeights:
    """Double-buffers weights: the network holds one version, a newer one is ready on the same device.

    Only the newest is kept. With a GPU, an unused version is dropped before the next one is copied, so that there
    are never more than two on the device. Each version is returned once, to one actor.
    """

    def __init__(self, fetch: Fetch, device: str = "cpu", leave: threading.Event | None = None):
        """Start the fetching thread; `leave` is set when the process must end."""
        self._fetch, self._device, self._leave = fetch, torch.device(device), leave or threading.Event()
        self._stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None
        self._change = threading.Condition()
        self._standby: Weights | None = None
        self._newest: int | None = None
        self._failure: Exception | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="weights", daemon=True)
        self._thread.start()

    def newer(self, than: int | None, first_timeout_s: float = _FIRST_TIMEOUT_S) -> Weights | None:
        """Return fetched weights newer than `than`, or None; `than=None` waits for the first.

        Raises Leaving when the process must end or the weights cannot be fetched, else the exception of `fetch`: a
        process may end between two blocks.
        """
        if self._leave.is_set():
            raise Leaving
        with self._change:
            if than is None:
                self._change.wait_for(lambda: self._newest is not None or self._failure is not None, first_timeout_s)
            failure = self._failure
            if than is None and self._newest is None and failure is None:
                failure = TimeoutError(f"no weights were published within {first_timeout_s} s")
            if isinstance(failure, GetTimeoutError | ObjectLostError | RayActorError | TimeoutError):
                _log.warning("no weights can be fetched here (%s); another process continues", failure)
                raise Leaving from failure
            if failure is not None:
                raise failure
            weights = self._standby
            if weights is None or (than is not None and weights.version <= than):
                return None
            self._standby = None
        if self._stream is not None:
            for tensor in weights.tensors.values():
                # Otherwise the allocator hands their memory to the next copy while the network still computes.
                tensor.record_stream(torch.cuda.current_stream(self._device))
        return weights

    def close(self, timeout_s: float = 10.0) -> None:
        """Stop fetching. After `timeout_s` a hanging fetch is abandoned; its thread ends with the process."""
        with self._change:
            self._closed = True
            self._standby = None
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            _log.warning("a fetch of weights did not end within %s s of closing", timeout_s)

    def _run(self) -> None:
        try:
            while not self._closed:
                weights = self._fetch(self._newest)
                if weights is None:
                    continue
                if self._stream is not None:
                    with self._change:
                        self._standby = None
                    with torch.cuda.stream(self._stream):
                        copies = {n: t.to(self._device, non_blocking=True) for n, t in weights.tensors.items()}
                    self._stream.synchronize()
                    weights = replace(weights, tensors=copies)
                    del copies
                with self._change:
                    if not self._closed:
                        self._standby, self._newest = weights, weights.version
                        self._change.notify_all()
                del weights  # the next fetch must not keep a version that the network has released
        except Exception as error:  # belongs to the actor's thread, which raises it at its next block
            with self._change:
                self._failure = error
                self._change.notify_all()
