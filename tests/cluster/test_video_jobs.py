"""Progress counts parts of a long video, and its estimate knows nothing of the videos judged earlier."""

import pytest

from cluster.pool.video_workers import ProgressBoard
from cluster.video_jobs import FrameCount, run_each
from models.errors import StopsRun


def test_a_part_of_a_video_is_a_part_of_an_item_and_the_time_left_is_that_of_its_frames(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("cluster.video_jobs.time.monotonic", lambda: now[0])
    count = FrameCount(4)
    assert count.shown() == (0, "", None)
    count.end(0)  # judged by an earlier command
    assert count.shown() == (1, "", None)
    now[0] += 10  # Ray is starting
    count.note(1, 100, 400)
    assert count.shown() == (1.25, "100 of 400 frames", None)
    now[0] += 10
    count.note(1, 200, 400)
    assert count.shown() == (1.5, "200 of 400 frames", pytest.approx(10 / 100 * (200 + 2 * 400)))
    now[0] += 30
    count.end(1)
    count.note(2, 100, 200)
    assert count.shown() == (2.5, "100 of 200 frames", pytest.approx(40 / 400 * (100 + 300)))
    count.note(3, 50, 0)  # a file that does not say how long it is
    step, line, _ = count.shown()
    assert (step, line) == (2.5, "150 of 200 frames")
    count.note(2, 200, 200)  # its outcome is still to come
    assert 2.9 < count.shown()[0] < 3


def test_frames_are_shown_while_a_video_is_under_way_and_a_stop_belongs_to_its_item(capsys):
    def work(item, report):
        report(24, 48)
        if item == "bad":
            raise StopsRun("it is damaged")
        return item.upper()

    outcomes = list(run_each(work, ["one", "bad", "two"], "judge"))
    assert [item for item, _ in outcomes] == ["one", "bad", "two"]
    assert outcomes[0][1] == "ONE" and isinstance(outcomes[1][1], StopsRun)
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("judge: 0/3") and "24 of 48 frames" in shown[0] and shown[-1].startswith("judge: 3/3")


def test_the_board_of_the_workers_gives_each_news_once():
    board = ProgressBoard()
    board.note(0, 24, 48)
    board.note(1, 24, 0)
    board.note(0, 48, 48)
    assert board.take() == {0: (48, 48), 1: (24, 0)} and board.take() == {}
