"""A file is whole or absent, and a folder in which none can be made is known beforehand."""

import os
from pathlib import Path

import pytest

from models.atomic_files import atomic_file, require_writable, write_atomic


def test_a_result_is_on_the_disk_before_it_has_its_name_and_then_the_name_is(tmp_path, monkeypatch):
    flushed, sync = [], os.fsync

    def seen(descriptor):
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        flushed.append((path.name, (tmp_path / "whole").exists() or path.read_bytes()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", seen)
    write_atomic(tmp_path / "whole", b"content")
    assert flushed == [(".whole.partial", b"content"), (tmp_path.name, True)]


@pytest.mark.parametrize("error", [OSError("disk"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(error, tmp_path):
    path = tmp_path / "whole"
    path.write_bytes(b"before")
    with pytest.raises(type(error)), atomic_file(path) as partial:
        partial.write_bytes(b"half")
        raise error
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"whole": b"before"}


def test_writers_of_the_same_file_do_not_meet_before_it_is_whole(tmp_path):
    path = tmp_path / "whole"
    with atomic_file(path, ".one") as first, atomic_file(path, ".other") as second:
        first.write_bytes(b"one")
        second.write_bytes(b"other")
        assert first.read_bytes() == b"one" and not path.exists()
    assert path.read_bytes() == b"one" and list(tmp_path.iterdir()) == [path]


def test_a_folder_is_writable_where_a_file_can_be_made_and_none_is_left(tmp_path):
    require_writable(tmp_path)
    assert not list(tmp_path.iterdir())
    for folder in (Path("/proc"), tmp_path / "none", tmp_path / "file"):
        (tmp_path / "file").touch()
        with pytest.raises(OSError):
            require_writable(folder)
