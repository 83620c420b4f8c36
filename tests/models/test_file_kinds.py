"""Files are known by their first bytes, and text by its marks and zero bytes."""

import io

import pytest
from PIL import Image

from models.errors import ConfigError
from models.file_kinds import file_kind, read_text, require_kind

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 146912345\n"
TEXT = "ein L\u00f6we auf gr\u00fcnem Gras, \u4e00\u53ea\u732b\n"


def picture(form: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, form)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (POINTER, "pointer"),
        (b"\xef\xbb\xbf \n<!DOCTYPE html><html>404</html>", "page"),
        (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "page"),
        (picture("PNG"), "png"),
        (picture("JPEG"), "jpeg"),
        (picture("GIF"), "gif"),
        (picture("WEBP"), "webp"),
        (picture("TIFF"), "tiff"),
        (picture("BMP"), "bmp"),
        (b"\x00\x00\x00\x20ftypisom", "mp4"),
        (b"\x00\x00\x00\x18ftypheic", "heic"),
        (b"\x1aE\xdf\xa3\x01", "matroska"),
        (b"PAR1\x15", "parquet"),
        (b"PK\x03\x04\x00", "zip"),
        (b"\x1f\x8b\x08", "packed"),
        (b"\x80\x02}q", "pickle"),
        (b'\x10\x01\x00\x00\x00\x00\x00\x00{"a"', "safetensors"),
        (b"a cat sits\n", None),
        (b"BMW drives through rain at night\n", None),
        (b"", None),
    ],
)
def test_a_kind_is_read_from_the_first_bytes(content, name, tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes(content)
    kind = file_kind(path)
    assert (kind and kind.name) == name
    if name is None:
        require_kind(path, "prompts")
        return
    require_kind(path, "prompts", {name})
    with pytest.raises(ConfigError) as error:
        require_kind(path, "prompts")
    assert (error.value.key, error.value.value, error.value.fix) == ("prompts", path, kind.cure)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_text_is_read_in_every_unicode_encoding(encoding, tmp_path):
    (tmp_path / "x.txt").write_bytes(TEXT.encode(encoding))
    assert read_text(tmp_path / "x.txt", "prompts") == TEXT


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_is_known_by_its_zero_bytes(encoding, tmp_path):
    (tmp_path / "x.txt").write_bytes("a cat sits\na dog runs\n".encode(encoding))
    assert read_text(tmp_path / "x.txt", "prompts") == "a cat sits\na dog runs\n"


@pytest.mark.parametrize(
    "content", ["ein L\u00f6we\n".encode("latin-1"), b"a cat\x00\x01\x02 sits", POINTER, b"\x07bell"]
)
def test_other_content_is_no_text(content, tmp_path):
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(ConfigError) as error:
        read_text(tmp_path / "x.txt", "prompts")
    assert error.value.key == "prompts"
