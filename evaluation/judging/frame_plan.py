"""Which frames of a video the judge sees: evenly spaced, from the first to the last."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FramePlan:
    """Spaces the frames that represent a video; part of what identifies a judge's answer."""

    frames_per_s: float
    """Largest rate."""
    most_frames: int
    """Largest number; a longer video is sampled at a lower rate."""
    rows: int
    """Largest height in pixels; smaller frames are not enlarged."""
    jpeg_quality: int

    def indices(self, fps: float, frames: int) -> tuple[int, ...]:
        """Return the indices of a video of `frames` frames: its first, its last, and others evenly between."""
        by_rate = 1 + int((frames - 1) / fps * self.frames_per_s + 1e-6)
        count = min(frames, self.most_frames, by_rate)
        if count < 2:
            return (0,) if frames else ()
        gaps = count - 1
        return tuple((2 * i * (frames - 1) + gaps) // (2 * gaps) for i in range(count))  # rounded half up
