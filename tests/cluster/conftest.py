"""A local Ray of the tests' own, started once and stopped with the session."""

import pytest

from cluster.bootstrap.ray_environment import settle_environment
from cluster.config.buffer_config import BufferConfig
from cluster.config.cluster_config import ClusterConfig
from cluster.config.run_config import Config

settle_environment(Config())  # here, because test modules import ray when they are collected


@pytest.fixture(scope="session")
def local_ray():
    import ray

    ray.init(
        address="local",
        num_cpus=3,
        include_dashboard=False,
        object_store_memory=256 * 2**20,
        log_to_driver=False,
    )
    yield ray
    ray.shutdown()


@pytest.fixture
def small_config(tmp_path):
    """Rollouts of two horizons, five positions; enough windows in each to draw a histogram."""

    def make(**changes) -> Config:
        config = Config(run_dir=str(tmp_path), cluster=ClusterConfig(timeout_s=120.0), buffer=BufferConfig(windows=256))
        config.rollout.frames, config.rollout.windows = 24, 16
        for path, value in changes.items():
            part, _, name = path.rpartition("__")
            setattr(getattr(config, part) if part else config, name, value)
        return config

    return make
