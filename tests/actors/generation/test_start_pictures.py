"""A picture of any pixel format becomes the frame that a person sees in it."""

import io
import struct
import zlib

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from actors.generation.start_pictures import Fit, read_colour, read_picture
from models.errors import ConfigError

SHAPE = Fit(4, 8, "cut", (255, 255, 255))
RAMP = numpy.tile(numpy.linspace(0, 65535, 8).astype(numpy.uint16), (4, 1))
GREY = (RAMP / 257).round().astype(numpy.uint8)


def read(path, shape: Fit = SHAPE) -> numpy.ndarray:
    pixels, _ = read_picture(path, "image", shape)
    assert pixels.dtype == numpy.uint8 and pixels.shape == (shape.height, shape.width, 3)
    return pixels


def halves(mode: str, left, right) -> Image.Image:
    picture = Image.new(mode, (8, 4), left)
    picture.paste(right, (4, 0, 8, 4))
    return picture


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("a.png", RAMP),
        ("a.tif", RAMP),
        ("big.tif", RAMP.astype(">u2")),
        ("int32.tif", RAMP.astype(numpy.int32)),
        ("float.tif", (RAMP / 65535).astype(numpy.float32)),
        ("8.png", GREY),
    ],
)
def test_deep_grey_pictures_keep_their_ramp(name, values, tmp_path):
    Image.fromarray(values).save(tmp_path / name)
    assert numpy.abs(read(tmp_path / name).astype(int) - GREY[..., None]).max() <= 1


def tiff_of_12_bits(values: numpy.ndarray) -> bytes:
    """A TIFF [H W] of 12 bits a pixel, two pixels in three bytes; Pillow writes none."""
    rows, columns = values.shape
    first, second = values[:, ::2].ravel(), values[:, 1::2].ravel()
    packed = numpy.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=-1).astype(numpy.uint8)
    tags = {256: columns, 257: rows, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: rows, 279: packed.size}
    fields = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in tags.items())
    head = b"II*\0" + struct.pack("<I", 8 + packed.size)
    return head + packed.tobytes() + struct.pack("<H", len(tags)) + fields + bytes(4)


def test_white_of_12_bits_is_white(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff_of_12_bits(RAMP >> 4))
    pixels, notes = read_picture(tmp_path / "a.tif", "image", SHAPE)
    assert numpy.abs(pixels.astype(int) - GREY[..., None]).max() <= 1 and not notes


