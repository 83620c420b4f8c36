"""Evaluate a version of the student: generate fixed videos, measure them, and write what they show."""

import json
import math
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy
import torch
from torch import Tensor

from actors.generation.streaming import Scene, show_blocks, stream_latents
from actors.generation.video_writer import Mp4File
from cluster.evaluations.best_student import keep_if_best, since_best
from cluster.runs.factory import computing_of
from cluster.runs.stage_spec import EvaluationSpec
from evaluation.metrics import summarise
from evaluation.second_curves import CurveMeter
from evaluation.stability.real_band import tiny_band
from evaluation.tiny_metrics import segment_metrics
from models.atomic_files import flush
from models.noise import BlockNoise, Draw
from models.records import Weights
from models.video_stream import Frame
from models.worlds.tiny_world import FPS
from models.worlds.video_codec import video_frames

_FILE_ROWS = 192
"""Rows to which small videos are enlarged, as generate.py does: curves of both then agree."""
_TINY_NAMES = {"dynamic_degree": "prompted_motion"}
"""Metrics of the tiny world's judge under another name, because the curves have one of that name."""


@dataclass
class _Video:
    """Collects one video of an evaluation: its curves, its file, and for the tiny world its frames."""

    name: str
    prompt: str
    seed: int
    writer: Mp4File | None
    meter: CurveMeter
    pieces: list[numpy.ndarray] = field(default_factory=list)


class StudentEvaluator:
    """Evaluates versions of one stage's student, one after the other, with the same prompts and noise."""

    def __init__(self, spec: EvaluationSpec, device: str = "cpu"):
        """Open the world; networks get their weights with the first version."""
        self.spec, self.computing = spec, computing_of(spec.rollout, device)
        self.codec, self.encode_text = (opened(self.computing.device) for opened in (spec.world.codec, spec.world.text))
        self.student = self.computing.outline(spec.student.wan)
        cv2.setNumThreads(1)

    def __call__(self, step: int, weights: Weights) -> dict[str, float]:
        """Evaluate the student after `step` updates; returns its metrics, by their names in the log.

        Writes the best weights first, then the folder of the evaluation as a whole. Raises ValueError where
        evaluation.metric has no value, and OSError.
        """
        device = self.computing.device
        self.student.load_state_dict({name: t.to(device) for name, t in weights.tensors.items()}, assign=True)
        weights.check(self.student.state_dict())
        folder = self.spec.folder(step)
        partial = folder.with_name(f".{folder.name}.partial")
        for remains in folder.parent.glob(".step_*.partial"):  # of evaluations that were killed or raised
            shutil.rmtree(remains)
        partial.mkdir(parents=True)
        videos = self._make_videos(partial)
        rows = [self._judge(video, partial) for video in videos]
        means: dict[str, float] = {}
        for name in dict.fromkeys(name for row in rows for name in row["metrics"]):
            values = [row["metrics"][name] for row in rows if name in row["metrics"]]
            means[name] = sum(values) / len(values)
        if (value := means.get(self.spec.keys.metric)) is None:
            raise ValueError(f"evaluation.metric={self.spec.keys.metric} cannot be measured in these videos")
        best = keep_if_best(self.spec, step, value, weights.tensors)
        summary = {
            "stage": self.spec.stage, "step": step, "version": weights.version, "frames": self.spec.keys.frames,
            "fps": FPS, "metric": self.spec.keys.metric, "value": value, "metrics": means, "videos": rows,
        }  # fmt: skip
        (partial / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
        _put(partial, folder)
        return {f"evaluation/{name}": mean for name, mean in means.items()} | {
            "evaluation/step": step,
            "evaluation/best": best.value,
            "evaluation/best_step": best.step,
            "evaluation/since_best": since_best(self.spec, step, best),
        }

    def _make_videos(self, folder: Path) -> list[_Video]:
        """Generate the videos in batches of rollout.batch, as rollout processes do."""
        spec, codec = self.spec, self.codec
        sizes = [size * codec.space_stride for size in (spec.student.height, spec.student.width)]
        rows, columns = (size * math.ceil(_FILE_ROWS / sizes[0]) for size in sizes)
        videos = []
        unlike = None if spec.student.in_wan_world else tiny_band().unlike
        with ExitStack() as files:
            for i, prompt in enumerate(spec.prompts):
                seed = int(numpy.random.default_rng([spec.seed, Draw.EVALUATION, i]).integers(2**62))
                writer = None
                if i < spec.keys.videos:
                    writer = Mp4File(folder / f"{i:04d}.mp4", FPS, rows, columns)
                    files.callback(writer.close)
                videos.append(_Video(f"{i:04d}", prompt, seed, writer, CurveMeter(FPS, unlike=unlike)))
            for first in range(0, len(videos), spec.rollout.batch):
                self._make_batch(videos[first : first + spec.rollout.batch])
        return videos

    def _make_batch(self, videos: Sequence[_Video]) -> None:
        shape, device = self.spec.student, self.computing.device
        noise = BlockNoise([video.seed for video in videos], (shape.block_frames, *shape.frame_shape), device)
        scenes = [Scene(0, self.encode_text([video.prompt for video in videos]).to(device))]
        frames = video_frames(self.codec, self.spec.keys.frames)

        def show(pixels: Tensor) -> None:  # uint8 [B T H W 3]
            factor = math.ceil(_FILE_ROWS / pixels.shape[2])
            for video, own in zip(videos, pixels.numpy(), strict=True):
                large = own.repeat(factor, axis=1).repeat(factor, axis=2)
                for frame in large:
                    video.meter.add(Frame(video.meter.count / FPS, frame))
                if video.writer is not None:
                    video.writer.write(large)
                if not shape.in_wan_world:
                    video.pieces.append(own)

        with torch.no_grad():
            show_blocks(
                stream_latents(self.student, shape, scenes, noise, self.codec, frames), self.codec, device, show
            )

    def _judge(self, video: _Video, folder: Path) -> dict[str, Any]:
        """Write the rows per second of a video; returns its entry of the summary."""
        curves = video.meter.finish()
        (folder / f"{video.name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in curves.rows))
        values: dict[str, float | None] = dict(summarise(curves, video.prompt))
        if video.pieces:
            pixels = torch.from_numpy(numpy.concatenate(video.pieces)).permute(0, 3, 1, 2)[None] / 255
            judged = segment_metrics(pixels, [video.prompt], self.spec.student.horizon_frames)
            values |= {_TINY_NAMES.get(name, name): sum(parts) / len(parts) for name, parts in judged.items()}
        known = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
        return {"name": video.name, "prompt": video.prompt, "seed": video.seed, "metrics": known}


def _put(partial: Path, folder: Path) -> None:
    """Give a complete folder its name; one of the same step, of a learner that was rolled back, makes room."""
    for path in [*partial.iterdir(), partial]:
        flush(path)
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)
    flush(folder.parent)
