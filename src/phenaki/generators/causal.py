"""A block-causal transformer: a latent frame sees itself in full, and earlier ones under a sliding window.

It is decoded latent frame by latent frame; `commit` writes the keys and values of a finished one into a cache.
Positions in time are relative, so a video has no end. In training a clean and a masked copy of each clip run in one
pass: masked latent frames attend to clean earlier ones, as they will when decoded.

Shapes: B batch, F latent frames, h, w grid, S = h * w, D width, H heads, K head width, W window, V vocabulary, C
copies.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
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
from phenaki.nn.cache import KeysValues, KVCache, LayerCache, Window
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


class CausalBlock(TransformerBlock):
    """A transformer block whose self-attention sees the current latent frame and the past."""

    def forward(
        self,
        x: Tensor,
        context: KeysValues,
        visible: Tensor,
        window: Window,
        cache: LayerCache | None = None,
        write: bool = False,
        outputs: int | None = None,
    ) -> tuple[Tensor, LayerCache | None]:
        """x (C, B, F, S, D) -> its last `outputs` copies (None: all) after this layer, and the cache after it.

        context, visible: of the text, for B samples or C * B. cache: F is 1, and of two copies the first is the latent
        frame before the second; None: the latent frames of the first copy are each other's past. write: add the first
        copy to the cache.
        """
        copies = len(x)
        q, k, v = self._project(self.norm(x))
        caches = [cache, cache.append(k[0, :, 0], v[0, :, 0])] if write else [cache]
        if outputs == 0:
            return x[:0], caches[-1]
        history = self._windowed(k[0], v[0], window) if cache is None else None
        if outputs is not None:
            x, q, k, v = (part[-outputs:] for part in (x, q, k, v))
        own = window.slots(window.length - 1, window.length)
        q, k = rotate(q, own).to(v.dtype), rotate(k, own).to(v.dtype)
        if cache is None:
            attended = self._attend(q, k, v, history, window.mask)
        else:
            parts = zip(*(part[:, :, 0] for part in (q, k, v)), caches[:copies][-len(q) :], strict=True)
            attended = torch.cat([attend(q, *held.attended(k, v, window)) for q, k, v, held in parts])
        rows = x.flatten(0, 1).flatten(1, 2)  # (C * B, F * S, D)
        rows = rows + self.attention.to_out(attended.transpose(1, 2).flatten(2)).view_as(rows)
        keys, values, visible = (_repeated(part, len(rows)) for part in (*context, visible))
        rows = rows + self.cross.cross(self.norm_cross(rows), (keys, values), visible)
        return (rows + self.feed_forward(rows)).view_as(x), caches[-1]

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (..., H, S, K), not rotated, of x (..., S, D)."""
        attention = self.attention
        q, kv = attention.to_q(x), attention.to_kv(x)
        q, k, v = (part.unflatten(-1, (attention.heads, HEAD_DIM)) for part in (q, *kv.chunk(2, dim=-1)))
        q, k, v = (part.transpose(-3, -2) for part in (attention.norm_q(q), attention.norm_k(k), v))
        return q, k, v

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

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, history: KeysValues, mask: Tensor) -> Tensor:
        """Attention (C * B * F, H, S, K) of q, k, v (C, B, F, H, S, K) over the past (B, F, H, M, K) and themselves."""
        C, B, *_, S, _ = q.shape
        if history[0].shape[-2]:
            k, v = (
                torch.cat((old.to(new.dtype).expand(C, *new.shape[1:4], -1, -1), new), dim=-2)
                for old, new in zip(history, (k, v), strict=True)
            )
        mask = F.pad(mask, (0, S), value=True).repeat(C * B, 1, 1, 1) if mask.shape[-1] else None
        return attend(q.flatten(0, 2), k.flatten(0, 2), v.flatten(0, 2), mask)


