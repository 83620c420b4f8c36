"""Score clips by CLIP: the mean cosine between frames of a window and the prompt."""

from torch import Tensor

from models.checkpoints.hub import require_named
from rewards.learned.image_encoders import ImageEncoder, text_encoder
from rewards.reward import Clip, ClipReward
from rewards.reward_config import RewardConfig


def spaced_frames(clip: Clip, count: int) -> Tensor:
    """Choose `count` frames [count H W 3] uint8 of a clip, evenly spaced, its last one among them; at most all."""
    total = len(clip.pixels)
    parts = min(count, total)
    places = [(part + 1) * total // parts - 1 for part in range(parts)]  # the end of each of as many parts
    chosen = clip.pixels[places]
    return (chosen * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu()


class ClipScore(ClipReward):
    """Scores how well the frames of a clip show its prompt, -1 to 1; the paper's encoder is OpenAI's ViT-B/32."""

    needs = frozenset({"pixels", "text"})
    _encoder: ImageEncoder | None = None

    def __init__(self, config: RewardConfig):
        """Check the path of the encoder. Raises ConfigError."""
        super().__init__(config)
        config.learned.require("clip_score")
        require_named(config.learned.clip, "reward.learned.clip")

    def load(self) -> None:
        learned = self.config.learned
        self._encoder = text_encoder(learned.clip, "reward.learned.clip", learned.device)

    def score(self, clip: Clip) -> Tensor:
        if self._encoder is None:
            self.load()
        pictures = [self._encoder.prepare(frame.numpy()) for frame in spaced_frames(clip, self.config.learned.frames)]
        return (self._encoder.encode(pictures) @ self._encoder.encode_text(clip.prompt)).mean()
