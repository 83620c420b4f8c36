"""Declare the keys of text encoder and video codec."""

from dataclasses import dataclass
from pathlib import Path

from models.checkpoints.original_files import original_file
from models.keys import KeyGroup, key
from models.user_paths import user_path

SHIPPED_STUDENT = Path(__file__).resolve().parents[2] / "assets/tiny/student_uniform.safetensors"
"""The repository's student of the tiny world."""


@dataclass(kw_only=True)
class WorldConfig(KeyGroup):
    """Configures the networks that turn text and pixels into embeddings and latents."""

    vae: str | None = key(
        None, "folder of Wan2.1 (diffusers or original), its vae/, or the VAE's file; none: the checkpoint's own"
    )
    text_encoder: str | None = key(
        None, "folder of Wan2.1 (diffusers or original), or the encoder's file; none: the checkpoint's own"
    )
    text_cache: str = key(
        "~/.cache/longtake/text", "folder of prompt embeddings, best on storage that all nodes share", resumable=True
    )

    def world_folder(self, name: str, *checkpoints: Path) -> Path | None:
        """Return the folder of "vae" or "text_encoder": the given one, else the first of `checkpoints` with one."""
        given = getattr(self, name)
        if given is not None:
            return user_path(given, name)
        return next((path for path in checkpoints if (path / name).is_dir() or original_file(path, name)), None)
