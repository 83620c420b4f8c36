"""Score a folder of videos with every reward, before anything is trained on them.

python -m rewards.try videos=FOLDER [out=FOLDER] [clips=true] [reward.key=value ...]

Scores window by window against the video's own first window, and draws the optical flow. Prompts, for rewards that
read them: NAME.txt beside a video, one a line. All rewards are shown; reward.terms adds your own, by dotted path, and
the remote one. Failures are listed below the table.
  python -m rewards.try clips=true                      the clips that must score low
  python -m rewards.try videos=runs/demo/uniform reward.upsample=4 reward.finest_scale=0    the tiny world
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path

import settings
from models.errors import ConfigError
from models.keys import key
from rewards.reward_config import RewardConfig


@dataclass(kw_only=True)
class TrialOptions:
    """Describes which videos to score, and where the pictures go."""

    videos: str | None = key(None, "folder of videos (mp4, ..., or safetensors with `video` uint8 [B T 3 H W])")
    out: str = key("runs/rewards", "folder of the pictures of optical flow")
    clips: bool = key(False, "score the adversarial clips too, which exploit rewards of smoothness")
    reward: RewardConfig = field(default_factory=RewardConfig)

    def __post_init__(self):
        if not self.videos and not self.clips:
            raise ConfigError("videos", None, "nothing to score", "write videos=FOLDER, or clips=true")
        if Path(self.out).exists() and not Path(self.out).is_dir():
            raise ConfigError("out", self.out, "this is a file", "write the folder of the pictures")
        if self.reward.vae is not None:
            raise ConfigError("reward.vae", self.reward.vae, "these videos are pixels already", "leave it out")


def main(options: TrialOptions) -> None:
    """Score the videos and print the table. Raises ConfigError."""
    from evaluation.reward_trial import score_videos  # imports torch, which help and mistakes do not wait for

    logging.getLogger("rewards.attempt").setLevel(logging.ERROR)  # failures are listed below the table, once
    score_videos(options.reward, options.videos, options.out, options.clips)


if __name__ == "__main__":
    settings.command(main, TrialOptions, __doc__)
