"""The masked transformer: what it sees, what it refuses, the conditions and masks of its training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from phenaki.conditioning import Text, WordEncoder
from phenaki.core.errors import PhenakiError
from phenaki.generators import Condition, MaskedTransformer
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
    condition = generator.condition(text)
    logits = generator(ids, condition)
    assert logits.shape == (2, 6, 4, 4, generator.vocab_size)
    changed = ids.clone()
    changed[0, 5, 3, 3] = generator.mask_id
    moved = (generator(changed, condition) - logits).abs().amax(-1) > 0
    assert moved[0].all()
    assert not moved[1].any()


@torch.no_grad()
def test_masked_positions_are_told_apart(generator: MaskedTransformer, text_encoder: WordEncoder) -> None:
    """All masked and no text: only the position can tell the logits apart, and the first frame has to be known."""
    _, text = ids_and_text(generator, text_encoder, batch=1)
    condition = generator.condition(text, drop=torch.ones(1, dtype=torch.bool))
    logits = generator(torch.full((1, 3, 4, 4), generator.mask_id), condition).flatten(0, 3)
    assert (torch.cdist(logits, logits) + torch.eye(48)).min() > 1e-3


@torch.no_grad()
def test_dropped_text_is_not_seen_and_only_where_it_is_dropped(
    generator: MaskedTransformer, text_encoder: WordEncoder
) -> None:
    ids, text = ids_and_text(generator, text_encoder)
    other = Text(text.embeddings + 1, text.mask)
    dropped = torch.tensor([True, False])
    one, two = (generator(ids, generator.condition(each, drop=dropped)) for each in (text, other))
    assert torch.equal(one[0], two[0])
    assert not torch.equal(one[1], two[1])


@torch.no_grad()
def test_padding_of_the_text_changes_nothing(generator: MaskedTransformer, text_encoder: WordEncoder) -> None:
    ids, text = ids_and_text(generator, text_encoder)
    alone = text_encoder.encode(["a star"])
    padded = Text(text.embeddings[1:], text.mask[1:])
    assert padded.mask.shape[1] > alone.mask.shape[1]
    one, other = (generator(ids[1:], generator.condition(each)) for each in (padded, alone))
    assert torch.allclose(one, other, atol=1e-4)


def test_the_null_embedding_is_learned(generator: MaskedTransformer, text_encoder: WordEncoder) -> None:
    ids, text = ids_and_text(generator, text_encoder)
    generator(ids, generator.condition(text, drop=torch.ones(2, dtype=torch.bool))).square().mean().backward()
    assert generator.null_text.grad.abs().sum() > 0


@torch.no_grad()
def test_images_and_other_lengths_fit(generator: MaskedTransformer, text_encoder: WordEncoder) -> None:
    _, text = ids_and_text(generator, text_encoder, batch=1)
    condition = generator.condition(text)
    for grid in ((1, 4, 4), (6, 4, 4), (3, 2, 5)):
        assert generator(torch.zeros(1, *grid, dtype=torch.long), condition).shape[1:4] == grid


@torch.no_grad()
def test_logits_of_some_positions_are_rows_of_all_logits(
    generator: MaskedTransformer, text_encoder: WordEncoder
) -> None:
    ids, text = ids_and_text(generator, text_encoder)
    condition = generator.condition(text)
    everything = generator.logits(ids, condition)
    assert torch.equal(generator(ids, condition), everything)
    assert everything.shape == (*ids.shape, generator.vocab_size)
    mask = torch.rand(ids.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    for where in (mask.flatten().nonzero().squeeze(1), torch.tensor([191, 5, 5, 96]), torch.arange(0)):
        rows = generator.logits(ids, condition, where)
        assert rows.shape == (len(where), generator.vocab_size)
        assert torch.allclose(rows, everything.flatten(0, 3)[where], atol=1e-5)
    rows = generator.logits(ids, condition, mask.flatten().nonzero().squeeze(1))
    assert torch.allclose(rows, everything[mask], atol=1e-5)
    features = generator.features(ids, condition)
    assert torch.allclose(generator.features(ids, condition, torch.tensor([191, 0]))[0], features[1, 5, 3, 3])


@torch.no_grad()
def test_conditions_concatenated_are_padded_and_give_the_same_logits(
    generator: MaskedTransformer, text_encoder: WordEncoder
) -> None:
    ids, text = ids_and_text(generator, text_encoder)
    prompts = ("a star", "two large green triangles move up, on a purple background")
    short, long = (generator.condition(text_encoder.encode([prompt])) for prompt in prompts)
    dropped = generator.condition(text, drop=torch.tensor([True, False]))
    conditions = (short, dropped, long)
    both = Condition.concatenate(conditions)
    assert both.mask.shape == (4, long.mask.shape[1]) and both.frames is None
    assert both.mask.sum(1).tolist() == [number for each in conditions for number in each.mask.sum(1).tolist()]
    together = generator(ids[[0, 0, 1, 1]], both)
    alone = torch.cat([generator(ids[:1], short), generator(ids, dropped), generator(ids[1:], long)])
    assert torch.allclose(together, alone, atol=1e-4)
    assert not torch.allclose(together[0], generator(ids[:1], long)[0], atol=1e-2)


@torch.no_grad()
def test_a_repeated_condition_is_that_of_the_repeated_text(
    generator: MaskedTransformer, text_encoder: WordEncoder
) -> None:
    ids, text = ids_and_text(generator, text_encoder)
    repeated, other = generator.condition(text).repeat(3), generator.condition(text.repeat(3))
    assert torch.equal(repeated.mask, other.mask)
    assert torch.allclose(generator(ids.repeat(3, 1, 1, 1), repeated), generator(ids.repeat(3, 1, 1, 1), other))


# ---- several captions, each visible from its latent frame on

LAST = torch.iinfo(torch.int64).max


def test_each_latent_frame_sees_the_text_of_its_frames() -> None:
    """Captions that begin and end at several latent frames, beside padding, for two samples of a grid (3, 1, 2)."""
    mask = torch.tensor([[True, True, True, False], [True, True, False, False]])
    frames = torch.tensor([[[0, LAST], [0, 2], [2, LAST], [0, LAST]], [[0, LAST], [1, 2], [0, LAST], [0, 0]]])
    visible = Condition([], mask, frames).visible((3, 1, 2))
    assert visible.shape == (2, 6, 4) and visible.dtype == torch.bool
    expected = [
        [[1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0]],
        [[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0]],
    ]
    assert torch.equal(visible[:, ::2], torch.tensor(expected).bool())
    assert torch.equal(visible[:, 1::2], visible[:, ::2]), "positions of a latent frame see the same"
    assert torch.equal(Condition([], mask).visible((3, 1, 2)), mask[:, None])
    every = torch.tensor([0, LAST]).expand(2, 4, 2)
    assert torch.equal(Condition([], mask, every).visible((3, 1, 2)), mask[:, None].expand(2, 6, 4))


def test_conditions_with_and_without_frames_concatenate() -> None:
    with_frames = Condition([], torch.ones(1, 2, dtype=torch.bool), torch.tensor([[[0, LAST], [1, 2]]]))
    without = Condition([], torch.tensor([[True, True, True]]))
    both = Condition.concatenate([with_frames, without])
    expected = [[[1, 0, 0], [1, 1, 0], [1, 0, 0]], [[1, 1, 1]] * 3]
    assert torch.equal(both.visible((3, 1, 1)), torch.tensor(expected).bool())
    assert torch.equal(both.repeat(2).visible((3, 1, 1)), torch.tensor(expected * 2).bool())


@torch.no_grad()
def test_a_later_caption_changes_the_latent_frames_that_see_it(
    generator: MaskedTransformer, text_encoder: WordEncoder
) -> None:
    """In a network of one layer, whose self-attention comes first; in a deeper one all frames learn of it."""
    shallow = MaskedTransformer(replace(generator.config, layers=1)).eval()
    ids, text = ids_and_text(generator, text_encoder, batch=1)
    condition = shallow.condition(text)
    half = condition.mask.shape[1] // 2
    frames = torch.tensor([0, LAST]).repeat(1, condition.mask.shape[1], 1)
    everywhere = shallow(ids, replace(condition, frames=frames.clone()))
    assert torch.allclose(everywhere, shallow(ids, condition), atol=1e-5)
    frames[:, half:, 0] = 2
    changed = text.embeddings.clone()
    changed[:, half - 1 :] += 1  # the null embedding stands in front of the text
    before, after = (
        shallow(ids, replace(shallow.condition(each), frames=frames)) for each in (text, Text(changed, text.mask))
    )
    assert torch.equal(before[:, :2], after[:, :2])
    assert ((before - after)[:, 2:].abs().amax(-1) > 0).all()


# ---- what it refuses


@torch.no_grad()
def test_actions_clean_ids_and_caches_are_refused_in_a_sentence(
    generator: MaskedTransformer, text_encoder: WordEncoder
) -> None:
    ids, text = ids_and_text(generator, text_encoder)
    assert generator.has_cache is False
    with pytest.raises(PhenakiError, match="this generator takes no actions: train one that does, or omit them"):
        generator.condition(text, actions=torch.zeros(2, 6, 4))
    condition = generator.condition(text)
    calls: tuple[Callable, ...] = (generator, generator.logits)
    for call in calls:
        for more in ({"clean": ids}, {"cache": {}}):
            with pytest.raises(PhenakiError, match="sees a whole clip at once and takes no `clean` and no `cache`"):
                call(ids, condition, **more)
    with pytest.raises(PhenakiError, match="MaskedTransformer keeps no cache: it sees a whole clip at once"):
        generator.commit(ids, condition, {})


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


def test_known_latent_frames_have_the_stated_probabilities() -> None:
    rng = torch.Generator().manual_seed(0)
    prefix = PrefixConfig((0, 1, 3), (0.7, 0.2, 0.1), (0.0, 0.6, 0.4))
    continued = torch.arange(40_000) % 2 == 1
    drawn = prefix.draw_prefix(continued, 6, rng)
    for value, probability, if_continued in ((0, 0.7, 0.0), (1, 0.2, 0.6), (3, 0.1, 0.4)):
        assert (drawn[~continued] == value).float().mean().item() == pytest.approx(probability, abs=0.01)
        assert (drawn[continued] == value).float().mean().item() == pytest.approx(if_continued, abs=0.01)
    assert prefix.draw_prefix(continued, 1, rng).max() == 0  # an image has nothing before it


def test_the_last_latent_frame_is_known_with_its_probability() -> None:
    rng, continued = torch.Generator().manual_seed(0), torch.zeros(4000, dtype=torch.bool)
    grid = (3, 2, 2)
    prefix = PrefixConfig((0, 1, 3), (0.5, 0.25, 0.25), (1.0, 0.0, 0.0), last=0.4)
    free = prefix.draw_free(continued, grid, rng)
    assert free.shape == (4000, *grid)
    frames = free.all((2, 3))
    assert torch.equal(frames, free.any((2, 3)))
    assert frames.any(1).all()
    has_room = frames[:, 1]  # of the others only the last latent frame is free
    known = ~frames[has_room, -1]
    assert abs(known.float().mean() - 0.4) < 0.04
    assert abs(has_room.float().mean() - 0.75) < 0.04


def test_a_box_of_some_clips_is_all_that_is_generated() -> None:
    grid, rng = (3, 5, 6), torch.Generator().manual_seed(0)
    free = PrefixConfig(box=1.0).draw_free(torch.zeros(300, dtype=torch.bool), grid, rng)
    assert (free == free[:, :1]).all(), "in all latent frames"
    rows, columns = free[:, 0].any(2), free[:, 0].any(1)
    assert torch.equal(free[:, 0], rows[:, :, None] & columns[:, None, :]), "a box"
    for positions in (rows, columns):
        assert (positions.int().diff(dim=1).clamp_min(0).sum(1) + positions[:, 0]).eq(1).all(), "contiguous"
        assert positions.sum(1).unique().tolist() == list(range(1, positions.shape[1] + 1)), "of all lengths"
        assert positions.any(0).all(), "anywhere"


def test_at_probability_0_the_last_latent_frame_takes_no_random_number() -> None:
    """So that earlier recipes give the same weights."""
    continued, rngs = torch.zeros(50, dtype=torch.bool), [torch.Generator().manual_seed(3) for _ in range(2)]
    free = PrefixConfig().draw_free(continued, (6, 2, 2), rngs[0])
    prefix = PrefixConfig().draw_prefix(continued, 6, rngs[1])
    assert torch.equal(free, free_positions((6, 2, 2), prefix))
    assert torch.equal(*(rng.get_state() for rng in rngs))
