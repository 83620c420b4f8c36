"""Fixtures of all tests: one local Ray for a session of pytest, and a configuration that fits it."""

import gc
from collections.abc import Iterator

import hypothesis
import pytest
import torch

from cluster.bootstrap.ray_environment import settle_environment
from cluster.config.buffer_config import BufferConfig
from cluster.config.cluster_config import ClusterConfig
from cluster.config.run_config import Config

torch.set_num_threads(1)
settle_environment(ClusterConfig())  # test modules import ray when they are collected; Ray reads its environment then

# The first example of a test may import or compile; no law limits the duration of an example.
hypothesis.settings.register_profile("longtake", deadline=None)
hypothesis.settings.load_profile("longtake")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of whole commands first: the longest ones at the end would leave one worker idle."""
    items.sort(key=lambda item: item.path.parent.name != "system")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Import all test modules without looking for garbage, and leave what they hold to no later collection.

    A fifth of the time of importing would go there, and a third of a second to each later call of gc.collect.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session")
def local_ray():
    """Start Ray once for each worker of pytest; stop it with the session."""
    import ray

    ray.init(
        address="local",
        num_cpus=3,
        include_dashboard=False,
        object_store_memory=256 * 2**20,
        log_to_driver=False,
        _system_config={"metrics_report_interval_ms": 1000},
    )
    yield ray
    ray.shutdown()


@pytest.fixture
def small_config(tmp_path):
    """Make a configuration with rollouts of two horizons and five positions, and windows for a histogram in each."""

    def make(**changes) -> Config:
        config = Config(run_dir=str(tmp_path), cluster=ClusterConfig(timeout_s=120.0), buffer=BufferConfig(windows=256))
        config.rollout.frames, config.rollout.windows = 24, 16
        for path, value in changes.items():
            part, _, name = path.rpartition("__")
            setattr(getattr(config, part) if part else config, name, value)
        return config

    return make
