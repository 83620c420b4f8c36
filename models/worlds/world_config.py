"""Keys of the world that networks live in."""

from dataclasses import dataclass
from pathlib import Path

from models.keys import KeyGroup, key
from models.user_paths import user_path

SHIPPED_STUDENT = Path(__file__).resolve().parents[2] / "assets/tiny/student_uniform.safetensors"
"""The repository's student of the tiny world."""


@dataclass(kw_only=True)
class WorldConfig(KeyGroup):
    """Networks that turn text and pixels into embeddings and latents."""

    vae: str | None = key(None, "diffusers folder with vae/, or that folder itself; none: the checkpoint's own")
    text_encoder: str | None = key(
        None, "diffusers folder with text_encoder/ and tokenizer/; none: the checkpoint's own"
    )
    text_cache: str = key(
        "~/.cache/longtake/text", "folder of prompt embeddings, best where all nodes see it", resumable=True
    )

    def vae_folder(self, *checkpoints: Path) -> Path | None:
        """Return the folder of the VAE: the given one, else the first of `checkpoints` with one."""
        return _folder(self.vae, "vae", checkpoints)

    def text_encoder_folder(self, *checkpoints: Path) -> Path | None:
        """Return the folder of the text encoder: the given one, else the first of `checkpoints` with one."""
        return _folder(self.text_encoder, "text_encoder", checkpoints)

    @property
    def text_cache_folder(self) -> Path:
        return user_path(self.text_cache, "text_cache")


def _folder(given: str | None, name: str, checkpoints: tuple[Path, ...]) -> Path | None:
    if given is not None:
        return user_path(given, name)
    return next((checkpoint for checkpoint in checkpoints if (checkpoint / name).is_dir()), None)
