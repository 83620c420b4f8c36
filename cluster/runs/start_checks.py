"""Checks of weights and stages before a run starts. Each takes the parts that it compares."""

import sys
from collections.abc import Collection

from torch import nn

from cluster.runs.run_folder import RunFolder
from learner.stage_config import Source
from models.checkpoints.weight_files import check_weights, verify_weights
from models.errors import ConfigError


def check_source(source: Source, network: nn.Module) -> None:
    """Compare weights with the shapes of `network` (on "meta"), and with their own checksum. Raises ValueError."""
    check_weights(source.path, source.key, network, source.part)
    verify_weights(source.path, source.key)


def check_stage_folders(folder: RunFolder, student: nn.Module, teacher: nn.Module) -> None:
    """Verify results and checkpoints of all stages in a run folder. Raises ValueError."""
    for path in sorted(folder.path.glob("*/")):
        stage = folder.stage(path.name)
        stage.verify()
        if stage.finished:
            check_weights(stage.result, "run_dir", teacher if path.name == "teacher" else student)


def check_student_of_dmd(folder: RunFolder, stages: Collection[str], init: str | None) -> None:
    """Reject stage dmd without a student to start from. Raises ConfigError."""
    if "dmd" in stages and "ode" not in stages and init is None and not folder.stage("ode").finished:
        raise ConfigError(
            "stage", list(stages), "dmd starts from a student", "run stage ode first, or write init=WEIGHTS"
        )


def check_teacher_of_students(folder: RunFolder, stages: Collection[str]) -> None:
    """Reject a new teacher in a folder whose students learnt from another. Raises ConfigError."""
    students = [name for name in ("ode", "dmd", "grpo") if (folder.path / name).exists()]
    if "teacher" in stages and students and not folder.stage("teacher").finished:
        raise ConfigError(
            "run_dir", folder.path, f"its {' and '.join(students)} had another teacher",
            "leave stage teacher out, or write a new run_dir",
        )  # fmt: skip


def check_start_of_grpo(init: Source, critic: Source | None, base: Source, student: nn.Module) -> None:
    """Check the networks that stage grpo starts from, and note a critic that never saw this student.

    `critic` is None where the stage has no extended DMD loss. Raises ValueError.
    """
    check_source(init, student)
    if critic is not None:
        check_source(critic, student)
    if critic == base:
        print(
            f"note: no critic lies beside {init.path}; that of stage grpo starts from {base.path} and does not know "
            "the student yet (grpo.critic names one)",
            file=sys.stderr,
        )
