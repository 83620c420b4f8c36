"""evaluate.py: a folder of any videos becomes rows, a table and a report; bad files are named and skipped."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy
import pytest
from safetensors.numpy import save_file

import settings
from models.worlds.world_config import SHIPPED_STUDENT
from tests.fakes.commands import mistake, run_script
from tests.fakes.films import grey_ramp, moving_texture, write_film

TIMEOUT_S = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three films: a bright one that darkens, one that moves, one of another size and rate."""
    made = tmp_path_factory.mktemp("films")
    write_film(made / "darkens.mp4", grey_ramp(32, 200, 60))
    write_film(made / "moves.mp4", moving_texture(32, 3.0))
    write_film(made / "wide.mkv", moving_texture(60, 1.0, (64, 160), seed=1), fps=30)
    (made / "moves.txt").write_text("a texture\nmoves\n")
    return made


def evaluation_in(out):
    return json.loads((out / "evaluation.json").read_text())


def numbers(out):
    """Everything that a video's files say, by name."""
    return {path.name: path.read_text() for path in sorted((out / "rows").rglob("*.json*"))}


def test_every_video_has_a_row_a_second_and_every_metric(folder, tmp_path, capsys):
    assert run_script("evaluate.py", f"videos={folder}", f"out={tmp_path}") == 0
    evaluation = evaluation_in(tmp_path)
    videos = {video["name"]: video for video in evaluation["methods"]["videos"]["videos"]}
    assert {name: video["frames"] for name, video in videos.items()} == {"darkens": 32, "moves": 32, "wide": 60}
    assert {name: video["prompt"] for name, video in videos.items()} == {
        "darkens": None, "moves": "a texture moves", "wide": None,
    }  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "rows" / "videos" / "darkens.jsonl").read_text().splitlines()]
    assert [row["second"] for row in rows] == [0, 1, 2, 3]
    assert rows[0]["luma"] > 0.7 and rows[3]["luma"] < 0.35
    assert videos["darkens"]["metrics"]["luma.slope"] == pytest.approx(-140 / 255 / 31 * 8 * 60, rel=0.02)
    assert videos["moves"]["metrics"]["dynamic_degree"] == 1 and videos["darkens"]["metrics"]["dynamic_degree"] == 0
    assert evaluation["skipped"] == [] and "darkens" not in capsys.readouterr().err


def test_a_second_command_reads_what_is_judged_and_gives_the_same_bytes(folder, tmp_path):
    assert run_script("evaluate.py", f"videos={folder}", f"out={tmp_path}") == 0
    first, whole = numbers(tmp_path), evaluation_in(tmp_path)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "rows").rglob("*.json*")}
    assert run_script("evaluate.py", f"videos={folder}", f"out={tmp_path}") == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "rows").rglob("*.json*")} == written
    assert run_script("evaluate.py", f"videos={folder}", f"out={tmp_path / 'again'}") == 0
    assert numbers(tmp_path / "again") == first
    assert evaluation_in(tmp_path / "again")["methods"] == whole["methods"]


def test_real_videos_fill_a_column_of_the_proxy_and_a_result_without_them_is_no_result_with_them(folder, tmp_path):
    found = {}
    for compared in ([], [f"real_videos={folder}"], []):
        assert run_script("evaluate.py", f"videos={folder}", f"out={tmp_path}", *compared) == 0
        videos = evaluation_in(tmp_path)["methods"]["videos"]["videos"]
        found[len(compared)] = [video["metrics"]["vs_proxy.reality"] for video in videos]
    assert found[0] == [None] * 3 and all(0 <= points <= 5 for points in found[1])


def test_a_horizon_is_the_beginning_of_the_video_judged_alone(tmp_path):
    write_film(tmp_path / "films" / "x.mp4", grey_ramp(32, 200, 60))
    write_film(tmp_path / "short" / "x.mp4", grey_ramp(32, 200, 60)[:16])
    assert run_script("evaluate.py", f"videos={tmp_path / 'films'}", f"out={tmp_path / 'out'}", "horizons=[2,60]") == 0
    assert run_script("evaluate.py", f"videos={tmp_path / 'short'}", f"out={tmp_path / 'alone'}") == 0
    (video,) = evaluation_in(tmp_path / "out")["methods"]["videos"]["videos"]
    (alone,) = evaluation_in(tmp_path / "alone")["methods"]["videos"]["videos"]
    assert video["horizons"].keys() == {"2"}
    for name in ("luma.ends", "luma.slope", "vs_proxy", "dynamic_degree", "still"):
        assert video["horizons"]["2"][name] == pytest.approx(alone["metrics"][name], abs=0.02)
    assert video["metrics"]["vs_proxy"] < video["horizons"]["2"]["vs_proxy"]


