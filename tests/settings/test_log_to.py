"""log.to stands for tensorboard and wandb.mode, and contradicts neither."""

import pytest

import settings
from models.errors import ConfigError


@pytest.mark.parametrize(
    ("arguments", "tensorboard", "mode"),
    [
        (["log.to=[wandb,tensorboard]"], True, "offline"),
        (["log.to=[tensorboard]"], True, "disabled"),
        (["log.to=wandb", "wandb.mode=online"], False, "online"),
        (["wandb.mode=disabled", "log.to=[tensorboard]"], True, "disabled"),
        (["log.to=[]"], False, "disabled"),
    ],
)
def test_a_list_of_places_sets_both_keys(arguments, tensorboard, mode):
    config = settings.load(arguments)
    assert (config.tensorboard, config.wandb.mode) == (tensorboard, mode)


@pytest.mark.parametrize(
    "arguments",
    [
        ["log.to=[mlflow]"], ["log.to=[wandb"],
        ["log.to=[wandb]", "log.to=[tensorboard]"], ["log.to=[wandb]", "tensorboard=true"],
        ["log.to=[wandb]", "wandb.mode=disabled"], ["log.to=[tensorboard]", "wandb.mode=online"],
    ],
)  # fmt: skip
def test_other_places_and_contradictions_are_refused(arguments):
    with pytest.raises(ConfigError) as error:
        settings.load(arguments)
    assert error.value.key == "log.to"
