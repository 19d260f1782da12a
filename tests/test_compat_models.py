"""Imported networks compute what the original code computed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import phenaki
from helpers.reproductions import ALL, COSINE, LOOKUP_FREE, OBVIOUS, Golden, files, golden, maskgit_of, tokenizer_of
from helpers.sampling import sampling_config
from phenaki.compat import PegCViViT, PegMaskGit
from phenaki.compat.importing import import_tokenizer
from phenaki.compat.transformer import PositionBias, _linear_bias
from phenaki.conditioning import Text, TextEncoder, WordEncoderConfig
from phenaki.core.errors import PhenakiError
from phenaki.core.registry import TEXT_ENCODERS, Entry
from phenaki.data.config import DataConfig, SourceConfig
from phenaki.data.tokenizing import TokenizeConfig, tokenize
from phenaki.generators import Components, Condition
from phenaki.pipeline import Phenaki
from phenaki.training.inputs import open_inputs
from phenaki.training.masking import PrefixConfig


@pytest.fixture(scope="module", params=ALL)
def case(request: pytest.FixtureRequest) -> Golden:
    return golden(request.param)


@pytest.fixture(scope="module")
def imported(case: Golden, tmp_path_factory: pytest.TempPathFactory) -> PegCViViT:
    return tokenizer_of(case, tmp_path_factory.mktemp("imported"))


# ---- equal to the originals


def test_ids_and_pixels_equal_the_originals(case: Golden, imported: PegCViViT) -> None:
    video, ids = case.tensors["video"], case.tensors["ids"]
    assert torch.equal(imported.encode(video), ids)
    with torch.no_grad():
        pixels = imported.decode_latents(imported.quantizer.indices_to_latents(ids))
        assert (imported(video).video - case.tensors["reconstruction"]).abs().max() < 1e-4
    assert (pixels - case.tensors["reconstruction"]).abs().max() < 1e-4
    assert torch.equal(imported.decode(ids), pixels.clamp(0, 1))


@pytest.mark.parametrize("name", [COSINE, LOOKUP_FREE])
def test_logits_with_and_without_text_equal_the_originals(name: str, tmp_path: Path) -> None:
    held, generator = golden(name).tensors, maskgit_of(golden(name), tmp_path)
    text = Text(held["text"], held["text_mask"])
    for wanted, drop in (("logits", None), ("null_logits", torch.ones(len(text.mask), dtype=torch.bool))):
        with torch.no_grad():
            logits = generator(held["masked"], generator.condition(text, drop=drop))
        assert (logits.flatten(1, 3) - held[wanted]).abs().max() < 1e-4


def test_masked_text_has_no_effect(tmp_path: Path) -> None:
    held, generator = golden(LOOKUP_FREE).tensors, maskgit_of(golden(LOOKUP_FREE), tmp_path)
    mask = held["text_mask"]
    assert not mask.all()
    changed = torch.where(mask[..., None], held["text"], 7.0)
    with torch.no_grad():
        texts = Text(held["text"], mask), Text(changed, mask), Text(changed, torch.ones_like(mask))
        *logits, unseen = (generator(held["masked"], generator.condition(text)) for text in texts)
    assert torch.equal(*logits) and not torch.allclose(logits[0], unseen, atol=1e-3)


@pytest.mark.parametrize("name", [COSINE, LOOKUP_FREE])
@torch.no_grad()
def test_an_imported_generator_keeps_the_contract(name: str, tmp_path: Path) -> None:
    """Logits of some positions, conditions of several lengths in one batch, and what it takes no part in."""
    held, generator = golden(name).tensors, maskgit_of(golden(name), tmp_path)
    ids, text = held["masked"], Text(held["text"], held["text_mask"])
    condition = generator.condition(text)
    logits = generator.logits(ids, condition)
    where = torch.tensor([ids.numel() - 1, 3, 3, 17])
    assert torch.allclose(generator(ids, condition, where), logits.flatten(0, 3)[where], atol=1e-5)
    short = generator.condition(Text(text.embeddings[:, :1], text.mask[:, :1]))
    both = generator(ids.repeat(2, 1, 1, 1), Condition.concatenate([short, condition]))
    assert torch.allclose(both, torch.cat((generator(ids, short), logits)), atol=1e-4)
    assert not torch.allclose(generator(ids, short), logits, atol=1e-3)
    with pytest.raises(PhenakiError, match="takes no actions: leave them out"):
        generator.condition(text, actions=torch.zeros(len(ids), ids.shape[1], 4))
    with pytest.raises(PhenakiError, match="PegMaskGit sees a whole clip at once and takes no `clean` and no `cache`"):
        generator(ids, condition, clean=ids)
    with pytest.raises(PhenakiError, match="PegMaskGit keeps no cache"):
        generator.commit(ids, condition, {})


def test_samples_of_a_batch_are_independent(case: Golden, imported: PegCViViT) -> None:
    other = torch.rand(case.tensors["video"].shape, generator=torch.Generator().manual_seed(1))
    together = imported.encode(torch.cat((case.tensors["video"], other)))
    assert torch.equal(together[: len(other)], case.tensors["ids"])
    assert torch.equal(together[len(other) :], imported.encode(other))


def test_images_and_rectangles_have_their_own_grids(imported: PegCViViT) -> None:
    for shape in ((2, 3, 1, 32, 32), (1, 3, 3, 16, 40)):
        video = torch.rand(shape, generator=torch.Generator().manual_seed(2))
        ids = imported.encode(video)
        assert ids.shape == (shape[0], *imported.grid(*shape[2:]))
        assert imported.decode(ids).shape == shape


def test_a_network_of_255_bgr_reads_and_writes_rgb_from_0_to_1(case: Golden, imported: PegCViViT) -> None:
    theirs = PegCViViT(replace(imported.config, pixels="bgr255")).eval()
    theirs.load_state_dict(imported.state_dict())
    video = case.tensors["video"][:1]
    with torch.no_grad():
        assert torch.equal(theirs.encode_latents(video), imported.encode_latents(video[:, [2, 1, 0]] * 255))
        latents = imported.encode_latents(video)
        wanted = imported.decode_latents(latents)[:, [2, 1, 0]] / 255
        assert torch.allclose(theirs.decode_latents(latents), wanted)


def test_position_bias_depends_only_on_the_offset() -> None:
    torch.manual_seed(0)
    bias, grid = PositionBias(3, 8, 5), (2, 3, 4)
    positions = torch.cartesian_prod(*(torch.arange(size) for size in grid)).float()
    offsets = positions[:, None] - positions
    wanted = nn.Sequential(*bias.net)(offsets.sign() * torch.log(offsets.abs() + 1)).permute(2, 0, 1)
    assert torch.allclose(bias(grid), wanted, atol=1e-6)


def test_slopes_of_any_number_of_heads() -> None:
    bias = _linear_bias(3, 4, torch.device("cpu"))
    assert bias[:, 3, 2].tolist() == [
        -1 / 16,
        -1 / 256,
        -1 / 4,
    ]  # as for 2 heads, then the first of those for 4 between them
    assert bias[0, 3].tolist() == [-3 / 16, -2 / 16, -1 / 16, 0] and bias[0, 1, 2] == -math.inf


# ---- not causal


def test_imported_tokenizers_are_marked_not_causal(case: Golden, imported: PegCViViT, tmp_path: Path) -> None:
    video = case.tensors["video"]
    later = torch.cat((video[:, :, :-1], 1 - video[:, :, -1:]), dim=2)
    assert not torch.equal(imported.encode(later)[:, :-1], case.tensors["ids"][:, :-1])
    assert imported.causal is False and imported.config.causal is False
    tokenizer_of(case, tmp_path)
    assert json.loads((tmp_path / "tokenizer" / "config.json").read_text())["config"]["causal"] is False
    assert "Not causal" in (tmp_path / "tokenizer" / "README.md").read_text()
    with pytest.raises(PhenakiError, match="not causal"):
        list(imported.encode_stream([video]))


def test_prefixes_are_refused_if_their_ids_depend_on_later_frames() -> None:
    with pytest.raises(PhenakiError, match=r"prefix.latent_frames \(0, 1, 3\): this tokenizer is not causal"):
        PrefixConfig().check_causal(False)
    PrefixConfig().check_causal(True)
    PrefixConfig(latent_frames=(0,), probabilities=(1.0,), continued_probabilities=(1.0,)).check_causal(False)


def test_ids_of_long_clips_are_not_cropped_to_short_ones(clips: Path, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(golden(COSINE), tmp_path)
    place = str(tmp_path / "tokens")
    tokenize(TokenizeConfig(SourceConfig(str(clips)), frames=5, samples=1), place, tokenizer)

    def data(*lengths: int) -> DataConfig:
        shares = (1 / len(lengths),) * len(lengths)
        return DataConfig(sources=(SourceConfig(place),), size=(32, 32), lengths=lengths, length_weights=shares)

    assert open_inputs(data(5), WordEncoderConfig(), None, None).causal is False
    with pytest.raises(
        PhenakiError, match="are of 5 frames, and their tokenizer is not causal: their first ones are not those of 1"
    ):
        open_inputs(data(5, 1), WordEncoderConfig(), None, None)


# ---- text to video


@dataclass(frozen=True)
class LettersConfig:
    width: int = 40


class Letters(TextEncoder):
    """Stands for the encoder that the embeddings come from: one vector a letter."""

    def __init__(self, config: LettersConfig):
        super().__init__()
        self.config, self.width = config, config.width
        self.embedding = nn.Embedding(128, config.width)

    def check(self, prompt: str) -> None:
        pass

    def tokenize(self, prompts: list[str]) -> Tensor:
        return nn.utils.rnn.pad_sequence([torch.tensor(list(prompt.encode())) for prompt in prompts], batch_first=True)

    def forward(self, tokens: Tensor) -> Text:
        return Text(self.embedding(tokens), tokens > 0)


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> Iterator[Letters]:
    monkeypatch.setitem(TEXT_ENCODERS.types, "letters", Entry(LettersConfig, Letters))
    torch.manual_seed(0)
    yield Letters(LettersConfig()).eval()


@pytest.mark.parametrize("name", [COSINE, LOOKUP_FREE])
def test_tokenizer_and_generator_make_a_model(name: str, letters: Letters, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(golden(name), tmp_path)
    generator = maskgit_of(golden(name), tmp_path, frames=5)
    sampling = sampling_config(steps=2, prime_frames=3)
    Phenaki(Components(generator, tokenizer, letters), sampling).save_pretrained(tmp_path / "model")
    model = phenaki.load(tmp_path / "model", device="cpu")
    assert isinstance(model, Phenaki) and isinstance(model.generator, PegMaskGit)
    story = model.generate(["a cat", "it jumps"], seed=1)
    assert story.video.shape == (1, 3, 9, 32, 32) and story.scene_starts == (0, 5)
    assert not torch.equal(story.video, model.generate(["a dog", "it jumps"], seed=1).video)
    with pytest.raises(PhenakiError, match="has 144 ids, and this generator has positions for 128"):
        condition = generator.condition(Text(torch.zeros(1, 1, 40), torch.ones(1, 1).bool()))
        generator(torch.zeros(1, 9, 4, 4, dtype=torch.long), condition)


def test_a_generator_refuses_another_tokenizer(letters: Letters, tmp_path: Path) -> None:
    generator = maskgit_of(golden(COSINE), tmp_path, image_size=16)
    with pytest.raises(PhenakiError, match="built for a tokenizer with image_size"):
        Components(generator, tokenizer_of(golden(COSINE), tmp_path), letters)


def test_obvious_released_a_tokenizer_of_128_pixels(tmp_path: Path) -> None:
    checkpoint, _ = files(tmp_path, golden(OBVIOUS).state("tokenizer"), {})
    imported = import_tokenizer(checkpoint, tmp_path / "out", "obvious-cvivit").module
    assert imported.config.image_size == (128, 128) and imported.config.fps == 8
