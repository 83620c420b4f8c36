"""Sessions on one model: exact pixels whatever others do, nothing made that nobody wants, bounded queue and time."""

from threading import Event, Thread

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.serving.block_loop import ServerFull
from actors.serving.live_video import LiveVideo
from actors.serving.session import MOST_UNTAKEN, PromptChange, State
from models.worlds.tiny_prompts import PROMPTS
from tests.fakes.serving import SetClock, generated, joined, loop_of, served, taken


def change(loop, prompt, recache=False):
    return PromptChange(prompt, loop.job.world.encode_text([prompt]), recache)


@settings(max_examples=6, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["join", "leave", "step", "pause"]), st.integers(0, 3)), max_size=12))
def test_whoever_joins_leaves_and_pauses_changes_nobodys_pixels(events):
    loop = loop_of(sessions=4)
    watched, others, frames = joined(loop, seed=7, blocks=5), [], []
    for event, number in events:
        if event == "join" and len(others) < 3:
            others.append(joined(loop, seed=number, blocks=3, prompt=PROMPTS[number]))
        elif event == "leave" and others:
            others.pop(number % len(others)).end("left")
        elif event == "pause" and others:
            others[number % len(others)].pause(number % 2 == 0)
        loop.step()
        frames += taken(watched)
    while watched.made < watched.wanted:
        loop.step()
        frames += taken(watched)
    assert torch.equal(torch.cat(frames), generated([(0, PROMPTS[0])], 7, 5))


@pytest.mark.parametrize("recache", [False, True])
def test_a_change_of_the_prompt_takes_the_next_block_and_is_that_of_a_schedule(recache):
    loop = loop_of(sessions=1)
    session, frames = joined(loop, seed=3, blocks=6), []
    for block in range(6):
        if block == 4:
            session.change_prompt(change(loop, PROMPTS[1]))
            session.change_prompt(change(loop, PROMPTS[5], recache))  # the last one counts
        assert loop.step()
        made = session.take()
        assert (made.changed, made.prompt) == (block in (0, 4), PROMPTS[5 if block >= 4 else 0])
        frames.append(torch.from_numpy(made.frames))
    expected = generated([(0, PROMPTS[0]), (4, PROMPTS[5])], 3, 6, recache=recache)
    assert torch.equal(torch.cat(frames), expected)


def test_a_picture_comes_first_and_the_video_follows_it():
    loop, start = loop_of(sessions=1), torch.rand(1, 1, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    session = joined(loop, seed=3, blocks=3, start=start)
    session.want(1 + 2 * loop.job.shape.block_frames)
    frames = []
    while loop.step():
        frames += taken(session)
    assert torch.equal(torch.cat(frames), generated([(0, PROMPTS[0])], 3, 3, start=start)[: session.made])


def test_what_nobody_wants_is_not_made():
    loop = loop_of(sessions=2)
    session = joined(loop, seed=0)
    assert not loop.step()
    session.want(1)
    assert loop.step() and not loop.step(), "a block reaches beyond one frame"
    session.want(1000)
    assert [loop.step() for _ in range(MOST_UNTAKEN)] == [True] * (MOST_UNTAKEN - 1) + [False], "nobody takes them"
    taken(session)
    session.pause(True)
    assert not loop.step()
    session.pause(False)
    assert loop.step()


def test_sessions_take_turns():
    loop = loop_of(sessions=3)
    sessions = [joined(loop, seed, blocks=2) for seed in range(3)]
    for turn in range(1, 7):
        loop.step()
        made = sorted(session.made // loop.job.shape.block_frames for session in sessions)
        assert made[-1] - made[0] <= 1 and sum(made) == turn


def test_the_queue_is_bounded_and_moves_up_when_one_leaves():
    clock = SetClock()
    loop = loop_of(sessions=2, queue=2, longest_s=100, clock=clock)
    first = joined(loop, 0)
    clock.now_s += 10
    sessions = [first, *(joined(loop, seed) for seed in range(1, 4))]
    with pytest.raises(ServerFull):
        joined(loop, 4)
    assert [loop.place(one) for one in sessions] == [(0, 0.0), (0, 0.0), (1, 90.0), (2, 100.0)]
    assert [one.state for one in sessions] == [State.RUNNING] * 2 + [State.WAITING] * 2
    first.end("left")
    loop.step()
    assert sessions[2].state == State.RUNNING and loop.place(sessions[3])[0] == 1


def test_who_says_nothing_and_who_stays_too_long_is_ended_and_its_memory_freed():
    clock = SetClock()
    loop = loop_of(sessions=2, idle_s=50, longest_s=100, clock=clock)
    idle, busy = joined(loop, 0, blocks=1), joined(loop, 1, blocks=1)
    loop.step()
    clock.now_s += 40
    busy.want(1)
    clock.now_s += 20
    loop.step()
    assert (idle.state, idle.reason, idle.video) == (State.ENDED, "idle", None)
    clock.now_s += 41
    busy.want(1)
    loop.step()
    assert (busy.state, busy.reason) == (State.ENDED, "longest") and not loop.running


def test_one_whose_memory_does_not_suffice_ends_alone(monkeypatch):
    loop = loop_of(sessions=2)
    poor, other = joined(loop, 0, blocks=2), joined(loop, 1, blocks=2)
    whole = LiveVideo.next_frames

    def full_for_one(video):
        if video.noise.seeds == [0]:
            raise torch.OutOfMemoryError
        return whole(video)

    monkeypatch.setattr(LiveVideo, "next_frames", full_for_one)
    while loop.step():
        pass
    assert (poor.state, poor.reason) == (State.ENDED, "memory") and other.made == other.wanted


def test_closing_finishes_the_open_block_and_ends_all():
    loop = loop_of(sessions=1)
    made = Event()
    session, waiting = joined(loop, 0, notify=made.set), joined(loop, 1)
    made.clear()
    thread = Thread(target=loop.run)
    thread.start()
    session.want(100)
    assert made.wait(20)
    loop.close()
    thread.join(20)
    assert not thread.is_alive() and loop.stopped
    assert {session.reason, waiting.reason} == {"closing"}
    assert torch.equal(torch.cat(taken(session)), generated([(0, PROMPTS[0])], 0, 2)[: session.made])
    with pytest.raises(ServerFull):
        joined(loop, 2)


def test_a_session_holds_no_more_after_many_blocks_than_after_a_full_window():
    job, student = served()
    video = LiveVideo(job, student, job.world.encode_text([PROMPTS[0]]), 0)

    def held():
        pieces = [*video.remembered.window, *(part for pair in video.cache._buffers for part in pair)]
        return sum(piece.untyped_storage().nbytes() for piece in pieces)

    sizes = []
    for _ in range(12):
        video.next_frames()
        sizes.append(held())
    assert sizes[-1] == sizes[5]
