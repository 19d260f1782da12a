"""Ids and text of the second stage: from token shards, or from the networks that make them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from phenaki.conditioning import NoTextConfig, Text, TextConfig, TextEncoder, encoder_class
from phenaki.core.actions import ActionSpec, to_latent
from phenaki.core.components import fingerprint
from phenaki.core.errors import PhenakiError
from phenaki.core.grid import latent_index
from phenaki.core.precision import autocast, to_device
from phenaki.data.batch import Batch
from phenaki.data.config import DataConfig
from phenaki.data.loader import Batches
from phenaki.data.opening import action_spec, token_set
from phenaki.data.tokens import TOKENS, TokenSet
from phenaki.generators import CausalTransformerSizes, Components, GeneratorSizes
from phenaki.generators.losses import GeneratorLossConfig
from phenaki.media.convert import to_float
from phenaki.tokenizers import Tokenizer, TokenizerSpec
from phenaki.training.masking import GeneratorBatch, PrefixConfig, add_noise, draw_frame_masks, make_micro_batches
from phenaki.training.run import Run


@dataclass(frozen=True)
class Inputs:
    """The sources of ids and text, and what they are.

    spec, fingerprint: of the tokenizer, which is None if all ids come from token shards. text_encoder: None if token
    shards hold embeddings, of width `text_width`. text_fingerprint: of the text encoder; "" for one that is trained
    with the generator, which the training adds. captions: whether samples need one. check_caption: raises PhenakiError
    for captions that the text encoder cannot read; None with embeddings. causal: whether the first ids of a clip depend
    on its first frames alone. actions: those of the clips.
    """

    spec: TokenizerSpec
    fingerprint: str
    tokenizer: Tokenizer | None
    text_encoder: TextEncoder | None
    text_width: int
    text_fingerprint: str
    captions: bool
    check_caption: Callable[[str], None] | None
    causal: bool
    actions: ActionSpec | None = None

    @property
    def learns_text(self) -> bool:
        return not self.text_fingerprint

    def ids(self, batch: Batch, device: torch.device) -> Tensor:
        """int64 (B, t, h, w)."""
        if "ids" in batch:
            return to_device(batch["ids"], device)
        return self.tokenizer.encode(to_float(to_device(batch["video"], device)), check_values=False)

    def text(self, batch: Batch, text_encoder: TextEncoder | None, device: torch.device) -> Text | Tensor:
        """Embeddings; for a text encoder in training, the tokens that it reads."""
        if "text" in batch:
            fields = (batch["text"], batch["text_mask"], batch.get("text_frames"))
            text = Text(*(field if field is None else to_device(field, device) for field in fields))
            return text._replace(embeddings=text.embeddings.float())  # shards, and copies to a GPU, have half of it
        timed = batch.get("timed_captions")
        captions = batch["captions"] if timed is None else [caption for row in timed for _, caption in row]
        tokens = to_device(text_encoder.tokenize(captions), device)
        return tokens if self.learns_text else text_encoder(tokens)

    def caption_starts(self, batch: Batch) -> list[list[int]] | None:
        """The latent frames at which the captions of each clip start; None if they do not change."""
        if "text" in batch or "timed_captions" not in batch:
            return None
        return [[latent_index(frame, self.spec.patch[0]) for frame, _ in row] for row in batch["timed_captions"]]

    def check(self, data: DataConfig, prefix: PrefixConfig, sizes: GeneratorSizes) -> None:
        """Raise PhenakiError unless the longest clips have as many frames as the generator writes, the tokenizer allows
        for what `prefix` says is known, and ids of whole recordings are for a causal generator."""
        prefix.check_causal(self.causal)
        recordings = [uri for uri in data.uris if (tokens := token_set(uri)) and not tokens.frames]
        if recordings and not isinstance(sizes, CausalTransformerSizes):
            raise PhenakiError(
                f"'{recordings[0]}' holds the ids of whole recordings, and a bidirectional generator is trained on "
                "clips: write token shards of clips (`phenaki data tokenize --frames`), or train a causal generator"
            )
        if max(data.lengths) != sizes.frames:
            raise PhenakiError(
                f"data.lengths {data.lengths} and generator.frames {sizes.frames}: the longest clips must have as many "
                "frames as the generator writes"
            )

    def learned_words(self, text: TextConfig) -> bool:
        """Whether the text encoder, of the configuration `text` if it is in training, has read no other captions than
        those of a training, unlike a pretrained one."""
        return self.text_encoder.learned if self.text_encoder else encoder_class(text).learned

    @property
    def frozen(self) -> dict[str, str]:
        """Fingerprints of the networks that a run builds on, by name."""
        return {"tokenizer": self.fingerprint, "text encoder": self.text_fingerprint}

    def components(self, networks: Mapping[str, nn.Module]) -> Components:
        """The model of these networks in training, and of those that are frozen."""
        text_encoder = networks.get("text_encoder", self.text_encoder)
        return Components(networks["generator"], self.tokenizer, text_encoder, networks.get("critic"))

    def batches(self, data: DataConfig, run: Run) -> Batches:
        """The batches of this process."""
        period, check = self.spec.patch[0], self.check_caption
        actions = self.actions is not None
        return Batches(data, period, run.rank, run.world_size, self.captions, check, run.skip_sample, actions)

    def draw_micro_batches(
        self, batch: Batch, model: Components, run: Run, step: int, recipe: Any, loss: GeneratorLossConfig
    ) -> list[GeneratorBatch]:
        """The batch, in `optimizer.accumulate` micro-batches, with all that is random in a step of the model in
        training."""
        rng, device = run.rng(step), run.device
        ids, others = self.ids(batch, device), self.history(batch)
        if model.generator.has_cache:
            window = recipe.generator.window
            free, masked = draw_frame_masks(
                ids.shape[1:], ~others.get("starts", torch.ones(len(ids)).bool()), window, rng
            )
            others["clean"] = add_noise(ids, loss.history_noise, self.spec.vocab_size, rng)
        else:
            free, masked = recipe.prefix.draw_masks(batch["continued"], ids.shape[1:], rng, run.rng(step, shared=True))
        dropped = torch.zeros(len(ids), dtype=torch.bool)
        if loss.text_drop:
            dropped = torch.rand(len(ids), generator=rng) < loss.text_drop
        if "actions" in others:
            others["dropped_actions"] = torch.rand(len(ids), generator=rng) < loss.action_drop
        uniform = torch.rand(int(masked.sum()), 1, generator=rng) if model.critic is not None else None
        with autocast(device, recipe.run.precision):
            text = self.text(batch, model.text_encoder, device)
        weight, count, starts = loss.first_frame_weight, recipe.optimizer.accumulate, self.caption_starts(batch)
        return make_micro_batches(ids, text, (free, masked), dropped, uniform, weight, count, starts, **others)

    def history(self, batch: Batch) -> dict[str, Tensor]:
        """What is known of clips besides ids and text: `actions` of their latent frames, and whether they are the
        `starts` of recordings, where a batch says so."""
        others: dict[str, Tensor] = {}
        if "actions" in batch:
            others["actions"] = to_latent(batch["actions"], self.spec.patch[0])
        if "start" in batch:
            others["starts"] = batch["start"] == 0
        return others


def open_inputs(
    data: DataConfig, text: TextConfig, tokenizer: Tokenizer | None, text_encoder: TextEncoder | None
) -> Inputs:
    """The inputs for the sources of `data`.

    A given text encoder stays frozen; without one, and without embeddings in token shards, one of the configuration
    `text` is opened, or left to be trained if it is of a kind that learns. Raises PhenakiError if sources, tokenizer
    and text encoder do not belong together.
    """
    sets = [(uri, token_set(uri)) for uri in data.uris]
    made = [(uri, made_by) for uri, made_by in sets if made_by]
    videos = [uri for uri, made_by in sets if not made_by]
    if videos and tokenizer is None:
        raise PhenakiError(
            f"'{videos[0]}' holds no {TOKENS}, so no ids: name the tokenizer that makes them (--tokenizer)"
        )
    first = made[0][1] if made else None
    ids_of = fingerprint(tokenizer) if tokenizer else first.tokenizer
    text_of = first.text_encoder if first else ""
    for uri, made_by in made:
        _check(uri, made_by, ids_of, text_of)
        if not made_by.causal and min(data.lengths) < made_by.frames:
            raise PhenakiError(
                f"the ids in '{uri}' are of {made_by.frames} frames, and their tokenizer is not causal: their first "
                f"ones are not those of {min(data.lengths)} frames. Write token shards of the shorter clips, or remove "
                "the length from data.lengths"
            )
    if text_of and videos:
        raise PhenakiError(
            f"'{made[0][0]}' holds text embeddings and '{videos[0]}' does not: tokenize both the same way"
        )
    if text_encoder is None and not text_of and not encoder_class(text).learned:
        text_encoder = encoder_class(text)(text)
    read_by = fingerprint(text_encoder) if text_encoder else text_of
    if text_of and read_by != text_of:
        raise PhenakiError(f"the text embeddings in '{made[0][0]}' are of another text encoder than --text-encoder")
    spec = tokenizer.spec if tokenizer else first.spec
    data.check_tokenizer(spec.image_size, spec.fps, spec.patch)
    for network in (tokenizer, text_encoder):
        if network is not None:
            network.eval().requires_grad_(False)
    config = text_encoder.config if text_encoder else text
    width = first.text_width if text_of else config.width
    captions = not text_of and not isinstance(config, NoTextConfig)
    check_caption = None if text_of else config.check
    causal = tokenizer.causal if tokenizer else first.causal
    actions = action_spec(data)
    return Inputs(spec, ids_of, tokenizer, text_encoder, width, read_by, captions, check_caption, causal, actions)


def _check(uri: str, made_by: TokenSet, ids_of: str, text_of: str) -> None:
    if made_by.tokenizer != ids_of:
        raise PhenakiError(
            f"the ids in '{uri}' were written by another tokenizer (fingerprint {made_by.tokenizer[:12]}, not "
            f"{ids_of[:12]}): name that one, or write them again with `phenaki data tokenize`"
        )
    if made_by.text_encoder != text_of:
        raise PhenakiError(f"the text embeddings in '{uri}' and other data.sources differ: tokenize all the same way")