def test_a_changed_file_is_judged_again(tmp_path):
    film = tmp_path / "films" / "x.mp4"
    write_film(film, grey_ramp(16, 50, 50))
    assert run_script("evaluate.py", f"videos={film.parent}", f"out={tmp_path / 'out'}") == 0
    write_film(film, grey_ramp(16, 150, 150))
    assert run_script("evaluate.py", f"videos={film.parent}", f"out={tmp_path / 'out'}") == 0
    row = json.loads((tmp_path / "out" / "rows" / "videos" / "x.jsonl").read_text().splitlines()[0])
    assert row["luma"] == pytest.approx(150 / 255, abs=0.01)


def test_bad_files_are_named_and_skipped_the_rest_is_judged_and_the_status_says_so(folder, tmp_path, capsys):
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    (mixed / "good.mp4").write_bytes((folder / "moves.mp4").read_bytes())
    (mixed / "good.mkv").write_bytes((folder / "wide.mkv").read_bytes())
    (mixed / "text.mp4").write_text("no film")
    (mixed / "cut.mp4").write_bytes((folder / "moves.mp4").read_bytes()[:4000])
    save_file({"latents": numpy.zeros((1, 2), dtype=numpy.float32)}, mixed / "other.safetensors")
    (mixed / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    (mixed / "folder.mp4").mkdir()
    (mixed / "notes.md").write_text("not looked at")
    assert run_script("evaluate.py", f"videos={mixed}", f"out={tmp_path / 'out'}") == 1
    evaluation = evaluation_in(tmp_path / "out")
    assert {one["file"] for one in evaluation["skipped"]} == {"text.mp4", "cut.mp4", "gone.mp4", "other.safetensors"}
    assert [video["name"] for video in evaluation["methods"]["videos"]["videos"]] == ["good.mkv", "good.mp4"]
    assert capsys.readouterr().err.count("evaluate.py: skipped") == 4


def test_a_single_file_is_judged_alone_with_its_prompt(folder, tmp_path):
    assert run_script("evaluate.py", f"videos={folder / 'moves.mp4'}", f"out={tmp_path}") == 0
    (video,) = evaluation_in(tmp_path)["methods"]["videos"]["videos"]
    assert (video["name"], video["prompt"], video["frames"]) == ("moves", "a texture moves", 32)


def test_tensors_of_videos_are_judged_one_by_one_with_their_prompts(tmp_path):
    videos = numpy.random.default_rng(0).integers(0, 255, (2, 20, 3, 12, 12), dtype=numpy.uint8)
    (tmp_path / "v").mkdir()
    save_file({"video": videos}, tmp_path / "v" / "student.safetensors")
    (tmp_path / "v" / "student.txt").write_text("a\nb\n")
    assert run_script("evaluate.py", f"videos={tmp_path / 'v'}", f"out={tmp_path / 'out'}", "tensor_fps=10") == 0
    judged = evaluation_in(tmp_path / "out")["methods"]["videos"]["videos"]
    assert [(video["name"], video["prompt"], video["seconds"]) for video in judged] == [
        ("student_0000", "a", 2), ("student_0001", "b", 2),
    ]  # fmt: skip


def test_an_evaluation_of_other_videos_is_set_aside_and_of_the_same_ones_replaced(folder, tmp_path, capsys):
    out, single = tmp_path / "out", min(folder.glob("*.mp4"))
    for videos in (folder, folder, single):
        assert run_script("evaluate.py", f"videos={videos}", f"out={out}") == 0
    assert sorted(path.name for path in out.glob("*.json")) == ["evaluation.json", "evaluation_1.json"]
    assert (out / "report.html").exists() and (out / "report_1.html").exists()
    earlier, newest = json.loads((out / "evaluation_1.json").read_text()), evaluation_in(out)
    assert [len(one["methods"]["videos"]["videos"]) for one in (earlier, newest)] == [3, 1]


@pytest.mark.parametrize(("low", "high", "status"), [(0.0, 1.0, 0), (-1.0, 1.0, 1), (0.0, 255.0, 1)])
def test_floats_outside_0_to_1_are_not_taken_for_a_picture(low, high, status, tmp_path, capsys):
    drawn = numpy.random.default_rng(0).uniform(low, high, (1, 20, 3, 12, 12)).astype(numpy.float32)
    (tmp_path / "v").mkdir()
    save_file({"video": drawn}, tmp_path / "v" / "student.safetensors")
    assert run_script("evaluate.py", f"videos={tmp_path / 'v'}", f"out={tmp_path / 'out'}") == status


def test_methods_side_by_side_are_ranked_only_where_intervals_are_apart(tmp_path):
    for name, low in (("steady", 120), ("darkens", 40)):
        for number in range(3):
            write_film(tmp_path / name / f"{number}.mp4", grey_ramp(32, 120 + number, low))
    videos = f"videos=[good={tmp_path / 'steady'},bad={tmp_path / 'darkens'}]"
    assert run_script("evaluate.py", videos, f"out={tmp_path / 'out'}") == 0
    evaluation = evaluation_in(tmp_path / "out")
    assert evaluation["rankings"]["luma.ends"] == ["good", "bad"]
    assert evaluation["rankings"]["dynamic_degree"] is None and evaluation["rankings"]["luma.slope"] is None


def test_a_students_videos_are_made_once_judged_and_never_mixed_with_those_of_other_keys(tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("a red disc drifts slowly over a cool wall\n")
    keys = [
        f"checkpoint=[ours={SHIPPED_STUDENT}]",
        f"prompts={tmp_path}/prompts.txt",
        "enlarge=1",
        f"out={tmp_path / 'out'}",
    ]
    assert run_script("evaluate.py", *keys, "seconds=1.5") == 0
    video = tmp_path / "out" / "videos" / "ours" / "0000_0.mp4"
    written = video.stat().st_mtime_ns
    assert run_script("evaluate.py", *keys, "seconds=1.5") == 0 and video.stat().st_mtime_ns == written
    judged = evaluation_in(tmp_path / "out")["methods"]["ours"]["videos"]
    assert [(one["prompt"], one["frames"]) for one in judged] == [("a red disc drifts slowly over a cool wall", 24)]
    assert mistake(capsys, "evaluate.py", *keys, "seconds=3").startswith("out=")
    assert mistake(capsys, "evaluate.py", *keys, "secnods=3").startswith("secnods")


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ([], "videos"),
        (["videos={tmp}/nowhere"], "videos"),
        (["videos={tmp}/two.txt"], "videos"),
        (["videos={films},{films}"], "videos"),
        (["videos={tmp}"], "videos"),
        (["videos=[a={films},a={films}]"], "videos"),
        (["videos=[{films}]"], "videos"),
        (["videos={films}", "prompts={tmp}/two.txt"], "prompts"),
        (["videos={films}", "prompts={tmp}/none.txt"], "prompts"),
        (["videos={films}", "workers=0"], "workers"),
        (["videos={films}", "judge.url=http://127.0.0.1:9/v1", "judge.rubric=other"], "judge.rubric"),
        (["videos={films}", "judge.url=http://127.0.0.1:9/v1", "judge.ratings={tmp}/two.txt"], "judge.ratings"),
        (
            [
                "videos=[a={films},b={films}]",
                "judge.url=http://127.0.0.1:9/v1",
                "judge.pairwise=true",
                "judge.pair_rubric=exposure_stability",
            ],
            "judge.pair_rubric",
        ),
        (["videos={films}", "preset=papr"], "preset"),
        (["videos={films}", "seconds=3"], "seconds"),
        (["preset=paper", "videos={films}"], "videos"),
        (["preset=paper", "judge.repeats=2"], "judge.repeats"),
        (["videos={films}", "real_videos={tmp}/nowhere"], "real_videos"),
    ],
)
def test_mistakes_are_one_line_that_names_the_key(arguments, key, folder, tmp_path, capsys):
    (tmp_path / "two.txt").write_text("a\nb\n")
    line = mistake(capsys, "evaluate.py", *(a.format(tmp=tmp_path, films=folder) for a in arguments))
    assert line.startswith(key)


@pytest.mark.proof
@pytest.mark.ray
def test_two_workers_and_a_kill_in_the_middle_give_the_numbers_of_one_worker(folder, tmp_path):
    assert run_script("evaluate.py", f"videos={folder}", f"out={tmp_path / 'one'}") == 0
    command = [sys.executable, "evaluate.py", f"videos={folder}"]
    subprocess.run([*command, f"out={tmp_path / 'two'}", "workers=2"], cwd=settings.ROOT, timeout=TIMEOUT_S, check=True)
    assert numbers(tmp_path / "two") == numbers(tmp_path / "one")
    killed = subprocess.Popen([*command, f"out={tmp_path / 'killed'}"], cwd=settings.ROOT)
    deadline = time.monotonic() + TIMEOUT_S
    while not list((tmp_path / "killed").rglob("darkens.json")) and time.monotonic() < deadline:
        assert killed.poll() is None or list((tmp_path / "killed").rglob("darkens.json"))
        time.sleep(0.01)  # polling another process
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait(TIMEOUT_S)
    subprocess.run([*command, f"out={tmp_path / 'killed'}"], cwd=settings.ROOT, timeout=TIMEOUT_S, check=True)
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "one")
