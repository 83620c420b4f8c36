"""Transcripts after kills, with other content, and with two writers."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from evaluation.judging.inquiry import JudgedVideo
from evaluation.judging.judge_config import JudgeConfig
from evaluation.judging.transcripts import Transcripts
from evaluation.judging.video_judge import judge_videos
from models.errors import ConfigError
from tests.fakes.endpoint import served
from tests.fakes.judge_replies import asked_prompt, films, lines_of, scored

LINE = {"key": "k", "tries": 1, "dollars": 0.5, "raw": "{}", "value": 3, "missing": None}
JUDGING = """
import sys
from pathlib import Path
from evaluation.judging.inquiry import JudgedVideo
from evaluation.judging.judge_config import JudgeConfig
from evaluation.judging.video_judge import judge_videos

url, transcripts, *paths = sys.argv[1:]
videos = [JudgedVideo(Path(path).stem, Path(path), f"number {Path(path).stem}") for path in paths]
judge_videos(videos, JudgeConfig(url=url, parallel=1), Path(transcripts), lambda line: print(line, flush=True))
"""


def test_a_kill_in_the_middle_of_a_line_costs_that_line_only(tmp_path):
    videos, path, asked = films(tmp_path, 3), tmp_path / "judge.jsonl", []

    def answer(body, headers):
        asked.append(asked_prompt(body))
        return 200, scored(4)

    with served(answer) as url:
        whole = judge_videos(videos, JudgeConfig(url=url), path)
        content = path.read_bytes()
        lines = content.splitlines(keepends=True)
        for left in (1, len(lines[-1]) // 2, len(lines[-1]) - 2, len(lines[-1]) - 1):
            asked.clear()
            path.write_bytes(b"".join(lines[:-1]) + lines[-1][:left])
            assert judge_videos(videos, JudgeConfig(url=url), path) == whole
            lost = left < len(lines[-1]) - 1  # of a whole line without its end nothing is lost
            assert asked == [json.loads(lines[-1])["prompt"]] * lost and len(lines_of(path)) == 3


def test_a_killed_process_leaves_whole_lines_and_the_next_asks_for_the_rest(tmp_path):
    videos, path, asked, released = films(tmp_path, 4), tmp_path / "judge.jsonl", [], threading.Event()

    def answer(body, headers):
        asked.append(asked_prompt(body))
        if len(asked) == 3:
            released.wait(30)
        return 200, scored(4)

    with served(answer) as url:
        command = [sys.executable, "-c", JUDGING, url, str(path), *(str(video.path) for video in videos)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path.cwd()) as process:
            for _ in range(2):
                assert process.stdout.readline().startswith("judge:")
            process.kill()
        released.set()
        assert len(lines_of(path)) == 2
        before = len(asked)
        said: list[str] = []
        same = [JudgedVideo(one.path.stem, one.path, f"number {one.path.stem}") for one in videos]
        judge_videos(same, JudgeConfig(url=url, parallel=1), path, said.append)
    assert len(said) == len(asked) - before == 2
    assert len({line["key"] for line in lines_of(path)}) == len(lines_of(path)) == 4


@pytest.mark.parametrize(
    "content",
    [
        "thesis\n", "[]\n", "{}\n", "3\n",
        *(json.dumps(LINE | change) + "\n" for change in (
            {"value": None}, {"raw": None}, {"missing": "both"}, {"tries": "1"}, {"dollars": "1"}, {"key": 3},
        )),
        json.dumps(LINE) + "\n\n",
    ],
)  # fmt: skip
def test_a_file_of_another_content_is_named_and_left_as_it_is(tmp_path, content):
    path = tmp_path / "judge.jsonl"
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        Transcripts(path)
    assert caught.value.key == "judge.transcripts" and path.read_text() == content
    path.write_text(json.dumps(LINE) + "\n")
    with Transcripts(path) as transcripts:  # the failed opening holds no lock
        assert transcripts.answered("k")["value"] == 3


def test_a_second_writer_is_refused_and_cuts_no_line(tmp_path):
    path = tmp_path / "judge.jsonl"
    with Transcripts(path) as transcripts:
        transcripts.add(LINE)
        with path.open("ab") as file:
            file.write(b'{"key": ')  # the first writer is in the middle of a line
        with pytest.raises(ConfigError) as caught:
            Transcripts(path)
        assert caught.value.key == "judge.transcripts" and path.read_bytes().endswith(b'{"key": ')


def test_a_folder_in_place_of_the_file_is_named(tmp_path):
    with pytest.raises(ConfigError) as caught:
        Transcripts(tmp_path)
    assert caught.value.key == "judge.transcripts"


def test_an_answer_stays_whatever_failed_before_or_after_it_and_all_of_it_is_counted(tmp_path):
    failed = LINE | {"raw": None, "value": None, "missing": "status 500", "dollars": None, "tries": 4}
    with Transcripts(tmp_path / "judge.jsonl") as transcripts:
        for line in (failed, LINE, failed):
            transcripts.add(line)
    with Transcripts(tmp_path / "judge.jsonl") as again:
        assert again.answered("k") == LINE and again.failed("k") == failed
        assert (again.calls, again.dollars) == (9, 0.5)
