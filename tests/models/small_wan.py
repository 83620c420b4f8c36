"""A network of Wan's shape, small enough for float64."""

from models.network_config import WanConfig

CONFIG = WanConfig(
    num_attention_heads=2, attention_head_dim=12, in_channels=2, out_channels=2, text_dim=8, freq_dim=16,
    ffn_dim=32, num_layers=3,
)  # fmt: skip
HEIGHT, WIDTH = 2, 4
TOKENS = CONFIG.tokens_per_frame(HEIGHT, WIDTH)
