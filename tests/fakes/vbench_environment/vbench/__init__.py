"""A VBench of the public interface: clip number i of a video scores (i + 1) / 100, in dynamic_degree i % 2 == 0.

VBENCH_STUB holds JSON: `calls` (file that gets a line of JSON for each call), `fail`, `hang`, `half`, `nan` and
`short` (dimensions that raise, never end, write half a file, a score that is no number, or leave out a clip).
"""

import json
import os
import pathlib
import threading


class VBench:
    def __init__(self, device, full_info_dir, output_path):
        self.device, self.output_path = device, pathlib.Path(output_path)
        self.plan = json.loads(os.environ["VBENCH_STUB"])

    def evaluate(
        self,
        videos_path,
        name,
        prompt_list=(),
        dimension_list=None,
        local=False,
        read_frame=False,
        mode="vbench_standard",
    ):
        (dimension,) = dimension_list
        clips = sorted(os.listdir(videos_path))
        assert set(clips) == set(prompt_list), "a clip without a prompt"
        call = {"dimension": dimension, "clips": prompt_list, "mode": mode, "local": local, "device": self.device.type,
                "cache": os.environ.get("VBENCH_CACHE_DIR")}  # fmt: skip
        with open(self.plan["calls"], "a") as calls:
            calls.write(json.dumps(call) + "\n")
        if dimension in self.plan.get("fail", ()):
            raise RuntimeError("out of memory")
        if dimension in self.plan.get("hang", ()):
            threading.Event().wait()
        numbers = {clip: int(clip.removesuffix(".mp4").rpartition("_")[2]) for clip in clips}
        scores = {clip: (number + 1) / 100 for clip, number in numbers.items()}
        if dimension == "imaging_quality":
            scores = {clip: 100 * score for clip, score in scores.items()}
        if dimension == "dynamic_degree":
            scores = {clip: number % 2 == 0 for clip, number in numbers.items()}
        if dimension in self.plan.get("nan", ()):
            scores[clips[0]] = float("nan")
        if dimension in self.plan.get("short", ()):
            scores.pop(clips[0])
        results = [{"video_path": os.path.join(videos_path, clip), "video_results": scores[clip]} for clip in scores]
        text = json.dumps({dimension: [sum(scores.values()) / max(1, len(scores)), results]})
        if dimension in self.plan.get("half", ()):
            text = text[: len(text) // 2]
        (self.output_path / f"{name}_eval_results.json").write_text(text)
