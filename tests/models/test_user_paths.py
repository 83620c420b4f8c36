"""A path of a home folder needs the folder: without HOME it is the password file's, and without both a mistake."""

import pwd

import pytest

from models.errors import ConfigError
from models.user_paths import user_path


@pytest.fixture
def unset(monkeypatch):
    monkeypatch.delenv("HOME", raising=False)


def test_without_home_it_is_the_folder_of_the_password_file(unset, monkeypatch, tmp_path):
    entry = pwd.struct_passwd(("a", "x", 1, 1, "", str(tmp_path), ""))
    monkeypatch.setattr(pwd, "getpwuid", lambda _: entry)
    assert user_path("~/x", "text_cache") == tmp_path / "x"


def test_without_home_and_without_a_user_the_key_is_named_and_other_paths_are_read(unset, monkeypatch, tmp_path):
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    with pytest.raises(ConfigError) as error:
        user_path("~/x", "text_cache")
    assert (error.value.key, error.value.value) == ("text_cache", "~/x")
    assert user_path(f"{tmp_path}/x", "text_cache") == tmp_path / "x"
