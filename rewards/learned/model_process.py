"""Run a reward model in a process of its own environment: requests and answers are lines of JSON."""

import json
import os
import selectors
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_SCRIPT = Path(__file__).with_name("model_script.py")


class ModelFailed(RuntimeError):
    """Tells in a line why a reward model gave no score."""


class ModelProcess:
    """Keeps a reward model loaded in another Python. A lost or late process is replaced at the next request."""

    def __init__(self, python: str, arguments: Sequence[str], start_timeout_s: float, timeout_s: float):
        """Prepare; the process starts with `load`, or with the first request."""
        self._command = [python, str(_SCRIPT.absolute()), *arguments]
        self._start_timeout_s, self._timeout_s = start_timeout_s, timeout_s
        self._process: subprocess.Popen | None = None

    def load(self) -> None:
        """Start the process, unless it runs, and wait until its model is loaded. Raises ModelFailed, OSError."""
        if self._process is None or self._process.poll() is not None:
            self._start()

    def rate(self, prompt: str, files: Sequence[Path]) -> Mapping[str, float]:
        """Return the model's scores of a clip, whose pictures or video are `files`. Raises ModelFailed."""
        self.load()
        request = json.dumps({"prompt": prompt, "files": [str(file) for file in files]})
        try:
            self._process.stdin.write(request.encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise ModelFailed(f"the process of the reward model ended: {self._end()}") from error
        answer = self._answer(self._timeout_s)
        if "error" in answer:
            raise ModelFailed(answer["error"])
        return answer["scores"]

    def _start(self) -> None:
        self._end()
        # Not read while the model loads: a pipe that nobody empties would stop it.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed with the process
        # It ends by itself when this process does, because its standard input then ends.
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, start_new_session=True
        )
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
        return json.loads(line)

    def _end(self) -> str:
        """End the process, if there is one; return the last line of its log."""
        if self._process is None:
            return ""
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()
        self._process = None
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        self._log.close()
        return lines[-1] if lines else "it printed nothing"
