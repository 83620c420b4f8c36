"""A run resumes on two, one, two and four ranks with the losses of a run that never stopped."""

from datetime import timedelta
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import distributed, multiprocessing

from cluster.runs.checkpoints.stage_folder import StageFolder
from learner.stage_config import LearnerConfig
from tests.learner.parallel.test_collectives import distance, distiller, train, write_networks

RANKS = (2, 1, 2, 4)


def live(rank: int, folder: Path) -> None:
    """Take part in each start of the run that has this rank: resume, update once, save."""
    torch.set_num_threads(1)
    for step, ranks in enumerate(RANKS):
        if rank >= ranks:
            continue
        if ranks > 1:
            store, patience = f"file://{folder}/store{step}", timedelta(seconds=120)
            distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=ranks, timeout=patience)
        trained = distiller(folder, LearnerConfig())
        with StageFolder(folder / "stage") as stage:
            stage.restore(trained)
            assert trained.step == step
            log = train(trained, step, step + 1)
            stage.save(trained, trained.step)
        if rank == 0:
            save_file(log, folder / f"{step}.results")
        if ranks > 1:
            distributed.destroy_process_group()


@pytest.mark.proof
@pytest.mark.slow
def test_losses_over_three_resumes_on_other_numbers_of_ranks_are_those_of_an_uninterrupted_run(tmp_path):
    write_networks(tmp_path)
    multiprocessing.spawn(live, (tmp_path,), nprocs=max(RANKS))
    whole = train(distiller(tmp_path, LearnerConfig()), 0, len(RANKS))
    resumed = {name: value for i in range(len(RANKS)) for name, value in load_file(tmp_path / f"{i}.results").items()}
    assert distance(resumed, whole) <= 1e-5
