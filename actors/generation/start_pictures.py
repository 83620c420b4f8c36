"""Read the picture that a video begins with, of any pixel format, as 8-bit RGB in the video's shape."""

import io
import struct
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy
from PIL import Image, ImageCms, ImageColor, ImageOps

from models.errors import ConfigError
from models.file_kinds import PICTURES, VIDEOS, file_kind, require_kind

_FITS = {"cut": ImageOps.fit, "pad": ImageOps.pad}
_8_BIT_MAX = 255
_16_BIT_MAX = 65535
_TIFF_BITS = 258
"""Number of TIFF's tag BitsPerSample."""
_DARK = 16
"""Brightest value up to which a deep picture probably has fewer bits than its file tells: 12 of 16 make this."""
_NOTED_SHARE = 0.1
"""Share of a picture that is cut away, or of a video that is bars, from which on a note tells it."""
_NOTED_ENLARGEMENT = 2.0
_UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, TypeError, KeyError, IndexError, OverflowError, struct.error)
"""Errors that Pillow's decoders raise for damaged files."""


class Fit(NamedTuple):
    """Describes how pictures become frames."""

    height: int
    width: int
    fit: str
    """cut or pad."""
    background: tuple[int, int, int]
    """RGB colour behind transparent pixels, and of the bars."""


def read_colour(text: str, key: str) -> tuple[int, int, int]:
    """Read a colour by name or as #rrggbb. Raises ConfigError."""
    try:
        return ImageColor.getrgb(text)[:3]
    except ValueError as error:
        raise ConfigError(key, text, "no colour", "write a name, as white, or #rrggbb") from error


def read_picture(path: Path, key: str, shape: Fit) -> tuple[numpy.ndarray, list[str]]:
    """Read a picture [H W 3] uint8 that fills the video, upright, and notes on changes. Raises ConfigError."""
    try:
        kind = file_kind(path)
        if kind is not None and kind.name in VIDEOS:
            raise ConfigError(key, path, f"this is {kind.label}", "write video=FILE, which continues it")
        require_kind(path, key, PICTURES)
        with warnings.catch_warnings(), Image.open(path) as picture:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the error behind it is the limit
            with Image.open(path) as checked:
                checked.verify()  # checksums of PNG, which decoding alone passes over
            notes, frames = [], getattr(picture, "n_frames", 1)
            if frames > 1 and picture.format != "MPO":  # whose other pictures are previews
                notes.append(f"the first of its {frames} frames is taken")
            white, deep = _white(picture), picture.mode[:1] in "IF" or any(";16" in str(tile) for tile in picture.tile)
            managed, note = _to_srgb(_with_alpha(ImageOps.exif_transpose(picture)))
            notes += note
            rgb = _to_rgb(managed, white, path, key, shape.background)
            brightest = max(top for _, top in rgb.getextrema())
            if deep and 0 < brightest <= _DARK:
                notes.append(f"its brightest value is {brightest} of 255: values of fewer bits than its file tells?")
            return fit_picture(rgb, shape), notes + fit_notes(rgb.width, rgb.height, shape)
    except ConfigError:
        raise
    except Image.DecompressionBombError as error:
        problem = f"has more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels"
        raise ConfigError(key, path, problem, "make it smaller") from error
    except _UNREADABLE as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(key, path, f"cannot be read ({reason})", f"write {key}=FILE, a PNG or JPEG") from error


def _with_alpha(picture: Image.Image) -> Image.Image:
    """Give colours or a palette with transparent entries an alpha channel, which their colour profile leaves alone."""
    if picture.mode not in ("RGB", "P"):
        return picture
    clear = picture.info.get("transparency")
    if isinstance(clear, tuple) and max(clear) > _8_BIT_MAX:  # of 16 bits, which Pillow's pixels lost
        picture.info["transparency"] = tuple(value >> 8 for value in clear)
    return picture.convert("RGBA" if picture.has_transparency_data else "RGB")


def _to_srgb(picture: Image.Image) -> tuple[Image.Image, list[str]]:
    """Convert a picture from the colour profile in its file, such as a telephone's Display P3, to sRGB."""
    profile, mode = picture.info.get("icc_profile"), {"CMYK": "RGB"}.get(picture.mode, picture.mode)
    if not profile or mode not in ("RGB", "RGBA"):
        return picture, []
    try:
        source, target = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(picture, source, target, outputMode=mode), []
    except (ImageCms.PyCMSError, OSError) as error:
        return picture, [f"its colour profile is not used ({error})"]


def _white(picture: Image.Image) -> float:
    """Return the value of white in a deep grey picture. A TIFF may have fewer bits than the integers of its mode."""
    if picture.mode == "F":
        return 1.0
    bits = int((*numpy.ravel(getattr(picture, "tag_v2", {}).get(_TIFF_BITS, 16)), 16)[0])
    return 2**bits - 1 if 8 < bits < 16 else _16_BIT_MAX


def _to_rgb(picture: Image.Image, white: float, path: Path, key: str, background: tuple[int, int, int]) -> Image.Image:
    """Convert a picture of any mode to RGB; Pillow's own conversion clips deep ones and drops alpha."""
    if picture.mode == "F" or picture.mode.startswith("I"):
        values = numpy.asarray(picture).astype(numpy.float64)
        if not (values.min() >= 0 and values.max() <= white):  # NaN too
            problem = f"its values (mode {picture.mode}) are not from 0 to {white:g}"
            raise ConfigError(key, path, problem, "save it as a PNG of 8 bits")
        clear = picture.info.get("transparency")
        picture = Image.fromarray((values * 255 / white).round().astype(numpy.uint8)).convert("RGB")
        if clear is not None:
            picture.putalpha(Image.fromarray(numpy.where(values == clear, 0, 255).astype(numpy.uint8)))
    if picture.has_transparency_data:
        behind = Image.new("RGBA", picture.size, (*background, 255))
        return Image.alpha_composite(behind, picture.convert("RGBA")).convert("RGB")
    return picture.convert("RGB")


def fit_picture(picture: Image.Image, shape: Fit) -> numpy.ndarray:
    """Scale an RGB picture, cut or padded, to [H W 3] uint8."""
    # Means over whole squares give an enlarged video back as it was; other factors need a smoother filter.
    whole = picture.width % shape.width == 0 == picture.height % shape.height
    options = {"method": Image.Resampling.BOX if whole else Image.Resampling.BICUBIC}
    options |= {"color": shape.background} if shape.fit == "pad" else {}
    return numpy.asarray(_FITS[shape.fit](picture, (shape.width, shape.height), **options))


def fit_notes(width: int, height: int, shape: Fit) -> list[str]:
    """Tell how much of a picture is cut away or padded, and how much it is enlarged, where that is a lot."""
    across, down = shape.width / width, shape.height / height
    uneven = 1 - min(across, down) / max(across, down)
    scale, notes = max(across, down) if shape.fit == "cut" else min(across, down), []
    if uneven > _NOTED_SHARE:
        effect = "of it is cut away" if shape.fit == "cut" else "of the video is bars"
        other = "pad" if shape.fit == "cut" else "cut"
        notes.append(f"it has {width}x{height} pixels, and {uneven:.0%} {effect} (image_fit={other} does not)")
    if scale > _NOTED_ENLARGEMENT:
        notes.append(f"it is enlarged {scale:.1f} times, from {width}x{height} pixels")
    return notes
