"""Run a reward model in a process of its own environment: requests and answers are lines of JSON."""

import json
import os
import selectors
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_SCRIPT = Path(__file__).with_name("model_script.py")


_END_TIMEOUT_S = 10.0


class ModelFailed(RuntimeError):
    """Tells in a line why a reward model gave no score."""


class ModelProcess:
    """Keeps a reward model loaded in another Python. A lost or late process is replaced at the next request."""

    def __init__(self, python: str, arguments: Sequence[str], start_timeout_s: float, timeout_s: float):
        """Prepare; the process starts with `load`, or with the first request."""
        self._command = [python, str(_SCRIPT.absolute()), *arguments]
        self._start_timeout_s, self._timeout_s = start_timeout_s, timeout_s
        self._process: subprocess.Popen | None = None
        self._turn = threading.Lock()
        """Held by the one request under way: rewards of one model run in threads of their own."""
        self._requests = 0

    def load(self) -> None:
        """Start the process, unless it runs, and wait until its model is loaded. Raises ModelFailed, OSError."""
        with self._my_turn(self._start_timeout_s):
            self._ensure_started()

    def rate(self, prompt: str, files: Sequence[Path]) -> Mapping[str, float]:
        """Return the model's scores of a clip, whose pictures or video are `files`. Raises ModelFailed."""
        with self._my_turn(self._timeout_s):
            self._ensure_started()
            self._requests += 1
            request = {"id": self._requests, "prompt": prompt, "files": [str(file) for file in files]}
            try:
                self._process.stdin.write(json.dumps(request).encode() + b"\n")
                self._process.stdin.flush()
            except OSError as error:
                raise ModelFailed(f"the process of the reward model ended: {self._end()}") from error
            answer = self._answer(self._timeout_s)
            if answer.get("id") != self._requests:
                raise ModelFailed(f"the reward model answered another request: {self._end()}")
        if "error" in answer:
            raise ModelFailed(answer["error"])
        return answer["scores"]

    @contextmanager
    def _my_turn(self, timeout_s: float) -> Iterator[None]:
        if not self._turn.acquire(timeout=timeout_s):
            raise ModelFailed(f"another request holds the reward model for more than {timeout_s:g} s")
        try:
            yield
        finally:
            self._turn.release()

    def _ensure_started(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self._end()
        # Not read while the model loads: a pipe that nobody empties would stop it.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed with the process
        offline = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}  # its packages would download
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, env=offline,
            start_new_session=True,
        )  # fmt: skip
        if "ready" not in self._answer(self._start_timeout_s):
            raise ModelFailed(f"the process of the reward model did not start: {self._end()}")

    def _answer(self, timeout_s: float) -> dict:
        """Read one line within the time. Raises ModelFailed, and then ends the process."""
        pipe, line, end = self._process.stdout, b"", time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, end - time.monotonic())):
                    self._end()
                    raise ModelFailed(f"no answer of the reward model within {timeout_s:g} s")
                piece = os.read(pipe.fileno(), 1 << 16)
                if not piece:
                    raise ModelFailed(f"the process of the reward model ended: {self._end()}")
                line += piece
        try:
            return json.loads(line)
        except ValueError as error:
            raise ModelFailed(f"the reward model answered no JSON: {self._end()}") from error

    def _end(self) -> str:
        """End the process, if there is one; return the last line of its log."""
        if self._process is None:
            return ""
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):  # it hangs in a driver: the kernel ends it when it can
            self._process.wait(_END_TIMEOUT_S)
        self._process.stdin.close()
        self._process.stdout.close()
        self._process = None
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        self._log.close()
        return lines[-1] if lines else "it printed nothing"
