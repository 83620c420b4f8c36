"""Text alignment and identity follow from the encoders' vectors second by second, in flat memory."""

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.benchmark_columns.benchmark_config import EmbeddingConfig
from evaluation.benchmark_columns.benchmark_metrics import benchmark_metrics
from evaluation.benchmark_columns.clip_score import clip_score, middle_frames
from evaluation.benchmark_columns.embedding_alignment import EmbeddingMeter, embedding_columns, load_encoders
from evaluation.benchmark_columns.embedding_rows import embedding_rows_path, joined_rows
from evaluation.video_evaluation import evaluate_video, read_rows
from evaluation.video_tasks import VideoTask
from models.errors import ConfigError
from models.video_stream import Frame, stream_frames
from rewards.learned.image_encoders import image_encoder, text_encoder
from tests.fakes.films import moving_texture, write_film
from tests.fakes.small_encoders import save_clip, save_dino, save_dinov2


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of small encoders by name."""
    root = tmp_path_factory.mktemp("encoders")
    return {
        "clip": str(save_clip(root / "clip")),
        "dino": str(save_dino(root / "dino")),
        "dinov2": str(save_dinov2(root / "dinov2")),
    }


class TableEncoder:
    """Encodes a picture by its first pixel, which counts a row of a table of unit vectors."""

    def __init__(self, table):
        self.table, self.most = torch.nn.functional.normalize(table, dim=-1), 0

    def prepare(self, pixels):
        return torch.tensor(int(pixels[0, 0, 0]))

    def encode(self, pictures):
        self.most = max(self.most, len(pictures))
        return self.table[torch.stack(list(pictures))]

    def encode_text(self, text):
        return self.table[0]


def numbered_frames(count, fps):
    for i in range(count):
        yield Frame(i / fps, numpy.full((2, 2, 3), i, dtype=numpy.uint8))


def task_of(path, prompt="a cat"):
    return VideoTask("a", path.stem, path, prompt, path.parent / "rows")


@settings(max_examples=40)
@given(st.integers(1, 60), st.sampled_from([1, 2, 5]), st.integers(1, 9), st.sampled_from([4, 8, 10]))
def test_rows_are_the_means_of_their_seconds_whatever_the_batch(count, frames_per_s, batch, fps):
    table = torch.randn(64, 5, generator=torch.Generator().manual_seed(count))
    encoder = TableEncoder(table)
    meter = EmbeddingMeter({"text_alignment": encoder, "identity": encoder}, "a cat", frames_per_s, batch)
    for frame in numbered_frames(count, fps):
        meter.add(frame)
    slots = [int(i / fps * frames_per_s) for i in range(count)]
    chosen = [i for i in range(count) if i == 0 or slots[i] != slots[i - 1]]
    start = encoder.table[[i for i in chosen if i / fps < 2]].mean(0)
    start = start / start.norm()
    rows = meter.finish()
    assert [row["second"] for row in rows] == list(range(int((count - 1) / fps) + 1))
    for row in rows:
        vectors = encoder.table[[i for i in chosen if int(i / fps) == row["second"]]]
        assert row["text_alignment"] == pytest.approx(100 * float((vectors @ encoder.table[0]).mean()), abs=1e-4)
        assert row["identity"] == pytest.approx(float((vectors @ start).mean()), abs=1e-5)
    assert encoder.most <= batch


def test_a_second_without_frames_has_no_values():
    encoder = TableEncoder(torch.randn(8, 5, generator=torch.Generator().manual_seed(0)))
    meter = EmbeddingMeter({"identity": encoder}, None, 2, 4)
    for number, time_s in enumerate([0.0, 0.5, 3.0]):
        meter.add(Frame(time_s, numpy.full((2, 2, 3), number, dtype=numpy.uint8)))
    assert [row["identity"] is None for row in meter.finish()] == [False, True, True, False]


@pytest.mark.parametrize("identity", ["clip", "dino", "dinov2"])
def test_a_video_keeps_its_identity_as_long_as_it_stands_still(tmp_path, folders, identity):
    still, other = moving_texture(1, 0.0, seed=1)[0], moving_texture(1, 0.0, seed=2)[0]
    path = write_film(tmp_path / "x.mp4", [still] * 32 + [255 - other] * 16, fps=8)
    config = EmbeddingConfig(clip=folders["clip"], identity=folders[identity])
    metrics = embedding_columns(task_of(path), config)
    rows = read_rows(embedding_rows_path(task_of(path)))
    assert [row["second"] for row in rows] == list(range(6))
    assert all(row["identity"] == pytest.approx(1, abs=2e-3) for row in rows[:4])
    assert max(row["identity"] for row in rows[4:]) < min(row["identity"] for row in rows[:4])
    assert metrics["identity.mean"] == pytest.approx(sum(row["identity"] for row in rows) / 6, abs=1e-5)
    assert metrics["identity.worst"] > 0 and set(metrics) <= set(benchmark_metrics())


def test_text_alignment_is_the_cosine_that_clip_itself_computes(tmp_path, folders):
    path = write_film(tmp_path / "x.mp4", moving_texture(8, 1.0), fps=8)
    encoder = text_encoder(folders["clip"], "embeddings.clip", "cpu")
    first, fifth = [frame.pixels for i, frame in enumerate(stream_frames(path)) if i in (0, 4)]
    tokens = encoder.tokenizer(["a cat"], return_tensors="pt")
    pixels = encoder.processor(images=[first, fifth], return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        output = encoder.network(**tokens, pixel_values=pixels)
    expected = float(100 * (output.image_embeds @ output.text_embeds.T).mean())
    metrics = embedding_columns(task_of(path), EmbeddingConfig(clip=folders["clip"]))
    assert metrics["text_alignment.mean"] == pytest.approx(expected, abs=1e-3)


def test_a_second_call_reads_and_another_prompt_or_encoder_measures_again(tmp_path, folders):
    path = write_film(tmp_path / "x.mp4", moving_texture(16, 1.0), fps=8)
    config = EmbeddingConfig(clip=folders["clip"], identity=folders["dino"])
    first = embedding_columns(task_of(path), config)
    stamp = embedding_rows_path(task_of(path)).stat().st_mtime_ns
    assert embedding_columns(task_of(path), config) == first
    assert embedding_rows_path(task_of(path)).stat().st_mtime_ns == stamp
    other = embedding_columns(task_of(path, "a dog walks"), config)
    assert other["text_alignment.mean"] != first["text_alignment.mean"]
    assert other["identity.mean"] == first["identity.mean"]
    changed = embedding_columns(task_of(path), EmbeddingConfig(clip=folders["clip"], identity=folders["dinov2"]))
    assert changed["identity.mean"] != first["identity.mean"]


def test_without_a_prompt_text_alignment_is_missing_and_without_encoders_there_are_no_columns(tmp_path, folders):
    path = write_film(tmp_path / "x.mp4", moving_texture(16, 1.0), fps=8)
    metrics = embedding_columns(task_of(path, None), EmbeddingConfig(clip=folders["clip"]))
    assert set(metrics.values()) == {None}
    assert embedding_columns(task_of(path), EmbeddingConfig()) == {}


def test_rows_are_joined_by_their_second(tmp_path, folders):
    path = write_film(tmp_path / "x.mp4", moving_texture(20, 1.0), fps=8)
    task = task_of(path)
    evaluate_video(task)
    assert joined_rows(task) == read_rows(task.rows_path)
    embedding_columns(task, EmbeddingConfig(identity=folders["dino"]))
    added = read_rows(embedding_rows_path(task))
    rows = read_rows(task.rows_path)
    assert joined_rows(task) == [row | one for row, one in zip(rows, added, strict=True)]


def test_one_network_serves_both_curves(folders):
    encoders = load_encoders(EmbeddingConfig(clip=folders["clip"], identity=folders["clip"]))
    assert encoders["text_alignment"] is encoders["identity"]


@pytest.mark.parametrize("damage", ["absent", "empty", "no weights", "cut weights", "missing weights", "no text"])
def test_a_folder_that_cannot_be_loaded_is_rejected_before_anything_starts(tmp_path, folders, damage):
    folder = tmp_path / "encoder"
    if damage == "empty":
        folder.mkdir()
    elif damage == "no text":
        folder = folders["dino"]
    elif damage != "absent":
        save_clip(folder)
        weights = folder / "model.safetensors"
        if damage == "no weights":
            weights.unlink()
        elif damage == "cut weights":
            weights.write_bytes(weights.read_bytes()[:500])
        else:
            other = save_dino(tmp_path / "other") / "model.safetensors"
            weights.write_bytes(other.read_bytes())
    with pytest.raises(ConfigError) as error:
        load_encoders(EmbeddingConfig(clip=str(folder)))
    assert error.value.key == "embeddings.clip"


def test_the_clip_score_is_the_mean_over_clips_of_eight_frames(tmp_path, folders):
    encoder = image_encoder(folders["clip"], "vbench.clip", "cpu")
    clips = [
        write_film(tmp_path / f"{i}.mp4", moving_texture(count, 1.0, seed=i), fps=8) for i, count in enumerate((16, 5))
    ]
    text = encoder.encode_text("a cat")
    expected = []
    for clip in clips:
        pictures = [encoder.prepare(frame.pixels) for frame in stream_frames(clip)]
        expected.append(float((encoder.encode([pictures[i] for i in middle_frames(len(pictures))]) @ text).mean()))
    assert clip_score(clips, "a cat", encoder) == pytest.approx(sum(expected) / 2)


@given(st.integers(1, 400))
def test_middle_frames_are_eight_of_the_clip_in_order(count):
    chosen = middle_frames(count)
    assert len(chosen) == 8 and chosen == sorted(chosen) and 0 <= chosen[0] <= chosen[-1] < count
    assert len(set(chosen)) == min(8, count)


def test_middle_frames_are_those_that_vbench_reads():
    assert middle_frames(32) == [1, 5, 9, 13, 17, 21, 25, 29]
    assert middle_frames(3) == [0, 1, 2, 2, 2, 2, 2, 2]


def test_a_prompt_longer_than_the_network_is_cut(folders):
    encoder = text_encoder(folders["clip"], "embeddings.clip", "cpu")
    assert torch.isfinite(encoder.encode_text("cat " * 500)).all()
