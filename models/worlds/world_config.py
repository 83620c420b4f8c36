"""Declare the keys of text encoder and video codec."""

from dataclasses import dataclass
from pathlib import Path

from models.keys import KeyGroup, key
from models.user_paths import user_path

SHIPPED_STUDENT = Path(__file__).resolve().parents[2] / "assets/tiny/student_uniform.safetensors"
"""The repository's student of the tiny world."""


@dataclass(kw_only=True)
class WorldConfig(KeyGroup):
    """Configures the networks that turn text and pixels into embeddings and latents."""

    vae: str | None = key(None, "diffusers folder with vae/, or that folder itself; none: the checkpoint's own")
    text_encoder: str | None = key(
        None, "diffusers folder with text_encoder/ and tokenizer/; none: the checkpoint's own"
    )
    text_cache: str = key(
        "~/.cache/longtake/text", "folder of prompt embeddings, best on storage that all nodes share", resumable=True
    )

    def world_folder(self, name: str, *checkpoints: Path) -> Path | None:
        """Return the folder of "vae" or "text_encoder": the given one, else the first of `checkpoints` with one."""
        given = getattr(self, name)
        if given is not None:
            return user_path(given, name)
        return next((checkpoint for checkpoint in checkpoints if (checkpoint / name).is_dir()), None)
