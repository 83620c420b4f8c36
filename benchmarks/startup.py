"""Measure the seconds from the start of a command to its first answer.

python -m benchmarks.startup   One minute and a half on two cores.

`help`: until `--help` of a command has been printed and the process has ended. Its limit is a third of a second.
`first_update`: until metrics.jsonl has the first update of preset=smoke, on Ray and in one process; with it the same
seconds up to the display of each phase, and the CPU seconds of all processes until then, which a loaded machine
changes less. The run is stopped after it. `ray starts`: this process has imported torch and checked the files.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from benchmarks.command import run
from benchmarks.line import print_line
from models.keys import KeyGroup, key
from settings import ROOT

_MODULES = ("rewards.try", "models.worlds.make_mini")
_HELP_LIMIT_S = 0.3
_TIMEOUT_S = 120.0
_POLL_S = 0.05
_PHASES = {"starting Ray: 0": "ray starts", "starting Ray: 1": "ray is up", "starting learner: 0": "learner starts"}
"""Names of the phases, by the beginning of the line that the display shows as the phase begins."""


@dataclass(kw_only=True)
class StartupOptions(KeyGroup):
    """Describes a measurement of start-up."""

    repeats: int = key(3, "starts of each command", ge=1)


def help_s(arguments: list[str]) -> float:
    """Return the seconds that `python ARGUMENTS --help` takes."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments, "--help"], cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - began


def first_update(kind: str, folder: Path) -> tuple[float, float, dict[str, float]]:
    """Start a smoke run; return the seconds and CPU seconds until its first update, and the seconds to each phase."""
    log, metrics = folder / "log", folder / "run" / "metrics.jsonl"
    words = [sys.executable, "train.py", "preset=smoke", f"cluster={kind}", f"run_dir={metrics.parent}"]
    began, phases = time.time(), {}
    with log.open("w") as file:
        process = subprocess.Popen(words, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
    spent: dict[int, float] = {}
    try:
        while not (metrics.is_file() and metrics.read_text().endswith("\n")):
            if process.poll() is not None or time.time() > began + _TIMEOUT_S:
                raise SystemExit(f"no update: {log.read_text()}")
            for line in log.read_text().splitlines():
                for beginning, name in _PHASES.items():
                    if line.startswith(beginning):
                        phases.setdefault(name, round(time.time() - began, 2))
            count_cpu(process.pid, spent)
            time.sleep(_POLL_S)
        count_cpu(process.pid, spent)
        first = json.loads(metrics.read_text().splitlines()[0])
    finally:
        os.kill(process.pid, signal.SIGINT)
        process.wait(timeout=_TIMEOUT_S)
    return first["time"] - began, sum(spent.values()), phases


def count_cpu(pid: int, spent: dict[int, float]) -> None:
    """Keep the CPU seconds of a process and of all its descendants; those of ended ones stay."""
    process = psutil.Process(pid)
    for each in (process, *process.children(recursive=True)):
        try:
            times = each.cpu_times()
        except psutil.NoSuchProcess:
            continue
        spent[each.pid] = times.user + times.system


def main(config: StartupOptions) -> None:
    device = f"cpu, {os.cpu_count()} cores"
    for words in [[path.name] for path in sorted(ROOT.glob("*.py"))] + [["-m", module] for module in _MODULES]:
        seconds = [help_s(words) for _ in range(config.repeats)]
        print_line("startup.help", seconds, "s", device, {"command": words[-1]}, _HELP_LIMIT_S)
    for kind in ("laptop", "inline"):
        with TemporaryDirectory() as folder:
            places = [Path(folder, str(i)) for i in range(config.repeats)]
            for place in places:
                place.mkdir()
            starts = [first_update(kind, place) for place in places]
        walls, cpus, phases = zip(*starts, strict=True)
        shown = {"preset": "smoke", "cluster": kind}
        print_line("startup.first_update", walls, "s", device, shown, phases_s=phases, cpu_s=cpus)


if __name__ == "__main__":
    run(main, __doc__, StartupOptions)
