"""The masked transformer: what it sees, what it refuses, what training tells it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from phenaki.conditioning import Text, WordEncoder
from phenaki.core.errors import PhenakiError
from phenaki.generators import MaskedTransformer
from phenaki.generators.losses import masked_cross_entropy
from phenaki.generators.masking import free_positions
from phenaki.tokenizers import CViViT, QuantizerConfig
from phenaki.training.masking import PrefixConfig


def ids_and_text(generator: MaskedTransformer, encoder: WordEncoder, batch: int = 2) -> tuple[torch.Tensor, Text]:
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(generator.vocab_size, (batch, 6, 4, 4), generator=rng)
    return ids, encoder.encode(["a red circle moves left", "a star"][:batch])


@torch.no_grad()
def test_every_position_sees_every_other(generator: MaskedTransformer, text_encoder: WordEncoder) -> None:
    ids, text = ids_and_text(generator, text_encoder)
    text = generator.drop(text, torch.zeros(2, dtype=torch.bool))
    logits = generator(ids, text)
    assert logits.shape == (2, 6, 4, 4, generator.vocab_size)
    changed = ids.clone()
    changed[0, 5, 3, 3] = generator.mask_id
    moved = (generator(changed, text) - logits).abs().amax(-1) > 0
    assert moved[0].all()
    assert not moved[1].any()


@torch.no_grad()
def test_masked_positions_differ_by_their_place(generator: MaskedTransformer, text_encoder: WordEncoder) -> None:
    """All masked and no text: only the position can tell the logits apart, and the first frame has to be known."""
    _, text = ids_and_text(generator, text_encoder, batch=1)
    text = generator.drop(text, torch.ones(1, dtype=torch.bool))
    logits = generator(torch.full((1, 3, 4, 4), generator.mask_id), text).flatten(0, 3)
    assert (torch.cdist(logits, logits) + torch.eye(48)).min() > 1e-3


@torch.no_grad()
def test_dropped_text_is_not_seen_and_only_where_it_is_dropped(
    generator: MaskedTransformer, text_encoder: WordEncoder
) -> None:
    ids, text = ids_and_text(generator, text_encoder)
    other = Text(text.embeddings + 1, text.mask)
    dropped = torch.tensor([True, False])
    one, two = (generator(ids, generator.drop(t, dropped)) for t in (text, other))
    assert torch.equal(one[0], two[0])
    assert not torch.equal(one[1], two[1])


@torch.no_grad()
def test_padding_of_the_text_changes_nothing(generator: MaskedTransformer, text_encoder: WordEncoder) -> None:
    ids, text = ids_and_text(generator, text_encoder)
    alone = text_encoder.encode(["a star"])
    keep = torch.zeros(1, dtype=torch.bool)
    padded = generator.drop(Text(text.embeddings[1:], text.mask[1:]), keep)
    assert torch.allclose(generator(ids[1:], padded), generator(ids[1:], generator.drop(alone, keep)), atol=1e-4)


def test_the_null_text_is_learned(generator: MaskedTransformer, text_encoder: WordEncoder) -> None:
    ids, text = ids_and_text(generator, text_encoder)
    generator(ids, generator.drop(text, torch.ones(2, dtype=torch.bool))).square().mean().backward()
    assert generator.null_text.grad.abs().sum() > 0


@torch.no_grad()
def test_images_and_other_lengths_fit(generator: MaskedTransformer, text_encoder: WordEncoder) -> None:
    _, text = ids_and_text(generator, text_encoder, batch=1)
    text = generator.drop(text, torch.zeros(1, dtype=torch.bool))
    for grid in ((1, 4, 4), (6, 4, 4), (3, 2, 5)):
        assert generator(torch.zeros(1, *grid, dtype=torch.long), text).shape[1:4] == grid


def test_another_tokenizer_is_refused_in_a_sentence(generator: MaskedTransformer, tokenizer: CViViT) -> None:
    generator.check_tokenizer(tokenizer)
    other = CViViT(replace(tokenizer.config, quantizer=QuantizerConfig(levels=(5, 5, 4))))
    with pytest.raises(PhenakiError, match="vocab_size 125, not 100"):
        generator.check_tokenizer(other)
    with pytest.raises(PhenakiError, match="fps 8.0, not 25.0"):
        generator.check_tokenizer(CViViT(replace(tokenizer.config, fps=25.0)))


def test_loss_is_the_weighted_mean_over_masked_ids() -> None:
    logits = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(6)
    weight = torch.tensor([2.0, 1, 1, 0, 1, 1])
    each = -logits.log_softmax(-1)[range(6), targets]
    found = masked_cross_entropy(logits, targets, weight, label_smoothing=0.0)
    assert found == pytest.approx(float((each * weight).sum() / 6), rel=1e-5)
    smoothed = F.cross_entropy(logits, targets, reduction="none", label_smoothing=0.1)
    found = masked_cross_entropy(logits, targets, weight, label_smoothing=0.1)
    assert found == pytest.approx(float((smoothed * weight).sum() / 6), rel=1e-5)


def test_given_time_steps_come_in_the_stated_shares() -> None:
    rng = torch.Generator().manual_seed(0)
    prefix = PrefixConfig((0, 1, 3), (0.7, 0.2, 0.1), (0.0, 0.6, 0.4))
    continued = torch.arange(40_000) % 2 == 1
    drawn = prefix.draw_prefix(continued, 6, rng)
    for value, share, continued_share in ((0, 0.7, 0.0), (1, 0.2, 0.6), (3, 0.1, 0.4)):
        assert (drawn[~continued] == value).float().mean().item() == pytest.approx(share, abs=0.01)
        assert (drawn[continued] == value).float().mean().item() == pytest.approx(continued_share, abs=0.01)
    assert prefix.draw_prefix(continued, 1, rng).max() == 0  # an image has nothing before it


def test_the_last_time_step_is_given_in_a_share_of_the_samples() -> None:
    rng, continued = torch.Generator().manual_seed(0), torch.zeros(4000, dtype=torch.bool)
    grid = (3, 2, 2)
    prefix = PrefixConfig((0, 1, 3), (0.5, 0.25, 0.25), (1.0, 0.0, 0.0), last=0.4)
    free = prefix.draw_free(continued, grid, rng)
    assert free.shape == (4000, *grid)
    steps = free.all((2, 3))
    assert torch.equal(steps, free.any((2, 3)))
    assert steps.any(1).all()
    has_room = steps[:, 1]  # of the others only the last step is free
    given = ~steps[has_room, -1]
    assert abs(given.float().mean() - 0.4) < 0.04
    assert abs(has_room.float().mean() - 0.75) < 0.04


def test_a_box_of_some_clips_is_all_that_is_to_be_generated() -> None:
    grid, rng = (3, 5, 6), torch.Generator().manual_seed(0)
    free = PrefixConfig(box=1.0).draw_free(torch.zeros(300, dtype=torch.bool), grid, rng)
    assert (free == free[:, :1]).all(), "in all time steps"
    rows, columns = free[:, 0].any(2), free[:, 0].any(1)
    assert torch.equal(free[:, 0], rows[:, :, None] & columns[:, None, :]), "a box"
    for places in (rows, columns):
        assert (places.int().diff(dim=1).clamp_min(0).sum(1) + places[:, 0]).eq(1).all(), "of places in a row"
        assert places.sum(1).unique().tolist() == list(range(1, places.shape[1] + 1)), "of all lengths"
        assert places.any(0).all(), "anywhere"


def test_without_a_share_for_the_last_step_no_random_number_is_drawn() -> None:
    """So that recipes of before give the same weights."""
    continued, rngs = torch.zeros(50, dtype=torch.bool), [torch.Generator().manual_seed(3) for _ in range(2)]
    free = PrefixConfig().draw_free(continued, (6, 2, 2), rngs[0])
    prefix = PrefixConfig().draw_prefix(continued, 6, rngs[1])
    assert torch.equal(free, free_positions((6, 2, 2), prefix))
    assert torch.equal(*(rng.get_state() for rng in rngs))
