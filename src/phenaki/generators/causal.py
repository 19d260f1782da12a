"""A block-causal transformer: a latent frame sees itself in full, and earlier ones under a sliding window.

It is decoded latent frame by latent frame; `commit` writes the keys and values of a finished one into a cache.
Positions in time are relative, so a video has no end. In training a clean and a masked copy of each clip run in one
pass: masked latent frames attend to clean earlier ones, as they will when decoded.

Shapes: B batch, F latent frames, h, w grid, S = h * w, D width, H heads, K head width, W window, V vocabulary, C
copies.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from phenaki.core.actions import ActionSpec
from phenaki.core.config import bounded, configclass
from phenaki.core.errors import PhenakiError
from phenaki.core.grid import latent_frames
from phenaki.generators.base import Condition
from phenaki.generators.masked import FOURIER_BANDS, MaskedTransformer, MaskedTransformerConfig, MaskedTransformerSizes
from phenaki.nn.attention import HEAD_DIM, attend
from phenaki.nn.cache import KeysValues, KVCache
from phenaki.nn.positions import fourier_features, rotary_table, rotate
from phenaki.nn.transformer import TransformerBlock
from phenaki.tokenizers.spec import TokenizerSpec


@configclass
class CausalTransformerSizes(MaskedTransformerSizes):
    """`frames`: of the longest training clip, which may exceed the window. `window`: latent frames that a layer attends
    to, the current one included. `sinks`: how many of the first latent frames stay visible when the window has left
    them behind."""

    window: int = bounded(6, at_least=1)
    sinks: int = bounded(0, at_least=0)

    def config(
        self, tokenizer: TokenizerSpec, text_width: int, actions: ActionSpec | None = None
    ) -> CausalTransformerConfig:
        return CausalTransformerConfig(tokenizer=tokenizer, text_width=text_width, actions=actions, **asdict(self))


@dataclass(frozen=True, kw_only=True)
class CausalTransformerConfig(CausalTransformerSizes, MaskedTransformerConfig):
    """Those sizes, and what `MaskedTransformerConfig` adds to them."""


@dataclass(frozen=True)
class Window:
    """What the latent frames of a pass attend to. `rotary`: of the W slots of the window, (W * S, K / 2); the last is
    the current frame's. `sinks`: how many first latent frames stay visible. `mask`: bool (F, 1, 1, M), which past
    positions each latent frame sees; None: all."""

    rotary: tuple[Tensor, Tensor]
    length: int
    sinks: int
    mask: Tensor | None

    def slots(self, first: int, end: int) -> tuple[Tensor, Tensor]:
        """Rotary angles of the slots first..end-1."""
        cos, sin = self.rotary
        size = len(cos) // self.length
        return cos[first * size : end * size], sin[first * size : end * size]


class CausalBlock(TransformerBlock):
    """A transformer block whose self-attention sees the current latent frame and the past."""

    def forward(
        self,
        x: Tensor,
        context: KeysValues,
        visible: Tensor,
        window: Window,
        history: KeysValues | None = None,
        copies: int | None = None,
    ) -> tuple[Tensor, KeysValues]:
        """x (C, B, F, S, D) -> (C, B, F, S, D), and keys and values (B, H, S, K) of the last latent frame, not rotated.

        context, visible: of the text. history: rotated keys, and values (B, F, H, M, K); None: the latent frames of
        the first copy are each other's past. copies: how many of the last copies are wanted; None: all.
        """
        q, k, v = self._project(self.norm(x))
        last = k[0, :, -1].contiguous(), v[0, :, -1].contiguous()
        if copies == 0:
            return x[:0], last
        if history is None:
            history = self._windowed(k[0], v[0], window)
        if copies is not None:
            x, q, k, v = (part[-copies:] for part in (x, q, k, v))
        x = x + self._attend(q, k, v, history, window)
        C, rows = len(x), x.flatten(0, 1).flatten(1, 2)  # (C * B, F * S, D)
        if C > 1:
            context, visible = tuple(part.repeat(C, 1, 1, 1) for part in context), visible.repeat(C, 1, 1)
        x = x + self.cross.cross(self.norm_cross(rows), context, visible).view_as(x)
        return x + self.feed_forward(x), last

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (..., H, S, K), not rotated, of x (..., S, D)."""
        attention = self.attention
        q, kv = attention.to_q(x), attention.to_kv(x)
        k, v = kv.chunk(2, dim=-1)
        q, k, v = (part.unflatten(-1, (attention.heads, HEAD_DIM)).transpose(-3, -2) for part in (q, k, v))
        return attention.norm_q(q), attention.norm_k(k), v

    def _windowed(self, k: Tensor, v: Tensor, window: Window) -> KeysValues:
        """Keys, rotated, and values (B, F, H, M, K) of the past of each latent frame, of k, v (B, F, H, S, K)."""
        frames, W = k.shape[1], window.length
        slots = []
        for number in range(W - 1):
            behind = W - 1 - number  # latent frames between the slot and the current one
            turned = rotate(k, window.slots(number, number + 1))
            slots.append([F.pad(part, (0, 0, 0, 0, 0, 0, behind, 0))[:, :frames] for part in (turned, v)])
        for number in range(min(window.sinks, frames)):
            turned = rotate(k[:, number : number + 1], window.slots(W - 1, W))
            slots.append([part.expand(-1, frames, -1, -1, -1) for part in (turned, v[:, number : number + 1])])
        if not slots:
            return k[..., :0, :], v[..., :0, :]
        keys, values = zip(*slots, strict=True)
        return torch.cat(keys, dim=3), torch.cat(values, dim=3)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, history: KeysValues, window: Window) -> Tensor:
        """Self-attention (C, B, F, S, D) of q, k, v (C, B, F, H, S, K) over the past (B, F, H, M, K) and themselves."""
        C, B, frames, H, S, K = q.shape
        own = window.slots(window.length - 1, window.length)
        q, k = rotate(q, own).to(v.dtype), rotate(k, own).to(v.dtype)
        if history[0].shape[-2]:
            k, v = (
                torch.cat((old.to(new.dtype).expand(C, *new.shape[1:4], -1, -1), new), dim=-2)
                for old, new in zip(history, (k, v), strict=True)
            )
        mask = window.mask
        if mask is not None and mask.shape[-1]:
            mask = F.pad(mask, (0, S), value=True).repeat(C * B, 1, 1, 1)
        elif mask is not None:
            mask = None
        x = attend(q.flatten(0, 2), k.flatten(0, 2), v.flatten(0, 2), mask)
        return self.attention.to_out(x.transpose(1, 2).flatten(2)).view(C, B, frames, S, H * K)


