"""Declare the keys of the ways to sample a video, and to continue it past the student's horizon."""

from dataclasses import dataclass

from models.errors import ConfigError
from models.keys import KeyGroup, key, nearest_multiples
from models.network_config import StudentConfig


@dataclass(kw_only=True)
class MethodKeys(KeyGroup):
    """Chooses how blocks are denoised, and how a video continues past one horizon."""

    extend: str = key(
        "rolling",
        "way past one horizon: rolling keeps the last frames in the cache and goes on; overlap begins a new horizon "
        "with the last frames of the one before, as CausVid does",
        choices=("rolling", "overlap"),
    )
    overlap: int | None = key(
        None,
        "latent frames that a horizon of extend=overlap has in common with the one before, in whole blocks; none: one "
        "block",
        ge=1,
        le=100_000,
    )

    sampler: str = key(
        "blocks",
        "order of denoising: blocks finishes one block before the next; staggered denoises neighbouring blocks "
        "together, at noise that rises along the video, as SkyReels-V2 and MAGI-1 do",
        choices=("blocks", "staggered"),
    )
    steps: int | None = key(
        None,
        "denoising steps of a block with sampler=staggered, evenly spaced before warping; none: student.timesteps",
        ge=1,
        le=1000,
    )
    stagger: int | None = key(
        None,
        "steps by which a block is ahead of the next one with sampler=staggered: 0 denoises the whole window at once, "
        "as many as there are steps block by block; none: 1",
        ge=0,
        le=1000,
    )
    solver: str | None = key(
        None,
        "step of sampler=staggered: renoise, for few-step students, or euler, along the flow's ODE, for networks of "
        "diffusion forcing; none: renoise",
        choices=("renoise", "euler"),
    )
    context_noise: float | None = key(
        None,
        "noise level, from 0 to 1, at which sampler=staggered reads finished blocks into the cache; 0.02 in "
        "SkyReels-V2; none: 0",
        ge=0,
        lt=1,
    )

    def denoising_timesteps(self, student: StudentConfig) -> list[float]:
        """Return the timesteps of the denoising steps before warping, from 1000 down."""
        if self.steps is None:
            return student.timesteps
        return [1000 * (self.steps - step) / self.steps for step in range(self.steps)]

    def check_method(self, student: StudentConfig, sink: int, recache: bool) -> None:
        """Check the keys against the student; `sink` counts the frames that stay. Raises ConfigError."""
        if self.extend == "overlap" and self.sampler == "staggered":
            problem = "sampler=staggered has no horizons that could overlap"
            raise ConfigError("extend", self.extend, problem, "leave extend out, or write sampler=blocks")
        self._check_overlap(student)
        self._check_stagger(student)
        method = "extend=overlap" if self.extend == "overlap" else f"sampler={self.sampler}"
        if method != "sampler=blocks" and sink:
            raise ConfigError("sink", sink, f"{method} keeps no frames of the beginning", "write sink=0")
        if method != "sampler=blocks" and recache:
            problem = f"{method} reads no remembered frames again"
            raise ConfigError("recache", True, problem, f"leave recache out, or leave {method} out")

    def _check_stagger(self, student: StudentConfig) -> None:
        """Check the keys of the joint window. Raises ConfigError."""
        if self.sampler != "staggered":
            for name in ("steps", "stagger", "solver", "context_noise"):
                if (value := getattr(self, name)) is not None:
                    fix = f"write sampler=staggered too, or leave {name} out"
                    raise ConfigError(name, value, f"sampler={self.sampler} has none", fix)
            return
        steps = len(self.denoising_timesteps(student))
        if self.stagger is not None and self.stagger > steps:
            problem = f"more than the {steps} denoising steps of a block"
            raise ConfigError("stagger", self.stagger, problem, f"write stagger={steps}, which is block by block")
        if (self.stagger or 1) < steps and student.context_frames < student.block_frames:
            problem = f"student.attention_frames={student.attention_frames} holds one block, and none beside it"
            raise ConfigError("sampler", self.sampler, problem, "write a larger student.attention_frames")

    def _check_overlap(self, student: StudentConfig) -> None:
        """Check the keys of horizons that overlap. Raises ConfigError."""
        if self.extend != "overlap":
            if self.overlap is not None:
                fix = "write extend=overlap too, or leave overlap out"
                raise ConfigError("overlap", self.overlap, f"extend={self.extend} has none", fix)
            return
        block, horizon = student.block_frames, student.horizon_frames
        if horizon == block:
            problem = f"a horizon of {horizon} frames is one block, and nothing follows an overlap"
            raise ConfigError("extend", self.extend, problem, "write a larger student.horizon_frames")
        if self.overlap is not None and self.overlap >= horizon:
            problem = f"no part of a horizon of {horizon} frames"
            raise ConfigError("overlap", self.overlap, problem, f"write overlap={horizon - block} or less")
        if self.overlap is not None and self.overlap % block:
            fix = nearest_multiples("overlap", self.overlap, block)
            raise ConfigError("overlap", self.overlap, f"no multiple of student.block_frames={block}", fix)
