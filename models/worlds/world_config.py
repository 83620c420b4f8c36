"""Declare the keys of text encoder and video codec."""

from dataclasses import dataclass
from pathlib import Path

from models.checkpoints.original_files import original_file
from models.keys import KeyGroup, key
from models.user_paths import user_path

SHIPPED_STUDENT = Path(__file__).resolve().parents[2] / "assets/tiny/student_uniform.safetensors"
"""The repository's student of the tiny world."""
TINY_PREFIX = "taehv:"
"""Prefix that may stand before the file of a tiny decoder; the file's tensors tell what it is."""


@dataclass(kw_only=True)
class WorldConfig(KeyGroup):
    """Configures the networks that turn text and pixels into embeddings and latents."""

    vae: str | None = key(
        None,
        "folder of Wan2.1 (diffusers or original), its vae/, the VAE's file, or that of TAEHV's tiny decoder "
        "(taehv:FILE), fast and approximate; none: the checkpoint's own",
    )
    text_encoder: str | None = key(
        None, "folder of Wan2.1 (diffusers or original), or the encoder's file; none: the checkpoint's own"
    )
    text_cache: str = key(
        "~/.cache/longtake/text", "folder of prompt embeddings, best on storage that all nodes share", resumable=True
    )

    def __post_init__(self):
        super().__post_init__()
        if self.vae is not None:
            self.vae = self.vae.removeprefix(TINY_PREFIX)

    def world_folder(self, name: str, *checkpoints: Path) -> Path | None:
        """Return the folder of "vae" or "text_encoder": the given one, else the first of `checkpoints` with one."""
        given = getattr(self, name)
        if given is not None:
            return user_path(given, name)
        return next((path for path in checkpoints if (path / name).is_dir() or original_file(path, name)), None)