def _repeated(part: Tensor, rows: int) -> Tensor:
    """The last `rows` samples of a batch; of a smaller one that many, by repetition."""
    return part[-rows:] if rows <= len(part) else part.repeat(rows // len(part), *(1 for _ in part.shape[1:]))


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
        x = self._clips(ids, condition, clean) if cache is None else self._next(ids, condition, clean, cache)
        x = self.norm(x)
        return x.unflatten(2, (ids.shape[2], -1)) if where is None else x.flatten(0, -2).index_select(0, where)

    @torch.no_grad()
    def commit(self, ids: Tensor, condition: Condition, cache: KVCache, defer: bool = False) -> None:
        for frame in ids.split(1, dim=1):
            self._write(cache)
            cache.deferred = frame, condition
        if not defer:
            self._write(cache)

    def _clips(self, ids: Tensor, condition: Condition, clean: Tensor | None) -> Tensor:
        """Whole clips after all layers, (B, F, S, D)."""
        copies = [ids] if clean is None else [clean, ids]
        x = torch.stack([self._embed(copy, condition, 0) for copy in copies])  # (C, B, F, S, D)
        return self._run(x, condition, condition.visible(self._grid(ids)), self._grid(ids))[-1]

    def _next(self, ids: Tensor, condition: Condition, clean: Tensor | None, cache: KVCache) -> Tensor:
        """A latent frame after all layers, (B, 1, S, D). What the cache defers is written in the same pass, as the
        first of two copies, which has a condition of its own."""
        if clean is not None or ids.shape[1] != 1:
            raise PhenakiError(
                f"with a cache, one latent frame at a time is decoded, not {ids.shape[1]} or a clean copy"
            )
        if cache.deferred is not None and len(cache.deferred[0]) != len(ids):  # of both branches of guidance
            self._write(cache)
        grid, number = self._grid(ids), cache.frames
        if cache.deferred is None:
            x = self._embed(ids, condition, number)[None]
            return self._run(x, condition, condition.visible(grid, number), grid, cache)[-1]
        both = condition.concatenate([cache.deferred[1], condition])
        frames = torch.tensor([number, number + 1], device=ids.device).repeat_interleave(len(ids))
        if number == 0:
            both = replace(both, starts=frames == 0 if both.starts is None else (frames == 0) & both.starts)
        x = self._embed(torch.cat((cache.deferred[0], ids)), both, number).unflatten(0, (2, -1))
        return self._run(x, both, both.visible(grid, frames), grid, cache, write=True)[-1]

    def _write(self, cache: KVCache) -> None:
        """Write what the cache defers, in a pass of its own."""
        if cache.deferred is not None:
            ids, condition = cache.deferred
            x, grid = self._embed(ids, condition, cache.frames)[None], self._grid(ids)
            self._run(x, condition, condition.visible(grid, cache.frames), grid, cache, write=True, outputs=0)

    def _run(
        self,
        x: Tensor,
        condition: Condition,
        visible: Tensor,
        grid: tuple[int, int, int],
        cache: KVCache | None = None,
        write: bool = False,
        outputs: int = 1,
    ) -> Tensor:
        """The last `outputs` copies after all layers, (outputs, B, F, S, D), of x (C, B, F, S, D). write: add the first
        copy to the cache."""
        frames, h, w = grid
        rotary = rotary_table((self.config.window, h, w), HEAD_DIM, x.device)
        mask = None
        if cache is None:
            mask = self._window_mask(frames, h * w, x.device)
        else:  # once for all layers
            dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
            rotary = tuple(part.to(dtype) for part in rotary)
        window = Window(rotary, self.config.window, self.config.sinks, mask)
        caches = []
        for number, (layer, context) in enumerate(zip(self.layers, condition.keys_values, strict=True)):
            wanted = outputs if number == len(self.layers) - 1 else None
            held = None if cache is None else cache.layer(number)
            x, held = layer(x, context, visible, window, held, write, wanted)
            caches.append(held)
        if write:
            cache.write(caches)
        return x

    def _grid(self, ids: Tensor) -> tuple[int, int, int]:
        _, t, h, w = ids.shape
        return t, h, w // self.num_codebooks

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
