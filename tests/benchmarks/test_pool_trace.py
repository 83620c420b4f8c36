"""The picture of a pool is drawn from what a run has written down."""

import pytest

import settings
from benchmarks.pool_trace import Options, main
from cluster.autoscale.loop import Autoscaling
from cluster.autoscale.meter import Meter
from cluster.config.autoscale_config import AutoscaleConfig
from cluster.runs.factory import make_supply
from cluster.runs.stage_spec import stage_spec
from models.errors import ConfigError
from tests.fakes.small_runs import small


def test_a_picture_is_drawn_of_every_run_that_looked_at_its_pool_and_of_no_other(tmp_path):
    config = small()
    config.run_dir, config.autoscale = str(tmp_path), AutoscaleConfig(enabled=True)
    for arguments in ([f"run_dir={tmp_path}"], []):
        with pytest.raises(ConfigError) as error:
            main(settings.read_keys(arguments, Options))
        assert error.value.key == "run_dir"
    autoscaling = Autoscaling(config.autoscale, Meter(60.0), config.run_dir)
    for size in (1, 20, 4):  # 20 is more than is allowed: a change
        autoscaling.write(autoscaling.look(size, make_supply(stage_spec("dmd", config)).buffer, "dmd").entry)
    main(Options(run_dir=str(tmp_path)))
    main(Options(run_dir=str(tmp_path), out=str(tmp_path / "other.png")))
    for name in ("pool_trace.png", "other.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
