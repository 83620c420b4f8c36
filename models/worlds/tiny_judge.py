"""Judge frames of the tiny world exactly, by the distance to the nearest frame of that world.

The world draws sprites over lit walls and nothing else, so the distance can be computed. The sprite's position
is searched on a grid and then refined; the wall's light, in which a rendering is linear, is solved for at
every position. In that least squares a pixel weighs 1 - coverage: the sprite hides the rest of the wall.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import torch
from torch import Tensor

from models.worlds.tiny_prompts import COLOURS, SHAPES, WALLS, TinyScene, scene_of
from models.worlds.tiny_world import GRADIENT, LEVEL, LIGHT_BASIS, RADIUS, SIZE, WALL_RELIEF, coverage, render

TOLERANCE = 0.045
"""Largest RMSE to a rendering of the prompted scene at which a frame is valid, in units of pixel value."""

LIGHT_LOW = torch.tensor([LEVEL[0], -GRADIENT / 2, -GRADIENT / 2])
LIGHT_HIGH = torch.tensor([LEVEL[1], GRADIENT / 2, GRADIENT / 2])
"""The light a real video can have: level, gradient down, gradient right. Sampling halves each gradient."""

_PALETTE = torch.tensor(list(COLOURS.values()))
_GRID_AXIS = torch.arange(RADIUS, SIZE - RADIUS + 0.25, 0.5)
_GRID = torch.cartesian_prod(_GRID_AXIS, _GRID_AXIS)
"""Positions [P 2] that the search starts from: all places a sprite can be, half a pixel apart."""
_RELIEF = (LIGHT_BASIS * WALL_RELIEF).flatten(1)
"""[3 HW]: texture lit by level, gradient down and gradient right alone; a wall is a sum of the three."""
_REFINEMENTS = (0.25, 0.125, 0.0625, 0.03125)
"""Half a pixel off costs an RMSE of up to 0.03, a sixty-fourth 0.002."""
_NEIGHBOURS = torch.cartesian_prod(torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([-1.0, 0.0, 1.0]))
_CHUNK_FRAMES = 64
"""Frames judged together: their candidates fit the processor's cache; larger chunks run at half the speed."""


@dataclass(frozen=True)
class Verdict:
    """Holds the judge's findings in B videos of T frames.

    `colour` and `shape` are the frame's own, whatever the prompt; all else is about the prompted scene.
    """

    error: Tensor
    """[B T] RMSE, over pixels and channels, to the best valid rendering of the prompted scene."""
    position: Tensor
    """[B T 2] row and column of the prompted sprite's best-fit centre, pixels in [RADIUS, SIZE - RADIUS]."""
    light: Tensor
    """[B T 3] level, gradient down and gradient right of the wall there, fitted without limits."""
    colour: Tensor
    """[B T] index into COLOURS of the best-fit sprite of any colour and shape."""
    shape: Tensor
    """[B T] index into SHAPES of the same."""
    colour_right: Tensor
    """[B T] bool: that colour is the prompted one."""
    shape_right: Tensor
    """[B T] bool: that shape is the prompted one.

    Disc and square differ by an RMSE of 0.01 to 0.04 only, so a frame of the wrong shape can be valid.
    """

    @property
    def valid(self) -> Tensor:
        """Return [B T] bool: the frame is a rendering of the prompted scene, within TOLERANCE. NaN is not."""
        return self.error < TOLERANCE

    @property
    def level_in_range(self) -> Tensor:
        """Return [B T] bool: the wall is as bright as walls of the world can be."""
        level = self.light[..., 0]
        return (level >= LIGHT_LOW[0]) & (level <= LIGHT_HIGH[0])


@torch.no_grad()
def judge(video: Tensor, prompts: Sequence[str]) -> Verdict:
    """Judge every frame of `video` [B T 3 H W], values in [0, 1], on the CPU, against its video's prompt.

    Raises ValueError when the video is no batch of tiny-world frames in floats, when there is not one prompt
    per video, or when a prompt is unknown.
    """
    if video.ndim != 5 or video.shape[2:] != (3, SIZE, SIZE) or not video.numel():
        raise ValueError(
            f"the judge reads video [B T 3 {SIZE} {SIZE}]; got {list(video.shape)} (generate.py enlarge=1)"
        )
    if not video.is_floating_point():
        raise ValueError(f"the judge reads floats in [0, 1]; got {video.dtype}")
    if len(prompts) != len(video):
        raise ValueError(f"the judge needs one prompt per video; got {len(prompts)} for {len(video)} videos")
    scenes = [scene_of(prompt) for prompt in prompts]
    chunks = [
        _judge_frames(frames, scene)
        for clip, scene in zip(video.float(), scenes, strict=True)
        for frames in clip.split(_CHUNK_FRAMES)
    ]
    joined = (torch.cat([getattr(chunk, field.name) for chunk in chunks]) for field in fields(Verdict))
    return Verdict(*(values.unflatten(0, video.shape[:2]) for values in joined))


