"""The actor's side of the weights: the newest version is fetched beside the rollout, which never waits for it."""

import logging
import threading
from collections.abc import Callable
from dataclasses import replace

import torch

from models.records import Weights

Fetch = Callable[[int | None], Weights | None]
"""Weights newer than a version. Waits for some seconds for them to appear, then answers None and is asked again."""

_log = logging.getLogger(__name__)


class PrefetchedWeights:
    """A double buffer: the network holds one version, the newest other one stands by on the same device.

    Only the newest is kept. With a GPU, a version that nobody took is given up before the next one is copied, so that
    there are never more than two on the device. For one actor only: a version is handed out once.
    """

    def __init__(self, fetch: Fetch, device: str = "cpu"):
        self._fetch, self._device = fetch, torch.device(device)
        self._stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None
        self._arrived = threading.Condition()
        self._standby: Weights | None = None
        self._newest: int | None = None
        self._failure: Exception | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="weights", daemon=True)
        self._thread.start()

    def first(self, timeout_s: float) -> None:
        """Wait for the very first version. Raises TimeoutError, or what `fetch` raised."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: self._newest is not None or self._failure is not None, timeout_s):
                raise TimeoutError(f"no weights were published within {timeout_s} s")
            if self._failure is not None:
                raise self._failure

    def newer(self, than: int | None) -> Weights | None:
        """The newest weights that have arrived, if they are newer than `than`. Never waits; raises what `fetch` did."""
        with self._arrived:
            if self._failure is not None:
                raise self._failure
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
        """Fetch no more. A fetch that hangs is left behind after `timeout_s`; its thread ends with the process."""
        with self._arrived:
            self._closed = True
            self._standby = None
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            _log.warning("a fetch of weights did not end within %s s of closing", timeout_s)

    def _run(self) -> None:
        try:
            while not self._closed:
                self._step()
        except Exception as error:  # belongs to the actor's thread, which is told at its next block
            with self._arrived:
                self._failure = error
                self._arrived.notify_all()

    def _step(self) -> None:
        weights = self._fetch(self._newest)
        if weights is None:
            return
        if self._stream is not None:
            with self._arrived:
                self._standby = None
            weights = self._on_device(weights)
        with self._arrived:
            if not self._closed:
                self._standby, self._newest = weights, weights.version
                self._arrived.notify_all()

    def _on_device(self, weights: Weights) -> Weights:
        with torch.cuda.stream(self._stream):
            tensors = {name: tensor.to(self._device, non_blocking=True) for name, tensor in weights.tensors.items()}
        self._stream.synchronize()
        return replace(weights, tensors=tensors)
