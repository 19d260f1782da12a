"""A batch of training samples, and its way from a worker process to the training process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from phenaki.data.sources import Sample
from phenaki.data.tokens import NO_END, Tokens

_SMALL = 2**18  # bytes; below, copying a tensor between processes costs less than sharing its memory


class Batch(TypedDict, total=False):
    """A caption for each clip, `continued` bool (B,): which clips continue an earlier scene, and either video uint8
    (B, T, H, W, 3) or ids int64 (B, t, h, w); from token shards with text embeddings also text float16 (B, L, D) and
    its mask bool (B, L), and where captions change text_frames int64 (B, L, 2), the latent frames [first, end) of each.

    actions: float32 (B, T, A), row 0 zero, from a source that has them and is asked for them
    (`core.actions.to_latent`). timed_captions: of each clip (frame, caption) of its captions, the first at frame 0, if
    those of any clip change; `captions` are those at frame 0. start: int64 (B,), the latent frame of its recording at
    which each clip of ids begins, 0 for a true first frame; from token shards of whole recordings.
    """

    captions: list[str]
    continued: Tensor
    video: Tensor
    ids: Tensor
    text: Tensor
    text_mask: Tensor
    text_frames: Tensor
    actions: Tensor
    timed_captions: list[tuple[tuple[int, str], ...]]
    start: Tensor


class BatchResult(NamedTuple):
    """A batch, the position of its stream after it, the number of samples read for it, and which of them were bad."""

    batch: Batch
    position: dict[str, Any]
    read: int
    bad: list[str]


def collate(samples: Sequence[Sample] | Sequence[Tokens]) -> Batch:
    """A batch of samples of the same kind, length and size."""
    batch: Batch = {
        "captions": [sample.caption for sample in samples],
        "continued": torch.tensor([sample.continued for sample in samples]),
    }
    if samples[0].actions is not None:
        batch["actions"] = torch.from_numpy(np.stack([sample.actions for sample in samples]))
    if any(sample.timed_captions for sample in samples):
        batch["timed_captions"] = [sample.timed_captions or ((0, sample.caption),) for sample in samples]
    if isinstance(samples[0], Sample):
        return batch | {"video": torch.from_numpy(np.stack([sample.video for sample in samples]))}
    batch["ids"] = torch.from_numpy(np.stack([sample.ids for sample in samples]))
    if samples[0].start is not None:
        batch["start"] = torch.tensor([sample.start for sample in samples])
    if samples[0].text is not None:
        texts = [torch.from_numpy(sample.text) for sample in samples]
        batch["text"] = pad_sequence(texts, batch_first=True)
        batch["text_mask"] = pad_sequence([torch.ones(len(text), dtype=torch.bool) for text in texts], batch_first=True)
    if any(sample.text_frames is not None for sample in samples):
        frames = [_all_frames(sample.text) if sample.text_frames is None else sample.text_frames for sample in samples]
        batch["text_frames"] = pad_sequence([torch.from_numpy(spans) for spans in frames], batch_first=True)
    return batch


def _all_frames(text: np.ndarray) -> np.ndarray:
    return np.tile([0, NO_END], (len(text), 1))


def to_transfer(result: BatchResult | str) -> BatchResult | str:
    """Small tensors become arrays, which are copied; torch opens a connection between the processes per tensor."""
    if isinstance(result, str):
        return result
    small = {name: value.numpy() for name, value in result.batch.items() if _is_small(value)}
    return result._replace(batch=result.batch | small)


def from_transfer(batch: dict[str, Any]) -> Batch:
    arrays = {name: torch.from_numpy(value) for name, value in batch.items() if isinstance(value, np.ndarray)}
    return batch | arrays


def _is_small(value: Any) -> bool:
    return isinstance(value, Tensor) and value.nbytes < _SMALL
