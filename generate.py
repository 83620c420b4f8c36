"""Generate a video from a prompt, of any length, block by block: the student as it rolls out in training.

python generate.py prompt="..." out=video.mp4 [key=value ...]

Writes the video while it is made; whatever stops it, the file plays. The student's shape is that of the preset.
  python generate.py preset=tiny prompt="a red disc drifts slowly over a cool wall" seconds=30 out=x.mp4
  python generate.py prompt="..." seconds=inf out=- | ffplay -f rawvideo -pixel_format rgb24 -video_size 192x192 -
  python generate.py prompt="..." video=x.mp4 seconds=5 out=more.webm
  python generate.py from=x.json out=again.mp4
"""

import signal
from collections.abc import Sequence

import settings
from actors.generation.generation_config import GenerationConfig
from actors.generation.video_record import recorded_keys
from models.checkpoints.hub import require_named
from models.errors import ConfigError
from models.user_paths import existing_path
from models.worlds.tiny_prompts import scene_of


def read_generation(arguments: Sequence[str]) -> GenerationConfig:
    """Read the keys of generation: those given, of a record (`from=`), and the preset's. Raises ConfigError."""
    typed = [f"from_json={text[5:]}" if text.startswith("from=") else text for text in arguments]
    given = dict(text.partition("=")[::2] for text in typed)
    record = given.get("from_json", "").strip("'\"")
    try:
        recorded = recorded_keys(record, given) if record else {}
    except ConfigError as error:
        key = "from_json" if f"from_json={record}" in arguments else "from"
        raise ConfigError(key, error.value, error.problem, error.fix) from error
    return settings.read_keys(typed, GenerationConfig, part="student", recorded=recorded)


def main(config: GenerationConfig) -> None:
    """Generate the videos. Raises ConfigError before a file exists, VideoEnded for one that ends early."""
    for name in ("prompts", "image", "video", "images"):
        if (given := getattr(config, name)) is not None:
            existing_path(given, name)
    weights = [(name, getattr(config, name)) for name in ("checkpoint", "vae", "text_encoder")]
    for name, given in [*weights, *(("lora", one) for one in config.lora_names)]:
        if given is not None:
            require_named(given, name)
    if config.prompt is not None and not config.student.in_wan_world:
        scene_of(config.prompt)
    from actors.generation.job import open_job  # imports torch, which help and mistakes do not wait for
    from actors.generation.video_loop import generate_videos

    generate_videos(open_job(config))


def stop(number: int, _: object) -> None:
    """Handle a signal as Ctrl-C is handled, so that the file is closed. Raises KeyboardInterrupt with its number."""
    raise KeyboardInterrupt(number)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores one of them
            signal.signal(number, stop)
    settings.command(main, GenerationConfig, __doc__, read_generation, groups=("preset",))
