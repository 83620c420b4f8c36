"""What a submission sends, against the package that Ray itself makes of the same folder."""

import zipfile

import pytest

import settings
from cluster.bootstrap.upload import upload_lines, upload_of
from models.errors import ConfigError


@pytest.fixture
def checkout(tmp_path):
    """Files at every depth, some of them kept at home by either of the two lists."""
    for name, size in {
        "train.py": 100,
        "models/wan/network.py": 2000,
        "models/deep/er/x.txt": 30,
        "runs/a/video.mp4": 50_000,
        "models/cache/left.bin": 7000,
        ".venv/lib/big.so": 90_000,
        "docs/picture.png": 4000,
    }.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * size)
    (tmp_path / ".gitignore").write_text("/runs/\n.venv/\n")
    (tmp_path / ".rayignore").write_text("*.png\n")
    (tmp_path / "models/.gitignore").write_text("cache/\n")
    return tmp_path


def packed_by_ray(folder, target):
    from ray._private.runtime_env.packaging import create_package

    create_package(str(folder), target, include_gitignore=True)
    with zipfile.ZipFile(target) as package:
        return {entry.filename: entry.file_size for entry in package.infolist() if not entry.is_dir()}


@pytest.mark.parametrize("which", ["a small folder", "this checkout"])
def test_what_is_measured_is_what_ray_packs(which, checkout, tmp_path_factory):
    folder = checkout if which == "a small folder" else settings.ROOT
    packed = packed_by_ray(folder, tmp_path_factory.mktemp("package") / "package.zip")
    upload = upload_of(folder)
    assert (upload.files, upload.size) == (len(packed), sum(packed.values()))
    for part, size in upload.parts.items():
        assert size == sum(n for name, n in packed.items() if name == part or name.startswith(f"{part}/"))


def test_a_checkout_is_sent_without_what_runs_and_tools_leave_in_it():
    upload = upload_of(settings.ROOT)
    assert upload.size < 14e6 and upload.limit == 100 * 2**20 and upload.too_large is None
    assert not {"runs", ".venv", ".git", ".pytest_cache", ".ruff_cache"} & upload.parts.keys()


def test_an_upload_over_the_limit_names_the_largest_folders_and_the_cure(checkout):
    with (checkout / "models/weights.bin").open("wb") as file:
        file.truncate(130 * 2**20)
    said = upload_of(checkout).too_large
    assert all(fact in said for fact in ("130 MiB", " 100", "models (130 MiB)")) and "\n" not in said


def test_a_dry_run_for_a_cluster_refuses_an_upload_over_the_limit_and_a_laptop_is_only_warned(checkout):
    with (checkout / "weights.bin").open("wb") as file:
        file.truncate(101 * 2**20)
    with pytest.raises(ConfigError, match=r"101 MiB.*weights\.bin \(101 MiB\)"):
        upload_lines(checkout, elsewhere=True)
    assert "101 MiB" in upload_lines(checkout, elsewhere=False)[-1]
