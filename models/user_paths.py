"""Read paths as people type them."""

from pathlib import Path

from models.errors import ConfigError


def user_path(given: str, key: str) -> Path:
    """Expand ~ in a path. Raises ConfigError for an empty one or the home folder of an unknown user."""
    if not given:
        raise ConfigError(key, given, "the path is empty", f"write {key}=PATH, or leave {key} out")
    try:
        return Path(given).expanduser()
    except RuntimeError as error:
        raise ConfigError(
            key, given, "its home folder is of no user here", f"write {key}=PATH without ~, or set HOME"
        ) from error


def existing_path(given: str, key: str) -> Path:
    """Return the absolute path of a file or folder. Raises ConfigError where nothing is there."""
    path = user_path(given, key)
    if not path.exists():
        raise ConfigError(key, given, "there is no such file or folder", "correct the path")
    return path.absolute()
