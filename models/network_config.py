"""Declare the sizes of the Wan networks, and derive the shapes that follow from them."""

from dataclasses import dataclass, replace

from models.errors import ConfigError
from models.keys import KeyGroup, key, nearest_multiples


@dataclass(frozen=True, kw_only=True)
class WanConfig:
    """Describes the shape of one Wan transformer, by the field names of diffusers' `WanTransformer3DModel` config."""

    patch_size: tuple[int, int, int] = (1, 2, 2)
    num_attention_heads: int
    attention_head_dim: int
    in_channels: int = 16
    out_channels: int = 16
    text_dim: int = 4096
    text_len: int = 512
    freq_dim: int = 256
    ffn_dim: int
    num_layers: int
    eps: float = 1e-6
    cross_attn_norm: bool = True

    def __post_init__(self):
        if self.attention_head_dim % 2:
            raise ValueError(f"attention_head_dim={self.attention_head_dim} is odd, and rotary positions rotate pairs")
        if self.patch_size[0] != 1:
            raise ValueError(f"a block is cut between latent frames; got a temporal patch of {self.patch_size[0]}")

    @property
    def dim(self) -> int:
        """Return the width `D` of the hidden states."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def rotary_dims(self) -> tuple[int, int, int]:
        """Count the real dimensions of a head that turn with (frame, row, column): 44, 42, 42 of 128 in Wan."""
        side = 2 * (self.attention_head_dim // 6)
        return self.attention_head_dim - 2 * side, side, side

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Count rows and columns of tokens of one latent frame of `height` x `width`."""
        _, patch_height, patch_width = self.patch_size
        if height % patch_height or width % patch_width:
            raise ValueError(f"latent frames of {height}x{width} do not divide into patches of {self.patch_size[1:]}")
        return height // patch_height, width // patch_width

    def tokens_per_frame(self, height: int, width: int) -> int:
        """Count the tokens of one latent frame: 1560 for Wan at 480x832 pixels."""
        rows, columns = self.grid(height, width)
        return rows * columns


TINY = WanConfig(
    patch_size=(1, 4, 4),
    num_attention_heads=4,
    attention_head_dim=24,
    in_channels=3,
    out_channels=3,
    text_dim=32,
    text_len=12,
    freq_dim=64,
    ffn_dim=384,
    num_layers=4,
)
"""The tiny world's network: 0.7M parameters, trains on two CPU cores."""

TINY_WIDE = replace(TINY, num_attention_heads=6, ffn_dim=576)
"""A teacher half as wide again as its tiny student: 1.5M parameters."""

WAN_MINI = WanConfig(
    num_attention_heads=4, attention_head_dim=48, text_dim=64, text_len=64, freq_dim=64, ffn_dim=768, num_layers=4
)  # fmt: skip
"""A network of Wan's kind for rehearsals, with weights of `python -m models.worlds.make_mini`: 2.7M parameters."""

WAN_1_3B = WanConfig(num_attention_heads=12, attention_head_dim=128, ffn_dim=8960, num_layers=30)
"""Wan2.1-T2V-1.3B: 1,418,996,800 parameters."""

WAN_14B = WanConfig(num_attention_heads=40, attention_head_dim=128, ffn_dim=13824, num_layers=40)
"""Wan2.1-T2V-14B: 14,288,491,584 parameters."""

CONFIGS = {
    "tiny": TINY, "tiny_wide": TINY_WIDE, "wan_mini": WAN_MINI, "wan_1_3b": WAN_1_3B, "wan_14b": WAN_14B
}  # fmt: skip


@dataclass(kw_only=True)
class StudentConfig(KeyGroup, group="student"):
    """Sets the student's shape in time, and its few-step schedule."""

    model: str = key("tiny", "network: " + ", ".join(CONFIGS), choices=CONFIGS)
    height: int = key(12, "rows of a latent frame", ge=1, le=4096)
    width: int = key(12, "columns of a latent frame", ge=1, le=4096)
    horizon_frames: int = key(12, "latent frames of one teacher horizon, M", ge=1, le=100_000)
    block_frames: int = key(3, "latent frames denoised together", ge=1, le=100_000)
    attention_frames: int = key(12, "latent frames that a block attends to, its own included", ge=1, le=100_000)
    sink_frames: int = key(
        0,
        "latent frames at the beginning of a video that stay in the cache when generating; 0 in training",
        ge=0,
        le=100_000,
    )
    timesteps: list[float] = key(
        [1000.0, 750.0, 500.0, 250.0], "timesteps of the denoising steps before warping, from 1000 down"
    )
    shift: float = key(3.0, "shift that warps the denoising timesteps towards noise", gt=0)

    def __post_init__(self):
        super().__post_init__()
        block = self.block_frames
        for name in ("horizon_frames", "attention_frames", "sink_frames"):
            frames = getattr(self, name)
            if frames % block:
                raise ConfigError(
                    f"student.{name}",
                    frames,
                    f"no multiple of student.block_frames={block}",
                    nearest_multiples(f"student.{name}", frames, block),
                )
        if self.sink_frames > (most := self.attention_frames - block):
            raise ConfigError(
                "student.sink_frames",
                self.sink_frames,
                f"more than the {most} frames before a block that student.attention_frames={self.attention_frames} "
                "leaves",
                f"write student.sink_frames={most} or less",
            )
        steps = list(self.timesteps)
        if not steps or steps[0] != 1000 or steps != sorted(set(steps), reverse=True) or steps[-1] <= 0:
            raise ConfigError(
                "student.timesteps", steps, "they do not fall from 1000 and stay above 0", "write [1000,750,500,250]"
            )
        for name, patch in zip(("height", "width"), self.wan.patch_size[1:], strict=True):
            if getattr(self, name) % patch:
                fix = nearest_multiples(f"student.{name}", getattr(self, name), patch)
                raise ConfigError(f"student.{name}", getattr(self, name), f"no multiple of {patch}", fix)

    @property
    def wan(self) -> WanConfig:
        return CONFIGS[self.model]

    @property
    def in_wan_world(self) -> bool:
        """Return True if latents come from Wan's VAE and texts from its encoder, False in the tiny world.

        There the first latent frame of a video is one image, and every other several.
        """
        return self.wan.in_channels != TINY.in_channels

    @property
    def space_stride(self) -> int:
        """Count the rows and columns of pixels per row and column of a latent frame."""
        return 8 if self.in_wan_world else 1

    @property
    def context_frames(self) -> int:
        """Count the finished frames that a block sees beside itself."""
        return self.attention_frames - self.block_frames

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """Return (C, H, W) of a latent frame."""
        return self.wan.in_channels, self.height, self.width
