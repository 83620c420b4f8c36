"""Name the files of the original Wan2.1 folder beside its transformer."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from models.checkpoints.weight_containers import READ_ENDINGS

_PATTERNS = {
    "vae": ("[Ww]an2[._]1_[Vv][Aa][Ee].*", "[Ww]an_2[._]1_[Vv][Aa][Ee].*", "[Ww]an2[._]2_[Vv][Aa][Ee].*"),
    "text_encoder": ("models_t5_umt5-xxl-enc-*", "umt5[_-]xxl*"),
}
"""File names of the VAE and the text encoder, of the original release and of ComfyUI."""


def original_name(names: Sequence[str], part: str) -> str | None:
    """Return the name of the "vae" or "text_encoder" of the original code among `names`; None where it is not there."""
    for pattern in _PATTERNS[part]:
        found = sorted(name for name in names if fnmatchcase(name, pattern) and name.endswith(READ_ENDINGS))
        if found:
            return found[0]
    return None


def original_file(folder: Path, name: str) -> Path | None:
    """Return the file of "vae" or "text_encoder" in an original folder; None where it has none."""
    found = original_name([path.name for path in folder.glob("*")], name)
    return None if found is None else folder / found
