"""Define the Wan diffusion transformer. Teacher, critic and student are this one class.

They differ in which frames see which, and that is an argument: `forward` is the bidirectional network of teacher and
critic; `models.causal` calls `run` and `keys_values` with a cache or a block mask to make the student.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint, noop_context_fn

from models.network_config import WanConfig
from models.wan.attention import Visibility
from models.wan.cpu_products import keep_freed_memory, lay_out_products
from models.wan.flash_attention import selected_module
from models.wan.kept_attention import keep_attention
from models.wan.layers import Block, ConditionEmbedder, KeysValues, LayerNorm, RollingPast, Segments, modulation_table
from models.wan.rope import rotary_positions
from models.wan.token_layout import TokenLayout


class Wan(nn.Module):
    """Predicts velocity v = noise - x0 for latents [B F C H W] (Wan2.1; state-dict names of diffusers)."""

    def __init__(self, config: WanConfig):
        super().__init__()
        self.config = config
        dim, patch = config.dim, config.patch_size
        self.patch_embedding = nn.Conv3d(config.in_channels, dim, kernel_size=patch, stride=patch)
        self.condition_embedder = ConditionEmbedder(dim, config.freq_dim, config.text_dim)
        self.blocks = nn.ModuleList(
            Block(dim, config.ffn_dim, config.num_attention_heads, config.eps, config.cross_attn_norm)
            for _ in range(config.num_layers)
        )
        self.norm_out = LayerNorm(dim, config.eps, elementwise_affine=False)
        self.proj_out = nn.Linear(dim, config.out_channels * patch[1] * patch[2])
        self.scale_shift_table = modulation_table(2, dim)
        self.layout = TokenLayout()
        """Layout of the tokens on processes; the blocks have the same one."""
        self.checkpoint_activations = False
        """True if a pass with gradient keeps only the blocks' inputs, and its backward pass recomputes the blocks."""
        self.keep_attention = False
        """True if such a pass also keeps the results of self-attention, which then are not recomputed."""
        self._rotary: tuple[tuple, tuple[Tensor, Tensor]] | None = None
        """Rotary positions of the last pass, behind what they depend on: all passes of a block have the same."""

    def compile_blocks(self, backend: str | Callable = "inductor") -> None:
        """Compile the blocks in place; their results stay the same, to rounding.

        Each length of the past is a graph of its own, with static shapes: a cache that is full needs no more of them.
        """
        # Past the default of 8 torch would continue uncompiled, without a word. A learner of Wan meets 75 graphs at
        # most: nine histories of two (with filler and without), behind each of them and behind none clean frames, and
        # noisy ones with and without gradient; then critic and teacher, and in stage grpo rows that share a past.
        torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 256
        # Else each compiled block would break its graph there. Marked here: a decorator imports the compiler, for a
        # second and a half, into every process.
        torch.compiler.assume_constant_result(selected_module)
        for block in self.blocks:
            block.compile(backend=backend, dynamic=False)

    def forward(self, x_t: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        """Return the velocity [B F C H W] with every frame seeing every other.

        `timestep` is [B] or, one per frame, [B F], in [0, 1000]; `text` is [B S text_dim], padding rows zero.
        """
        if timestep.ndim == 1:
            timestep = timestep[:, None].expand(-1, x_t.shape[1])
        return self.run(x_t, timestep, self.text_keys_values(text))

    def text_keys_values(self, text: Tensor) -> list[KeysValues]:
        """Return cross-attention keys and values of every layer: constant over a video, so computed once per prompt."""
        embedded = self.condition_embedder.text(text)
        return [block.text_keys_values(embedded) for block in self.blocks]

    def text_weights(self) -> Iterator[nn.Parameter]:
        """Yield the weights that `text_keys_values` depends on."""
        yield from self.condition_embedder.text_embedder.parameters()
        for block in self.blocks:
            for part in (block.attn2.to_k, block.attn2.to_v, block.attn2.norm_k):
                yield from part.parameters()

    def run(
        self,
        x_t: Tensor,
        timestep: Tensor,
        text: Sequence[KeysValues],
        *,
        start: int | Sequence[int] = 0,
        past: Sequence[Segments | RollingPast] | None = None,
        visibility: Visibility | None = None,
    ) -> Tensor:
        """Return the velocity of frames `start`, `start` + 1, ..., which also see each layer's `past`.

        `start` is one frame, or one for each video of the batch.
        """
        hidden, embedding, time, rotary = self._embed(x_t, timestep, start)
        for i, block in enumerate(self.blocks):
            hidden, _ = self._through(block, hidden, time, text[i], rotary, past[i] if past else (), visibility)
        shift, scale = (self.scale_shift_table + embedding[:, :, None]).unsqueeze(3).unbind(2)
        rows, columns = self.config.grid(*x_t.shape[-2:])
        patches = self.proj_out((self.norm_out(hidden) * (1 + scale) + shift).type_as(hidden))
        patches = self.layout.gather(patches, rows * columns)
        _, p, q = self.config.patch_size
        velocity = rearrange(patches, "b f (h w) (p q c) -> b f c (h p) (w q)", h=rows, w=columns, p=p, q=q)
        return velocity.type_as(x_t)

    def keys_values(
        self,
        x0: Tensor,
        text: Sequence[KeysValues],
        *,
        start: int | Sequence[int] = 0,
        past: Sequence[Segments | RollingPast] | None = None,
        visibility: Visibility | None = None,
        timestep: Tensor | None = None,
    ) -> list[KeysValues]:
        """Return every layer's self-attention keys and values for finished frames `x0`, read at timestep 0.

        `timestep` [B F] is that of frames with some noise in them, as diffusion forcing reads its context. The last
        layer stops at its keys and values: no later layer would read its output.
        """
        if timestep is None:
            timestep = torch.zeros(x0.shape[:2], dtype=torch.float32, device=x0.device)
        hidden, _, time, rotary = self._embed(x0, timestep, start)
        layers = []
        for i, block in enumerate(self.blocks[:-1]):
            hidden, own = self._through(block, hidden, time, text[i], rotary, past[i] if past else (), visibility)
            layers.append(own)
        return [*layers, self.blocks[-1].self_keys_values(hidden, time, rotary)]

    def _through(self, block: Block, *arguments: Any) -> tuple[Tensor, KeysValues]:
        """Run a block; with `checkpoint_activations` and gradient, a backward pass runs it once more."""
        if not (self.checkpoint_activations and torch.is_grad_enabled()):
            return block(*arguments)
        contexts = keep_attention if self.keep_attention else noop_context_fn
        return checkpoint(  # blocks draw nothing
            block, *arguments, use_reentrant=False, preserve_rng_state=False, context_fn=contexts
        )

    def _embed(
        self, x_t: Tensor, timestep: Tensor, start: int | Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Return this process's tokens [B F p D], time embedding [B F D], modulations [B F 6 D], rotary positions."""
        _, p, q = self.config.patch_size
        patches = rearrange(x_t, "b f c (h p) (w q) -> b f (h w) (c p q)", p=p, q=q)
        patches = self.layout.split(patches).to(self.patch_embedding.weight.dtype)
        # A convolution whose stride is its kernel is one matrix product; Conv3d takes a slower path to it.
        hidden = functional.linear(patches, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias)
        embedding, time = self.condition_embedder.time(timestep)
        place = start if isinstance(start, int) else tuple(start), x_t.shape[1:], hidden.device, hidden.dtype
        if self._rotary is None or self._rotary[0] != place:
            self._rotary = place, rotary_positions(self.config, start, x_t.shape[1], *x_t.shape[-2:], like=hidden)
        return hidden, embedding, time, self._rotary[1]


@dataclass(frozen=True)
class ComputeSpec:
    """Says where and how a network without training computes."""

    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32
    """Type of weights, keys and values."""
    compiled: bool = False

    def outline(self, config: WanConfig) -> Wan:
        """Make a network without memory, on "meta", for weights that are loaded later."""
        with torch.device("meta"):
            network = Wan(config).to(self.dtype).eval().requires_grad_(False)
        if self.device.type == "cpu":
            keep_freed_memory()
            lay_out_products(network)
        if self.compiled:
            network.compile_blocks()
        return network

    def cast(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Cast weights to `dtype`, without copies where they have it."""
        return {name: tensor.to(self.dtype) for name, tensor in tensors.items()}
