"""Follow text alignment and identity over time by image encoders: one row per second, in flat memory."""

import json
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from evaluation.benchmark_columns.benchmark_config import EmbeddingConfig
from evaluation.benchmark_columns.benchmark_metrics import EMBEDDING_BANDS, EMBEDDING_CURVES
from evaluation.benchmark_columns.embedding_rows import embedding_rows_path
from evaluation.metrics import summarise_points
from evaluation.second_curves import REFERENCE_S, Row, finite
from evaluation.video_evaluation import open_video
from evaluation.video_tasks import VideoTask
from models.atomic_files import write_atomic
from models.fingerprint import file_digest
from models.video_stream import Frame
from rewards.learned.image_encoders import ImageEncoder, image_encoder, text_encoder

VERSION = 1
"""Number of the measurement; results of another are measured again."""
_DIGITS = 6


class EmbeddingMeter:
    """Takes frames in order; call `add` for each, then `finish` once."""

    def __init__(self, encoders: Mapping[str, ImageEncoder], prompt: str | None, frames_per_s: int, batch: int):
        """`encoders` are those of the curves to measure."""
        self.encoders, self.frames_per_s, self.batch = encoders, frames_per_s, batch
        self.distinct = set(encoders.values())
        """Encoders without repetition: one CLIP may serve both curves."""
        measured = "text_alignment" in encoders and prompt
        self.text = encoders["text_alignment"].encode_text(prompt) if measured else None
        self.waiting: list[tuple[float, dict[ImageEncoder, Tensor]]] = []
        """Times of frames that are not encoded yet, and the pictures that each encoder expects."""
        self.start: list[tuple[float, Tensor]] = []
        """Times and vectors of the first two seconds, until their mean is known."""
        self.reference: Tensor | None = None
        self.sums: dict[str, dict[int, list[float]]] = {name: {} for name in encoders}
        """Sum and number of the values of each second."""
        self.slot, self.last_s = -1, 0

    def add(self, frame: Frame) -> None:
        """Take the next frame; the first one of each part of a second is encoded."""
        self.last_s = max(self.last_s, int(frame.time_s))
        slot = int(frame.time_s * self.frames_per_s)
        if slot <= self.slot:
            return
        self.slot = slot
        pictures = {encoder: encoder.prepare(frame.pixels) for encoder in self.distinct}
        self.waiting.append((frame.time_s, pictures))
        if len(self.waiting) == self.batch:
            self._encode_waiting()

    def finish(self) -> list[Row]:
        """Return a row for each second; None where a curve has no value there."""
        self._encode_waiting()
        self._fix_reference()
        rows: list[Row] = []
        for second in range(self.last_s + 1):
            means = {name: sums.get(second) for name, sums in self.sums.items()}
            values = {name: None if mean is None else mean[0] / mean[1] for name, mean in means.items()}
            rows.append({"second": second} | values)
        return rows

    def _encode_waiting(self) -> None:
        if not self.waiting:
            return
        encoded = {one: one.encode([pictures[one] for _, pictures in self.waiting]) for one in self.distinct}
        for name, encoder in self.encoders.items():
            for (time_s, _), vector in zip(self.waiting, encoded[encoder], strict=True):
                if name == "identity":
                    self._add_identity(time_s, vector)
                elif self.text is not None:
                    self._add_value(name, time_s, 100 * float(vector @ self.text))
        self.waiting = []

    def _add_identity(self, time_s: float, vector: Tensor) -> None:
        """Compare a frame with the first seconds, or keep it until they are over."""
        if self.reference is None and time_s < REFERENCE_S:
            self.start.append((time_s, vector))
            return
        self._fix_reference()
        self._add_value("identity", time_s, float(vector @ self.reference))

    def _fix_reference(self) -> None:
        if self.reference is None and self.start:
            self.reference = normalize(torch.stack([vector for _, vector in self.start]).mean(0), dim=-1)
            for time_s, vector in self.start:
                self._add_value("identity", time_s, float(vector @ self.reference))
            self.start = []

    def _add_value(self, name: str, time_s: float, value: float) -> None:
        known = self.sums[name].setdefault(int(time_s), [0.0, 0])
        known[0] += value
        known[1] += 1


def embedding_columns(task: VideoTask, config: EmbeddingConfig) -> dict[str, float | None]:
    """Measure a video and write its rows, or read those of an earlier call for the same file, prompt and encoders.

    None where a curve has no value, as text alignment without a prompt. Without encoders there are no columns.
    Raises UnreadableVideo, and ConfigError where an encoder cannot be loaded.
    """
    encoders = load_encoders(config)
    if not encoders:
        return {}
    digests = {name: encoder.digest for name, encoder in encoders.items()}
    stamp = {
        "version": VERSION, "digest": file_digest(task.path), "index": task.index, "prompt": task.prompt,
        "frames_per_s": config.frames_per_s, "encoders": digests,
    }  # fmt: skip
    rows_path, result_path = embedding_rows_path(task), task.results / f"{task.name}.embeddings.json"
    if rows_path.is_file() and result_path.is_file():
        known = json.loads(result_path.read_text())
        if known["stamp"] == stamp:
            return known["metrics"]
    meter = EmbeddingMeter(encoders, task.prompt, config.frames_per_s, config.batch)
    for frame in open_video(task)[1]:
        meter.add(frame)
    rows = [{name: _rounded(value) for name, value in row.items()} for row in meter.finish()]
    metrics = {name: _rounded(value) for name, value in _summaries(rows, encoders).items()}
    write_atomic(rows_path, "".join(json.dumps(row) + "\n" for row in rows).encode())
    result = {"stamp": stamp, "metrics": metrics}
    write_atomic(result_path, (json.dumps(result, indent=2) + "\n").encode())
    return metrics


def load_encoders(config: EmbeddingConfig) -> dict[str, ImageEncoder]:
    """Load the encoders of the curves that have one. Raises ConfigError; call it before anything starts."""
    encoders = {}
    if config.clip is not None:
        encoders["text_alignment"] = text_encoder(config.clip, "embeddings.clip", config.device)
    if config.identity is not None:
        encoders["identity"] = image_encoder(config.identity, "embeddings.identity", config.device)
    return encoders


def _summaries(rows: Sequence[Row], names: Iterable[str]) -> dict[str, float | None]:
    summary: dict[str, float | None] = {}
    for name in names:
        points = list(finite(rows, name))
        summary[f"{name}.mean"] = sum(value for _, value in points) / len(points) if points else None
        parts = summarise_points(points, EMBEDDING_CURVES[name], EMBEDDING_BANDS[name])
        summary |= {f"{name}.{part}": value for part, value in parts.items()}
    return summary


def _rounded(value: float | None) -> float | None:
    """Round to six digits: float32 of different devices and batches differs below."""
    return None if value is None else float(f"{value:.{_DIGITS}g}")