def _judge_frames(frames: Tensor, scene: TinyScene) -> Verdict:
    """Judge `frames` [T 3 H W] of one video: where the prompted sprite is, then which sprite it really is."""
    distances = [_distances(frames, shape, scene.wall) for shape in SHAPES]
    colour, shape = list(COLOURS).index(scene.colour), SHAPES.index(scene.shape)
    start = _GRID[distances[shape][:, colour].argmin(1)]
    palette = _PALETTE[colour].expand(len(frames), 3)
    position, light, _ = _refine(frames, scene.wall, scene.shape, palette, start)

    # The best light that a real video can have. Coordinate descent in the box reaches the exact optimum in two or three
    # sweeps; clamping alone does not. The position stays that of the free fit: searching it again lowers the error by
    # 0.001 at most.
    own_colour = torch.tensor(COLOURS[scene.colour]).expand(len(frames), 3)
    gram, response, _ = _normal_equations(frames, scene.wall, scene.shape, own_colour, position[:, None])
    gram, response, possible = gram[:, 0], response[:, 0], light.clamp(LIGHT_LOW, LIGHT_HIGH)
    for k in list(range(3)) * 4:
        slope = response[:, k] - (gram[:, k] * possible).sum(-1)
        possible[:, k] = (possible[:, k] + slope / gram[:, k, k]).clamp(LIGHT_LOW[k], LIGHT_HIGH[k])
    error = (frames - render(scene, position, possible)).square().mean((1, 2, 3)).sqrt()

    # The grid tells colours apart but is too coarse for shapes, so both shapes are refined. Only the prompted wall is
    # tried: sprites on another are named as reliably, and trying all would cost three times.
    colours, residuals = [], []
    for name, distance in zip(SHAPES, distances, strict=True):
        nearest = distance.flatten(1).argmin(1)
        colours.append(nearest // len(_GRID))
        *_, residual = _refine(frames, scene.wall, name, _PALETTE[colours[-1]], _GRID[nearest % len(_GRID)])
        residuals.append(residual)
    seen_shape = torch.stack(residuals).argmin(0)
    seen_colour = torch.stack(colours).gather(0, seen_shape[None])[0]
    return Verdict(error, position, light, seen_colour, seen_shape, seen_colour == colour, seen_shape == shape)


@lru_cache
def _bases(shape: str, wall: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return the factors of `_distances`, over P grid positions, Q colours and N = 3 H W values.

    Orthonormal images of the open wall [N 3P]; images of the sprite, less what the wall can explain of them
    [N QP]; and the squared lengths of the latter [Q P].
    """
    cover = coverage(shape, _GRID).flatten(1).double()
    hue = torch.tensor(WALLS[wall]).double()
    open_wall = torch.einsum("c,pl,kl->pclk", hue, 1 - cover, _RELIEF.double()).flatten(1, 2)
    open_wall = torch.linalg.qr(open_wall).Q
    sprite = torch.einsum("qc,pl->pclq", _PALETTE.double(), cover).flatten(1, 2)
    sprite = sprite - open_wall @ (open_wall.mT @ sprite)
    by_value = open_wall.permute(1, 0, 2).flatten(1), sprite.permute(1, 2, 0).flatten(1)
    return by_value[0].float(), by_value[1].float(), sprite.square().sum(1).T.float()


def _distances(frames: Tensor, shape: str, wall: str) -> Tensor:
    """Compute the squared distance [T Q P] of `frames` to a rendering in every colour and position, in any light."""
    open_wall, sprites, lengths = _bases(shape, wall)
    values = frames.flatten(1)
    explained = (values @ open_wall).unflatten(1, (-1, 3)).square().sum(-1)
    unexplained = values.square().sum(1, keepdim=True) - explained
    return unexplained[:, None] + lengths - 2 * (values @ sprites).unflatten(1, (len(_PALETTE), -1))


def _refine(frames: Tensor, wall: str, shape: str, colour: Tensor, position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Step downhill from `position` [T 2], ever finer: position, light [T 3] and squared distance [T]."""
    for step in _REFINEMENTS:
        candidates = (position[:, None] + step * _NEIGHBOURS).clamp(RADIUS, SIZE - RADIUS)
        gram, response, energy = _normal_equations(frames, wall, shape, colour, candidates)
        light = torch.linalg.solve(gram, response)
        distance = energy - (light * response).sum(-1)
        best = distance.argmin(1)
        row = torch.arange(len(frames))
        position, light, distance = candidates[row, best], light[row, best], distance[row, best]
    return position, light, distance


def _normal_equations(
    frames: Tensor, wall: str, shape: str, colour: Tensor, position: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute least squares for light: Gram matrix [T P 3 3], response [T P 3], squared length [T P] of the target.

    The sprite, of `colour` [T 3] at `position` [T P 2], is first taken off `frames` [T 3 H W].
    """
    values, hue = frames.flatten(2), torch.tensor(WALLS[wall])
    cover = coverage(shape, position).flatten(2)
    open_share = 1 - cover
    products = (_RELIEF[:, None] * _RELIEF).flatten(0, 1)
    gram = hue.square().sum() * ((open_share * open_share) @ products.T).unflatten(-1, (3, 3))
    along_hue = torch.einsum("tcl,c->tl", values, hue)[:, None] - (colour @ hue)[:, None, None] * cover
    response = (open_share * along_hue) @ _RELIEF.T
    along_colour = torch.einsum("tcl,tc->tl", values, colour)
    energy = (
        values.square().sum((1, 2))[:, None]
        - 2 * torch.einsum("tpl,tl->tp", cover, along_colour)
        + colour.square().sum(1)[:, None] * cover.square().sum(2)
    )
    return gram, response, energy