class CausalTransformer(MaskedTransformer):
    """ids int64 (B, F, h, w), `mask_id` where unknown, and a condition -> logits (B, F, h, w, V).

    Without `clean` and `cache` the latent frames of `ids` are each other's past. With `clean` the past is the clean
    copy. With `cache`, F = 1 and the past is what was committed.
    """

    has_cache: ClassVar[bool] = True

    def make_block(self, width: int, mlp_ratio: int, text_width: int) -> TransformerBlock:
        return CausalBlock(width, mlp_ratio, context_width=text_width)

    @property
    def axes(self) -> int:
        """Positions are absolute in space alone."""
        return 2

    def make_cache(self) -> KVCache:
        """An empty cache, for any batch."""
        return KVCache(self.config.window - 1, self.config.sinks)

    def features(
        self,
        ids: Tensor,
        condition: Condition,
        where: Tensor | None = None,
        clean: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        x, _ = self._run(ids, condition, clean, cache, outputs=1)
        x = self.norm(x[-1])
        return x.unflatten(2, (ids.shape[2], -1)) if where is None else x.flatten(0, -2).index_select(0, where)

    @torch.no_grad()
    def commit(self, ids: Tensor, condition: Condition, cache: KVCache) -> None:
        """Write the keys and values of finished latent frames, ids int64 (B, n, h, w), into the cache."""
        for frame in ids.split(1, dim=1):
            _, keys_values = self._run(frame, condition, None, cache, outputs=0)
            cache.append(keys_values)

    def _run(
        self, ids: Tensor, condition: Condition, clean: Tensor | None, cache: KVCache | None, outputs: int
    ) -> tuple[Tensor, list[KeysValues]]:
        """The last `outputs` copies after all layers, (outputs, B, F, S, D), and, of each layer, keys and values
        (B, H, S, K) of the last latent frame."""
        frames, h, w = ids.shape[1], ids.shape[2], ids.shape[3] // self.num_codebooks
        start = 0 if cache is None else cache.frames
        if cache is not None and (clean is not None or frames != 1):
            raise PhenakiError(f"with a cache, one latent frame at a time is decoded, not {frames} or a clean copy")
        copies = [ids] if clean is None else [clean, ids]
        x = torch.stack([self._embed(copy, condition, start) for copy in copies])  # (C, B, F, S, D)
        rotary = rotary_table((self.config.window, h, w), HEAD_DIM, ids.device)
        mask = self._window_mask(frames, h * w, ids.device) if cache is None else None
        window = Window(rotary, self.config.window, self.config.sinks, mask)
        visible = condition.visible((frames, h, w), start)
        committed: list[KeysValues] = []
        for number, (layer, context) in enumerate(zip(self.layers, condition.keys_values, strict=True)):
            history = None if cache is None else self._cached(cache, number, window)
            wanted = outputs if number == len(self.layers) - 1 else None
            x, keys_values = layer(x, context, visible, window, history, wanted)
            committed.append(keys_values)
        return x, committed

    def _embed(self, ids: Tensor, condition: Condition, start: int) -> Tensor:
        """Embeddings (B, F, S, D) of latent frames from number `start` on."""
        x = self.embed_ids(ids)
        _, _, h, w, _ = x.shape
        _, ph, pw = self.config.tokenizer.patch
        height, width = self.config.tokenizer.image_size
        space = fourier_features((h, w), (height // ph, width // pw), FOURIER_BANDS, ids.device)
        x = x.flatten(2, 3) + self.positions(space.to(self.positions.weight.dtype))
        return self._mark(x, condition) if start == 0 else self._act(x, condition)

    def _window_mask(self, frames: int, S: int, device: torch.device) -> Tensor:
        """bool (F, 1, 1, M): the slots of the window that lie in the clip, then the sinks that it has left behind."""
        W, current = self.config.window, torch.arange(frames, device=device)[:, None]
        seen = torch.arange(W - 1, device=device) + current >= W - 1
        sinks = torch.arange(min(self.config.sinks, frames), device=device) <= current - W
        return torch.cat((seen, sinks), dim=1).repeat_interleave(S, dim=1)[:, None, None]

    def _cached(self, cache: KVCache, layer: int, window: Window) -> KeysValues:
        """Keys, rotated, and values (B, 1, H, M, K) of what the cache holds; computed once for a latent frame."""
        if layer not in cache.rotated:
            current, pairs = window.length - 1, []
            if (recent := cache.recent(layer)) is not None:
                keys, values = (part.flatten(2, 3) for part in recent)
                pairs.append((rotate(keys, window.slots(current - recent[0].shape[2], current)), values))
            if (sink := cache.sink(layer)) is not None:
                keys, values = sink
                pairs.append((rotate(keys, window.slots(current, current + 1)).flatten(2, 3), values.flatten(2, 3)))
            if not pairs:
                pairs = [(self.null_text.new_zeros(1, self.layers[layer].attention.heads, 0, HEAD_DIM),) * 2]
            keys, values = pairs[0] if len(pairs) == 1 else map(torch.cat, zip(*pairs, strict=True), (2, 2))
            cache.rotated[layer] = keys.to(values.dtype)[:, None], values[:, None]
        return cache.rotated[layer]


def causal_weights(generator: MaskedTransformer) -> dict[str, Tensor]:
    """The weights of a bidirectional generator as those of a causal one of the same sizes, to be fine-tuned.

    Its absolute positions in time are replaced by their mean over a clip.
    """
    state, config = dict(generator.state_dict()), generator.config
    weight, (t, per_axis) = state["positions.weight"], (latent_frames(config.frames, config.tokenizer.patch[0]), 2)
    in_time = fourier_features((t,), (t,), FOURIER_BANDS, weight.device).mean(0)
    state["positions.bias"] = state["positions.bias"] + weight[:, : per_axis * FOURIER_BANDS] @ in_time.to(weight.dtype)
    state["positions.weight"] = weight[:, per_axis * FOURIER_BANDS :]
    return state
