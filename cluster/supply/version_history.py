"""The versions of the surviving timeline: how old a window is, and whether its weights were ever ours."""

from collections.abc import Iterable


class Lineage:
    """Which student update each published version was made after.

    After a rollback the versions since the checkpoint are gone from here, and their numbers are not used again: a
    window that names one of them comes from a timeline that no longer exists.
    """

    def __init__(self, published: Iterable[tuple[int, int]] = ()):
        self.updates = dict(published)

    @property
    def newest(self) -> int | None:
        """The last published version."""
        return max(self.updates, default=None)

    @property
    def update(self) -> int:
        """The student update that the newest version was made after."""
        return self.updates[self.newest] if self.updates else 0

    def publish(self, version: int, update: int) -> None:
        """Note a new version. Raises ValueError if its number was used before."""
        if self.updates and version <= self.newest:
            raise ValueError(f"version {version} was published after version {self.newest}: numbers only rise")
        self.updates[version] = update

    def age(self, version: int) -> int:
        """Student updates between `version` and the newest one."""
        return self.update - self.updates[version]

    def __contains__(self, version: int) -> bool:
        return version in self.updates
