"""Quantizers: round trips, straight-through gradients, learning, usage, dead codes, and reference implementations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import vector_quantize_pytorch as reference
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from vector_quantize_pytorch.vector_quantize_pytorch import kmeans as reference_kmeans

from phenaki.core.errors import PhenakiError
from phenaki.tokenizers.quantizers import FSQ, Quantizer, QuantizerConfig, build_quantizer, code_usage
from phenaki.tokenizers.quantizers.codebook import kmeans, nearest

CODEBOOK = QuantizerConfig(kind="codebook", codebook_size=50, code_dim=4)
CONFIGS = {
    "fsq": QuantizerConfig(kind="fsq", levels=(8, 5, 2)),
    "fsq-1": QuantizerConfig(kind="fsq", levels=(3,)),
    "codebook": CODEBOOK,
    "codebook-ema": replace(CODEBOOK, update="ema", init="kmeans"),
    "lookup_free": QuantizerConfig(kind="lookup_free", codebook_size=32),
    "lookup_free-1": QuantizerConfig(kind="lookup_free", codebook_size=2),
}


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS.keys())
def quantizer(request: pytest.FixtureRequest) -> Quantizer:
    return build(request.param)


def build(config: QuantizerConfig, width: int = 16) -> Quantizer:
    torch.manual_seed(0)
    return build_quantizer(config, width)


def unprojected(config: QuantizerConfig, width: int) -> Quantizer:
    """A quantizer with identity projections, d = D."""
    quantizer = build(config, width)
    with torch.no_grad():
        for projection in (quantizer.project_in, quantizer.project_out):
            projection.weight.copy_(torch.eye(width))
            projection.bias.zero_()
    return quantizer


def directions(count: int, width: int = 4, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


def learn(quantizer: Quantizer, latents: Tensor, steps: int = 1) -> int:
    """Run `update` as in training; returns how many codes were reset."""
    rng = torch.Generator().manual_seed(0)
    anew = 0
    for _ in range(steps):
        quantized = quantizer(latents)
        anew += quantizer.update(quantizer.statistics(quantized), quantized, rng)
    return anew


# ---- what holds for all of them


def test_ids_and_latents_agree(quantizer: Quantizer) -> None:
    quantized = quantizer(torch.randn(2, 3, 4, 4, 16) * 3)
    assert quantized.ids.shape == (2, 3, 4, 4) and quantized.ids.dtype == torch.int64
    assert 0 <= quantized.ids.min() <= quantized.ids.max() < quantizer.vocab_size
    assert torch.allclose(quantizer.indices_to_latents(quantized.ids), quantized.latents, atol=1e-5)
    assert torch.equal(quantizer.indices_to_codes(quantized.ids), quantized.after)


def test_every_code_has_its_own_latent_and_maps_back_to_its_id(quantizer: Quantizer) -> None:
    ids = torch.arange(quantizer.vocab_size)
    assert len(quantizer.indices_to_latents(ids).detach().round(decimals=4).unique(dim=0)) == quantizer.vocab_size
    codes = quantizer.indices_to_codes(ids)
    assert torch.equal(quantizer.quantize(codes.atanh() if isinstance(quantizer, FSQ) else codes)[2], ids)


def test_straight_through_gradient(quantizer: Quantizer) -> None:
    """The gradient before rounding is the one after it."""
    latents, weight = torch.randn(64, 16, requires_grad=True), torch.randn(64, 16)
    quantized = quantizer(latents)
    quantized.before.retain_grad()
    (quantized.latents * weight).sum().backward()
    assert torch.allclose(quantized.before.grad, weight @ quantizer.project_out.weight, atol=1e-5)
    assert latents.grad.abs().sum(1).gt(0).all()


def test_autocast_leaves_quantizers_in_float32(quantizer: Quantizer) -> None:
    latents = torch.randn(500, 16)
    plain = quantizer(latents)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = quantizer(latents)
        embedded, terms = quantizer.indices_to_latents(cast.ids), quantizer.losses(cast)
    for one, other in zip((*plain, quantizer.indices_to_latents(plain.ids)), (*cast, embedded), strict=True):
        assert torch.equal(one, other)
    for name, term in quantizer.losses(plain).items():
        assert torch.equal(term, terms[name]), name
    assert torch.equal(quantizer(latents.bfloat16()).ids, quantizer(latents.bfloat16().float()).ids)


@pytest.mark.parametrize(
    ("name", "terms"),
    [
        ("fsq", set()),
        ("codebook", {"codebook", "commitment"}),
        ("codebook-ema", {"commitment"}),
        ("lookup_free", {"commitment", "entropy"}),
    ],
)
def test_loss_terms_of_each_kind(name: str, terms: set[str]) -> None:
    quantizer = build(CONFIGS[name])
    losses = quantizer.losses(quantizer(torch.randn(20, 16)))
    assert set(losses) == terms
    assert all(term.shape == () and term.requires_grad for term in losses.values())


def test_commitment_moves_latents_and_the_codebook_loss_codes() -> None:
    quantizer = build(CODEBOOK)
    for name, moved in (("commitment", quantizer.project_in.weight), ("codebook", quantizer.codes)):
        quantizer.zero_grad()
        quantizer.losses(quantizer(torch.randn(20, 16)))[name].backward()
        assert [parameter is moved for parameter in (quantizer.project_in.weight, quantizer.codes)] == [
            parameter.grad is not None for parameter in (quantizer.project_in.weight, quantizer.codes)
        ], name


@pytest.mark.parametrize("name", ["codebook", "codebook-ema", "lookup_free"])
def test_losses_move_latents_and_codes_together(name: str) -> None:
    quantizer, latents = build(CONFIGS[name]), torch.randn(200, 16)

    def apart() -> float:
        quantized = quantizer(latents)
        return (quantized.before - quantized.after).square().mean().item()

    optimizer, first = torch.optim.Adam(quantizer.parameters(), lr=0.01), apart()
    for _ in range(50):
        losses = quantizer.losses(quantizer(latents))
        sum(loss for name, loss in losses.items() if name != "entropy").backward()  # which separates the codes
        optimizer.step()
        optimizer.zero_grad()
    assert apart() < 0.8 * first


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"levels": ()}, "level count"),
        ({"levels": (8, 1)}, "level count"),
        ({"kind": "codebook", "codebook_size": 1}, "at least 2 codes"),
        ({"kind": "lookup_free", "codebook_size": 5000}, "not 5000: use 4096"),
        ({"kind": "lookup_free", "codebook_size": 1}, "not 1: use 2"),
        ({"kind": "fsq", "init": "kmeans"}, "'fsq' learns no codes"),
        ({"kind": "lookup_free", "codebook_size": 4, "update": "ema"}, "'lookup_free' learns no codes"),
        ({"decay": 1.0}, "decay 1.0"),
        ({"entropy_temperature": 0.0}, "entropy_temperature 0.0"),
    ],
)
def test_invalid_quantizers_are_refused(wrong: dict, said: str) -> None:
    with pytest.raises(PhenakiError, match=said):
        QuantizerConfig(**wrong)


# ---- finite scalar


def test_fsq_rounds_to_the_nearest_level() -> None:
    quantizer = unprojected(QuantizerConfig(levels=(5, 8)), 2)
    line = torch.cat((torch.linspace(-4, 4, 999), torch.tensor((-99.0, 99.0))))[:, None].expand(-1, 2)
    quantized = quantizer(line)
    for dimension, levels in enumerate((5, 8)):
        values = (torch.arange(levels) + 0.5) / levels * 2 - 1
        closest = (line[:, dimension].tanh()[:, None] - values).abs().argmin(1)
        assert torch.allclose(quantized.after[:, dimension], values[closest])
        assert len(quantized.after[:, dimension].unique()) == levels


def test_fsq_equals_the_reference() -> None:
    """Its levels span [-1, 1], the outer ones half as wide as the others; ours are the centres of L equal intervals."""
    levels = torch.tensor((8, 6, 5))
    ours = unprojected(QuantizerConfig(levels=tuple(levels.tolist())), 3)
    theirs = reference.FSQ(levels.tolist(), preserve_symmetry=True, bound_hard_clamp=True)
    latents = torch.randn(1, 5000, 3)
    quantized = ours(latents)
    codes, ids = theirs(latents.tanh() * levels / (levels - 1))
    assert torch.equal(quantized.ids, ids.long())
    assert len(ids.unique()) == ours.vocab_size
    assert torch.allclose(quantized.after * levels / (levels - 1), codes, atol=1e-6)


# ---- codebook


def test_codebook_selects_the_nearest_code_by_angle() -> None:
    quantizer = build(CODEBOOK)
    quantized = quantizer(torch.randn(200, 16))
    apart = torch.cdist(quantized.before, F.normalize(quantizer.codes, dim=-1))
    assert torch.equal(quantized.ids, apart.argmin(1))
    assert torch.allclose(quantized.before.norm(dim=-1), torch.ones(200))


def test_nearest_does_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    latents, codes = directions(100).view(4, 25, 4), directions(30, seed=1)
    whole = nearest(latents, codes)
    monkeypatch.setattr("phenaki.tokenizers.quantizers.codebook._COSINES", 30 * 7)
    assert torch.equal(nearest(latents, codes), whole)


@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_codes_learn_by_one_method_only(update: str) -> None:
    quantizer = build(replace(CODEBOOK, update=update, dead_code_threshold=0.0))
    latents = torch.randn(200, 16)
    assert ("codes" in dict(quantizer.named_parameters())) == (update == "gradient")
    assert "codes" in quantizer.state_dict()
    before = quantizer.codes.detach().clone()
    learn(quantizer, latents)
    assert torch.equal(quantizer.codes, before) == (update == "gradient")


def test_averaged_codes_converge_to_cluster_means() -> None:
    means = torch.eye(4)
    latents = F.normalize(
        means.repeat_interleave(torch.tensor((100, 200, 300, 400)), 0) + 0.1 * directions(1000), dim=-1
    )
    quantizer = unprojected(replace(CODEBOOK, codebook_size=4, update="ema", decay=0.9), 4)
    quantizer.codes.copy_(F.normalize(means + 0.5 * directions(4, seed=1), dim=-1))
    learn(quantizer, latents, steps=200)
    ids = quantizer(latents).ids
    clusters = torch.stack([latents[ids == code].mean(0) for code in range(4)])
    assert torch.allclose(quantizer.codes, clusters, atol=1e-4)
    assert torch.allclose(quantizer.use, torch.tensor((0.1, 0.2, 0.3, 0.4)), atol=1e-4)


def test_statistics_of_parts_sum_to_those_of_the_batch() -> None:
    """So data-parallel processes learn the same codes as a single one."""
    quantizer, latents = build(replace(CODEBOOK, update="ema")), torch.randn(200, 16)
    whole, *halves = (quantizer.statistics(quantizer(part)) for part in (latents, latents[:80], latents[80:]))
    for one, *parts in zip(whole, *halves, strict=True):
        assert torch.allclose(one, sum(parts), atol=1e-5)


@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_dead_codes_are_reset_until_most_are_used(update: str) -> None:
    config = QuantizerConfig(kind="codebook", codebook_size=64, code_dim=8, update=update)
    quantizer = unprojected(config, 8)
    middle = torch.eye(8)[0]
    with torch.no_grad():  # collapse: all codes but two point away from all latents
        quantizer.codes.copy_(-middle)
        quantizer.codes[:2] = F.normalize(middle + 0.1 * directions(2, 8), dim=-1)
    latents = torch.randn(2000, 8) + 5 * middle
    perplexity, used = code_usage(quantizer(latents).ids, 64)
    assert 1 < perplexity <= 2 and used == 2 / 64
    assert learn(quantizer, latents, steps=500) == 62
    assert quantizer.use.min() > 0.6 / 64  # a reset code has some hundred steps to be used
    perplexity, used = code_usage(quantizer(latents).ids, 64)
    assert perplexity > 32 and used > 0.9


def test_codes_in_use_are_not_reset() -> None:
    quantizer = unprojected(replace(CODEBOOK, codebook_size=4), 4)
    with torch.no_grad():
        quantizer.codes.copy_(torch.eye(4))
    assert learn(quantizer, torch.eye(4).repeat(10, 1), steps=100) == 0
    assert torch.equal(quantizer.codes, torch.eye(4))


@pytest.mark.parametrize("count", [1000, 150])
def test_kmeans_init_is_closer_than_random(count: int) -> None:
    """From one batch, or from the first few if one has too few latents for all codes."""
    latents = F.normalize(
        directions(20, 8, seed=1).repeat(count // 20 + 1, 1)[:count] + 0.2 * directions(count, 8), dim=-1
    )
    config = QuantizerConfig(kind="codebook", codebook_size=64, code_dim=8)
    random, clustered = (unprojected(replace(config, init=init), 8) for init in ("random", "kmeans"))
    started = []
    while clustered.started < 64:
        started.append(learn(clustered, latents))
    assert started == ([64] if count == 1000 else [37, 27])
    errors = [1 - (q.before * q.after).sum(-1).mean() for q in (random(latents), clustered(latents))]
    assert errors[1] < errors[0] / 3
    assert code_usage(clustered(latents).ids, 64)[1] > 0.5


def test_an_interrupted_init_continues() -> None:
    config, (latents, others) = replace(CODEBOOK, init="kmeans", update="ema"), torch.randn(2, 100, 16)
    whole, first, second = (build(config) for _ in range(3))
    learn(first, latents)
    assert first.started == 25
    second.load_state_dict(first.state_dict())
    learn(second, others)
    assert torch.equal(second.codes[:25], first.codes[:25])
    learn(whole, latents)
    learn(whole, others)
    assert whole.started == 50
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    codes = whole.codes.clone()
    learn(whole, latents)  # from here on it averages and initialises nothing
    assert torch.allclose(whole.codes, codes, atol=0.2) and not torch.equal(whole.codes, codes)


def test_codebook_equals_the_reference() -> None:
    """Nearest ids, commitment, and the moving average, over steps."""
    ours = unprojected(replace(CODEBOOK, update="ema", decay=0.8, dead_code_threshold=0.0), 4)
    theirs = reference.VectorQuantize(dim=4, codebook_size=50, use_cosine_sim=True, decay=0.8, rotation_trick=False)
    theirs.codebook = ours.codes
    theirs._codebook.embed_avg.copy_(ours.codes)
    for step in range(5):
        latents = torch.randn(
            1, 50, 4
        )  # as many as codes: theirs start with a count of one each, ours with uniform use
        quantized = ours(latents)
        codes, ids, _, terms = theirs(latents, return_loss_breakdown=True)
        assert torch.equal(quantized.ids, ids), step
        assert torch.allclose(quantized.after, codes, atol=1e-5)
        assert torch.allclose(ours.losses(quantized)["commitment"], 4 * terms.commitment)  # theirs is a mean over d
        ours.update(ours.statistics(quantized), quantized, torch.Generator())
        assert torch.allclose(F.normalize(ours.codes, dim=-1), theirs.codebook, atol=1e-5)


def test_kmeans_equals_the_reference() -> None:
    latents = directions(500)
    drawn = latents[torch.randperm(500, generator=torch.Generator().manual_seed(3))[:20]]
    theirs, _ = reference_kmeans(latents[None], 20, use_cosine_sim=True, sample_fn=lambda samples, count: drawn[None])
    assert torch.allclose(kmeans(latents, 20, torch.Generator().manual_seed(3)), theirs[0], atol=1e-5)


def test_centres_of_empty_clusters_stay() -> None:
    latents = torch.eye(4).repeat(10, 1)
    centres = kmeans(latents, 20, torch.Generator().manual_seed(0))
    assert torch.equal(centres.unique(dim=0), torch.eye(4).unique(dim=0))


# ---- lookup-free


def test_lookup_free_equals_the_reference() -> None:
    """Ids, codes and terms; its first dimension is the highest bit, ours the lowest."""
    ours = unprojected(QuantizerConfig(kind="lookup_free", codebook_size=128), 7)
    theirs = reference.LFQ(dim=7, commitment_loss_weight=1.0)
    for scale in (0.001, 0.01, 1.0):
        latents = scale * torch.randn(1, 500, 7)
        quantized, terms = ours(latents), ours.losses(ours(latents))
        (codes, ids, _), expected = theirs(latents.flip(-1), return_loss_breakdown=True)
        assert torch.equal(quantized.ids, ids)
        assert torch.allclose(quantized.after, codes.flip(-1), atol=1e-6)
        assert torch.allclose(terms["commitment"], 7 * expected.commitment, rtol=1e-4)
        entropy = expected.per_sample_entropy - expected.batch_entropy
        assert torch.allclose(terms["entropy"], entropy, atol=0.02), scale  # theirs clamps logarithms at 1e-5


def test_entropy_equals_that_of_all_probabilities() -> None:
    """Value and gradient, against explicit probabilities of all codes in float64."""
    config = QuantizerConfig(kind="lookup_free", codebook_size=32, entropy_temperature=0.5)
    quantizer = unprojected(config, 5)
    latents = torch.randn(40, 5, requires_grad=True)
    quantizer.losses(quantizer(latents))["entropy"].backward()
    table = latents.detach().double().requires_grad_()
    codes = quantizer.indices_to_codes(torch.arange(32)).double()
    shares = (-torch.cdist(table, codes).square() / 0.5).softmax(-1)
    expected = torch.special.entr(shares).sum(-1).mean() - torch.special.entr(shares.mean(0)).sum()
    expected.backward()
    assert torch.allclose(quantizer.losses(quantizer(latents))["entropy"].double(), expected, atol=1e-5)
    assert torch.allclose(latents.grad.double(), table.grad, atol=1e-5)


class Largest(TorchDispatchMode):
    """Records the size of the largest tensor created."""

    count = 0

    def __torch_dispatch__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        made = function(*args, **kwargs or {})
        self.count = max([self.count, *(x.numel() for x in tree_leaves(made) if isinstance(x, Tensor))])
        return made


def test_entropy_of_many_codes_needs_no_full_table() -> None:
    """2^18 codes and latents far from 0, so that most probabilities vanish."""
    quantizer = unprojected(QuantizerConfig(kind="lookup_free", codebook_size=2**18), 18)
    latents = (3 * torch.randn(1000, 18)).requires_grad_()
    with Largest() as largest:
        entropy = quantizer.losses(quantizer(latents))["entropy"]
        entropy.backward()
    assert largest.count == 1000 * 2**9
    assert latents.grad.isfinite().all()
    assert -float(torch.tensor(1000.0).log()) == pytest.approx(entropy.item(), abs=0.05)  # each has one certain code


def test_entropy_revives_collapsed_codes() -> None:
    quantizer = build(QuantizerConfig(kind="lookup_free", codebook_size=64, entropy_temperature=1.0))
    latents = torch.randn(500, 16)
    with torch.no_grad():
        quantizer.project_in.bias.fill_(3.0)
    assert code_usage(quantizer(latents).ids, 64)[0] < 2
    optimizer = torch.optim.Adam(quantizer.project_in.parameters(), lr=0.05)
    for _ in range(100):
        quantizer.losses(quantizer(latents))["entropy"].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert code_usage(quantizer(latents).ids, 64)[0] > 50


# ---- usage


def test_usage_of_known_codes() -> None:
    assert code_usage(torch.arange(8), 8) == pytest.approx((8.0, 1.0))
    assert code_usage(torch.zeros(100, dtype=torch.long), 8) == pytest.approx((1.0, 1 / 8))
    assert code_usage(torch.tensor([0, 0, 1, 1, 2, 2, 2, 2]), 4) == pytest.approx((2**1.5, 3 / 4))
    assert code_usage(torch.arange(8) << 40, 2**48) == pytest.approx((8.0, 2**-45))
