"""The numbers that the smoke run must give, to the last bit. Write them again only where a change of numbers is meant:

python train.py preset=smoke cluster=inline run_dir=runs/golden && python -m tests.golden.smoke_losses runs/golden
"""

import json
import sys
from pathlib import Path

GOLDEN = Path(__file__).with_suffix(".json")
GROUPS = ("pretrain/", "ode/", "critic/", "student/", "replay/", "policy/", "reward/", "sentinel/")
"""Metrics of the mathematics. All others measure time, or count windows."""


def losses(run_dir: Path) -> list[dict]:
    """Read stage, step and the metrics of `GROUPS` from each line that a run has logged."""
    lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [
        {key: value for key, value in line.items() if key in ("stage", "step") or key.startswith(GROUPS)}
        for line in lines
    ]


if __name__ == "__main__":
    rows = ",\n".join(f" {json.dumps(row)}" for row in losses(Path(sys.argv[1])))
    GOLDEN.write_text(f"[\n{rows}\n]\n")  # Python writes the shortest digits that read back as the same float
