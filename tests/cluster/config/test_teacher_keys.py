"""Keys of a teacher of another size than the student."""

from pathlib import Path

import pytest

from cluster.config.run_config import Config
from learner.stage_config import Source
from models.errors import ConfigError
from models.network_config import TINY, TINY_WIDE


def test_without_a_base_student_and_critic_start_from_the_teacher(tmp_path):
    alone = Config(run_dir=str(tmp_path), teacher="t.safetensors")
    assert alone.teacher_wan == TINY and alone.base_source == alone.teacher_source == Source(
        Path("t.safetensors"), "teacher"
    )
    wide = Config(run_dir=str(tmp_path), teacher="t.safetensors", teacher_model="tiny_wide", base="b.safetensors")
    assert wide.teacher_wan == TINY_WIDE and wide.base_source == Source(Path("b.safetensors"), "base")


@pytest.mark.parametrize("model", ["huge", "wan_14b", "tiny_wide"])
def test_a_teacher_that_does_not_fit_the_student_is_refused(tmp_path, model):
    with pytest.raises(ConfigError) as refused:
        Config(run_dir=str(tmp_path), teacher_model=model)
    assert refused.value.key == "teacher_model"
