"""Check the paths of learned rewards, before anything loads."""

from models.errors import ConfigError
from models.user_paths import user_path


def existing_path(value: str, name: str) -> str:
    """Return the absolute path under the key `reward.learned.<name>`. Raises ConfigError where nothing is there."""
    path = user_path(value, f"reward.learned.{name}")
    if not path.exists():
        raise ConfigError(f"reward.learned.{name}", value, "there is no such file or folder", "correct the path")
    return str(path.absolute())
