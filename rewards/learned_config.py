"""Declare the keys of learned rewards: their weights, their environments, and the frames that they see."""

from dataclasses import dataclass

from models.errors import ConfigError
from models.keys import KeyGroup, key

LEARNED = {
    "clip_score": "rewards.learned.clip_reward.ClipScore",
    "hpsv3": "rewards.learned.model_rewards.HPSv3",
    "videoalign_vq": "rewards.learned.model_rewards.VideoAlignVisual",
    "videoalign_mq": "rewards.learned.model_rewards.VideoAlignMotion",
    "videoalign_ta": "rewards.learned.model_rewards.VideoAlignText",
}
"""Names of learned rewards, with the dotted paths of their factories."""
_NEEDS = {
    "clip_score": ("clip",),
    "hpsv3": ("hpsv3_python",),
    "videoalign_vq": ("videoalign_python", "videoalign_code", "videoalign_weights"),
}
_NEEDS |= dict.fromkeys(("videoalign_mq", "videoalign_ta"), _NEEDS["videoalign_vq"])


@dataclass(kw_only=True)
class LearnedConfig(KeyGroup, group="reward.learned"):
    """Configures learned rewards. Their weights are the user's: model processes run with the hub offline."""

    device: str = key("cuda", "device of learned rewards", choices=("cpu", "cuda"))
    frames: int = key(8, "frames of a window that clip_score and hpsv3 see, evenly spaced", ge=1, le=1000)
    fps: float = key(16.0, "frames per second of the videos that videoalign sees", gt=0, le=1000)
    clip: str | None = key(None, "CLIP of transformers for clip_score: a folder, or a repository of the hub")
    hpsv3_python: str | None = key(None, "Python of an environment in which the package hpsv3 is installed")
    hpsv3_weights: str | None = key(
        None, "HPSv3's checkpoint: a file, or a repository of the hub; null: the one in its package's cache"
    )
    videoalign_python: str | None = key(None, "Python of an environment with the requirements of VideoAlign")
    videoalign_code: str | None = key(None, "checkout of VideoAlign, the folder with inference.py")
    videoalign_weights: str | None = key(
        None, "VideoAlign's checkpoint (VideoReward): a folder, or a repository of the hub"
    )
    start_timeout_s: float = key(600.0, "longest time in which a reward model loads, in seconds", gt=0, le=1e6)

    def missing(self, name: str) -> list[str]:
        """List the keys that a reward needs and that are not set."""
        return [f"reward.learned.{needed}" for needed in _NEEDS.get(name, ()) if getattr(self, needed) is None]

    def require(self, name: str) -> None:
        """Check that the keys which a reward needs are set. Raises ConfigError under the first that is not."""
        for needed in self.missing(name):
            raise ConfigError(needed, None, f"missing, and reward.terms has {name}", "write its path")
