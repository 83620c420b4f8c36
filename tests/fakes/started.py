"""A Ray of several nodes as people start one: `ray start` on each, here all on this machine."""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
TOKEN = "0123456789abcdef" * 4
STARTING_S = 180


class StartedNodes:
    """A head and nodes, ended with the block. `head` and what is added are commands as people give them.

    `auth` is open, or token: then the head demands the token of a home folder of their own.
    """

    def __init__(self, folder, auth, head, bin=BIN):
        self.folder, self.bin, self.processes, self.folders, self.agents = folder, bin, [], [], []
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.env |= {
            "HOME": str(folder / "home"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "PATH": f"{bin}:{os.environ['PATH']}",
        }
        (folder / "home/.ray").mkdir(parents=True)
        self.env["RAY_AUTH_MODE"] = "disabled"
        if auth == "token":
            (folder / "home/.ray/auth_token").write_text(TOKEN)
            self.env["RAY_AUTH_MODE"] = "token"
        self.port, self.dashboard, self.client = free_ports(3)
        self.head = head

    def __enter__(self):
        head = ["--head", f"--port={self.port}", f"--dashboard-port={self.dashboard}", "--include-dashboard=true"]
        process = self._start([*head, f"--ray-client-server-port={self.client}", *own_options(self.head)])
        self._wait_for(process, lambda: socket.create_connection(("127.0.0.1", self.dashboard), timeout=1).close())
        return self

    def __exit__(self, *_):
        for process, _ in reversed(self.processes):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=30)
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def job_server(self):
        return f"http://127.0.0.1:{self.dashboard}"

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def add(self, command):
        """Start another node; returns at once."""
        # An address of its own: a driver attaches to whatever node it finds at the head's address.
        here = f"--node-ip-address=127.0.0.{len(self.processes) + 1}"
        self._start([f"--address={self.address}", here, *own_options(command)])

    def run(self, command, timeout=400, cwd=None, **env):
        """A command of a user's shell on this cluster."""
        return subprocess.run(
            ["bash", "-c", command], env=self.env | env, cwd=cwd, capture_output=True, text=True, timeout=timeout
        )

    def _start(self, options):
        # Ray's sockets lie in here, and a socket's path may have 107 characters.
        folder = tempfile.mkdtemp(prefix="ray-")
        self.folders.append(folder)
        log = self.folder / f"node_{len(self.processes)}.log"
        command = [self.bin / "ray", "start", "--block", *options, f"--temp-dir={folder}", "--disable-usage-stats"]
        self.agents += free_ports(1)
        command += ["--object-store-memory=268435456", f"--dashboard-agent-listen-port={self.agents[-1]}"]
        with log.open("w") as output:
            process = subprocess.Popen(
                command, env=self.env, cwd=self.folder, stdout=output, stderr=output, start_new_session=True
            )
        self.processes.append((process, log))
        return process

    def _wait_for(self, process, connect):
        deadline = time.monotonic() + STARTING_S
        log = self.processes[0][1]
        while time.monotonic() < deadline:
            assert process.poll() is None, log.read_text()
            try:
                return connect()
            except OSError:
                time.sleep(0.2)
        pytest.fail(log.read_text())


def own_options(command):
    """Those of `ray start` that this machine, with all nodes on it, does not settle otherwise."""
    return [word for word in shlex.split(command)[2:] if not word.startswith(("--head", "--address", "--block"))]


def free_ports(n):
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(n)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def until(condition, seconds, what):
    """The first true answer of `condition`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.3)
    pytest.fail(f"{what} within {seconds} s")
