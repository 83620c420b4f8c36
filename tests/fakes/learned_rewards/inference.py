"""Has the interface of VideoAlign's inference.py: VQ is the mean of a video, MQ counts its frames, TA its calls."""

import av


class VideoVLMRewardInference:
    def __init__(self, load_from_pretrained, device="cuda"):
        self.calls = 0

    def reward(self, video_paths, prompts, use_norm=True):
        assert use_norm and len(video_paths) == len(prompts) == 1
        self.calls += 1
        with av.open(video_paths[0]) as film:
            frames = [frame.to_ndarray(format="gray") for frame in film.decode(video=0)]
        mean = sum(float(frame.mean()) for frame in frames) / len(frames) / 255
        return [{"VQ": mean, "MQ": len(frames), "TA": self.calls, "Overall": 0.0}]
