"""Cut a segment into windows, in video frames."""

from rewards.reward import Clip


def cut_windows(segment: Clip, decoded_frames: int, window_frames: int, lead_frames: int = 1) -> list[Clip]:
    """Cut `segment` into windows of `window_frames` latent frames, each with the `lead_frames` before it.

    `decoded_frames` counts the latent frames that `segment.pixels` [T 3 H W] were decoded from: those of
    `segment.latents`, and more where frames before the segment are known. The first latent frame becomes one video
    frame, every further one as many as the decoder makes (Wan 4, tiny world 1); a window shows only the last video
    frame of its oldest latent frame. Windows near the beginning have fewer frames before them.
    """
    stride = video_frames_per_latent(len(segment.pixels), decoded_frames)
    context = decoded_frames - len(segment.latents)
    cut = []
    for start in range(0, len(segment.latents), window_frames):
        latents = segment.latents[start : start + window_frames]
        first = stride * max(context + start - lead_frames, 0)
        last = stride * (context + start + len(latents) - 1)
        flow = None if segment.flow is None else segment.flow.between(first, last)
        cut.append(Clip(segment.prompt, segment.pixels[first : last + 1], latents, flow))
    return cut


def video_frames_per_latent(video_frames: int, latent_frames: int) -> int:
    """Count the video frames of each latent frame but the first, which has one.

    Raises ValueError where a decoder makes unequally many.
    """
    further = latent_frames - 1
    if (video_frames - 1) % max(further, 1) or (further == 0 and video_frames != 1):
        raise ValueError(
            f"{latent_frames} latent frames were decoded to {video_frames} frames: not one, then equally many"
        )
    return (video_frames - 1) // max(further, 1)