@pytest.mark.parametrize("bright", [4095, 65535])
@pytest.mark.parametrize("colour", [False, True])
def test_values_of_12_bits_in_16_are_noted(bright, colour, tmp_path):
    values = (RAMP.astype(int) * bright // 65535).astype(numpy.uint16)
    clear = struct.pack(">HHH", 65535, 0, 0) if colour else struct.pack(">H", 9)
    (tmp_path / "a.png").write_bytes(png_of_16_bits(numpy.stack([values] * 3, -1) if colour else values, clear))
    _, notes = read_picture(tmp_path / "a.png", "image", SHAPE)
    assert len(notes) == (bright == 4095) and all("15 of 255" in note or "16 of 255" in note for note in notes)


@pytest.mark.parametrize(
    "values", [numpy.full((4, 8), 70000, numpy.int32), numpy.full((4, 8), 2.0, numpy.float32),
               numpy.full((4, 8), -1, numpy.int32), numpy.full((4, 8), numpy.nan, numpy.float32)],
)  # fmt: skip
def test_deep_values_without_a_known_white_are_refused(values, tmp_path):
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(ConfigError) as error:
        read(tmp_path / "a.tif")
    assert error.value.key == "image" and error.value.value == tmp_path / "a.tif"


def palette(transparent: bool) -> Image.Image:
    picture = halves("P", 0, 1)
    picture.putpalette([200, 40, 40, 0, 0, 0] + [0] * 762)
    if transparent:
        picture.info["transparency"] = 1
    return picture


@pytest.mark.parametrize(
    ("picture", "form", "right"),
    [
        (halves("RGBA", (200, 40, 40, 255), (0, 0, 0, 0)), "PNG", (0, 0, 255)),
        (halves("RGBA", (200, 40, 40, 255), (255, 0, 0, 51)), "PNG", (51, 0, 204)),
        (halves("RGBA", (200, 40, 40, 255), (0, 0, 0, 0)), "WEBP", (0, 0, 255)),
        (palette(transparent=True), "PNG", (0, 0, 255)),
        (palette(transparent=False), "PNG", (0, 0, 0)),
        (halves("RGB", (200, 40, 40), (0, 255, 0)), "PNG", (0, 255, 0)),
        (halves("CMYK", (0, 204, 204, 55), (0, 0, 0, 255)), "TIFF", (0, 0, 0)),
    ],
)
def test_transparent_pixels_show_the_background(picture, form, right, tmp_path):
    options = {"lossless": True} if form == "WEBP" else {}
    picture.save(tmp_path / "x", form, **options)
    pixels = read(tmp_path / "x", Fit(4, 8, "cut", (0, 0, 255))).astype(int)
    assert numpy.abs(pixels[:, :4] - (200, 40, 40)).max() <= 1 and numpy.abs(pixels[:, 4:] - right).max() <= 1


def test_grey_with_alpha_shows_the_background(tmp_path):
    halves("LA", (90, 255), (0, 0)).save(tmp_path / "x.png")
    pixels = read(tmp_path / "x.png")
    assert (pixels[:, :4] == 90).all() and (pixels[:, 4:] == 255).all()


def swapped_profile() -> bytes:
    """A profile of sRGB in which red and blue have changed places."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(b"rXYZ", b"????", 1).replace(b"bXYZ", b"rXYZ", 1).replace(b"????", b"bXYZ", 1)


def test_a_transparent_colour_beside_a_profile_shows_the_background_itself(tmp_path):
    """The picture's red is blue in sRGB, and the background, which is of sRGB already, stays red."""
    picture = halves("RGB", (255, 0, 0), (0, 0, 0))
    picture.save(tmp_path / "rgb.png", icc_profile=swapped_profile(), transparency=(0, 0, 0))
    picture.quantize(2).save(
        tmp_path / "palette.png", icc_profile=swapped_profile(), transparency=picture.quantize(2).getpixel((7, 0))
    )
    for name in ("rgb.png", "palette.png"):
        with Image.open(tmp_path / name) as stored:
            assert stored.mode == ("P" if name == "palette.png" else "RGB") and "transparency" in stored.info
        pixels = read(tmp_path / name, SHAPE._replace(background=(255, 0, 0))).astype(int)
        assert numpy.abs(pixels[:, :4] - (0, 0, 255)).max() <= 3 and (pixels[:, 4:] == (255, 0, 0)).all()


def png_of_16_bits(values: numpy.ndarray, clear: bytes) -> bytes:
    """A PNG [H W] or [H W 3] of 16 bits with one transparent colour; Pillow writes none."""
    chunks = [
        b"IHDR" + struct.pack(">IIBBBBB", *values.shape[1::-1], 16, 2 * (values.ndim == 3), 0, 0, 0), b"tRNS" + clear,
        b"IDAT" + zlib.compress(b"".join(bytes(1) + row.astype(">u2").tobytes() for row in values)), b"IEND",
    ]  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


def test_a_transparent_value_of_16_bits_shows_the_background(tmp_path):
    (tmp_path / "grey.png").write_bytes(png_of_16_bits(RAMP, struct.pack(">H", RAMP[0, 7])))
    pixels = read(tmp_path / "grey.png", SHAPE._replace(background=(0, 0, 255)))
    assert (pixels[:, 7] == (0, 0, 255)).all() and (pixels[:, :7] == GREY[:, :7, None]).all()
    colours = numpy.stack([RAMP, RAMP, RAMP[:, ::-1]], axis=-1)
    (tmp_path / "rgb.png").write_bytes(png_of_16_bits(colours, struct.pack(">HHH", 65535, 65535, 0)))
    pixels = read(tmp_path / "rgb.png", SHAPE._replace(background=(0, 255, 0)))
    assert (pixels[:, 7] == (0, 255, 0)).all() and (pixels[:, 0] == (0, 0, 255)).all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_colour_profile_is_converted_to_srgb(mode, tmp_path):
    Image.new(mode, (8, 4), (255, 0, 0)).save(tmp_path / "x.png", icc_profile=swapped_profile())
    assert numpy.abs(read(tmp_path / "x.png").astype(int) - (0, 0, 255)).max() <= 3
    Image.new(mode, (8, 4), (255, 0, 0)).save(tmp_path / "y.png", icc_profile=b"broken")
    pixels, notes = read_picture(tmp_path / "y.png", "image", SHAPE)
    assert (pixels == (255, 0, 0)).all() and len(notes) == 1


def test_a_turned_picture_is_upright(tmp_path):
    """EXIF orientation 6: the stored left column is the top row."""
    stored = Image.new("RGB", (4, 8), (255, 255, 255))
    stored.paste((255, 0, 0), (0, 0, 2, 8))
    exif = stored.getexif()
    exif[0x0112] = 6
    stored.save(tmp_path / "x.png", exif=exif)
    pixels = read(tmp_path / "x.png")
    assert (pixels[:2] == (255, 0, 0)).all() and (pixels[2:] == 255).all()


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken_aloud(form, tmp_path):
    frames = [Image.new("RGB", (8, 4), colour) for colour in ((200, 40, 40), (0, 0, 0))]
    frames[0].save(tmp_path / "x", form, save_all=True, append_images=frames[1:])
    pixels, notes = read_picture(tmp_path / "x", "image", SHAPE)
    assert numpy.abs(pixels.astype(int) - (200, 40, 40)).max() <= 3 and len(notes) == 1 and " 2 " in notes[0]


def test_cut_and_pad_say_how_much(tmp_path):
    """A portrait of 6x9 in a frame of 8x4: cut keeps 3 of its 9 rows, pad leaves 2.67 of 8 columns."""
    Image.new("RGB", (6, 9), (200, 40, 40)).save(tmp_path / "x.png")
    pixels, notes = read_picture(tmp_path / "x.png", "image", SHAPE)
    assert (pixels == (200, 40, 40)).all() and len(notes) == 1 and "67%" in notes[0] and "6x9" in notes[0]
    pixels, notes = read_picture(tmp_path / "x.png", "image", SHAPE._replace(fit="pad", background=(0, 0, 255)))
    assert (pixels[:, 4] == (200, 40, 40)).all() and (pixels[:, 0] == (0, 0, 255)).all()
    assert len(notes) == 1 and "67%" in notes[0]


def test_a_much_enlarged_picture_is_told_and_a_fitting_one_is_not(tmp_path):
    Image.new("RGB", (2, 1)).save(tmp_path / "x.png")
    assert "4.0 times" in read_picture(tmp_path / "x.png", "image", SHAPE)[1][0]
    Image.new("RGB", (16, 8)).save(tmp_path / "y.png")
    assert read_picture(tmp_path / "y.png", "image", SHAPE)[1] == []


def test_a_picture_beyond_the_limit_is_to_be_made_smaller(tmp_path, monkeypatch):
    Image.new("1", (100, 100)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ConfigError) as error:
        read(tmp_path / "x.png")
    assert error.value.fix == "make it smaller" and "2,000" in error.value.problem


def half_a_picture() -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(buffer, "PNG")
    return buffer.getvalue()[:1000]


@pytest.mark.parametrize(
    "content",
    [b"", b"version https://git-lfs.github.com/spec/v1\noid", b"<html></html>", b"\x00\x00\x00\x20ftypisom", b"a cat",
     b"\x00\x00\x00\x18ftypheic", half_a_picture()],
)  # fmt: skip
def test_what_is_no_whole_picture_is_refused(content, tmp_path):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(ConfigError) as error:
        read(tmp_path / "x.png")
    assert (error.value.key, error.value.value) == ("image", tmp_path / "x.png")


def test_a_flipped_bit_of_a_png_is_noticed_wherever_its_pixels_lie(tmp_path):
    path = tmp_path / "x.png"
    Image.fromarray(numpy.arange(1200, dtype=numpy.uint8).reshape(20, 20, 3)).save(path)
    whole = path.read_bytes()
    for place in range(whole.index(b"IDAT") + 4, whole.index(b"IEND") - 4):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ConfigError) as error:
            read_picture(path, "image", Fit(16, 16, "cut", (255, 255, 255)))
        assert error.value.key == "image"


def test_a_colour_is_a_name_or_a_number():
    assert read_colour("white", "image_background") == (255, 255, 255)
    assert read_colour("#0a141e", "image_background") == (10, 20, 30)
    with pytest.raises(ConfigError) as error:
        read_colour("colour", "image_background")
    assert error.value.key == "image_background"


def saved(form: str) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((8, 8), 50).convert("RGB").save(buffer, form)
    return buffer.getvalue()


SAVED = [saved(form) for form in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP")]


@given(st.sampled_from(SAVED), st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255)), min_size=1, max_size=9))
def test_a_damaged_picture_is_read_or_refused(tmp_path_factory, content, changes):
    damaged = bytearray(content)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(damaged)
    try:
        read(path)
    except ConfigError as error:
        assert (error.key, error.value) == ("image", path)
