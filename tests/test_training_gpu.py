"""Training as a GPU sees it, on a fake one: nobody waits for it, and kernels are few."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from helpers.fake_gpu import DEVICE, FakeGPU, needs_fake_gpu
from phenaki.core.errors import PhenakiError
from phenaki.data.batch import collate
from phenaki.data.tokens import Tokens
from phenaki.nn.norm import LayerNorm, residual
from phenaki.nn.transformer import TransformerBlock
from phenaki.tokenizers import TokenizerSpec, build_tokenizer
from phenaki.training import generator, recipes, tokenizer
from phenaki.training.inputs import Inputs, open_inputs
from phenaki.training.muon import StackedMuon
from phenaki.training.optim import OptimizerConfig, Optimizers, averaged
from phenaki.training.run import Run

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
pytestmark = needs_fake_gpu


@pytest.fixture
def gpu_costs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("gpu_costs")


def steps_on_gpu(trainer_of: Callable, recipe, folder: Path, steps: int) -> list[str]:
    """Waits of the host in all steps but the first, and in the logs between them."""
    with FakeGPU() as gpu, Run(folder, recipe.run, recipe) as run:
        run._logger.begin(0)
        trainer, data = trainer_of(recipe, run)
        for run.step in range(steps):
            run.log(**trainer.update(trainer.load(next(data)), run.step))
            if run.step == 0:
                gpu.syncs.clear()  # tables that are kept were made
        return gpu.syncs


def on_fake_gpu(recipe, **run: object):
    return replace(recipe, run=replace(recipe.run, precision="float32", device="fakegpu", trackers=(), **run))


@pytest.mark.parametrize("kind", ["codebook", "fsq", "codebook_ema"])
def test_a_tokenizers_steps_wait_for_nothing_between_two_logs(kind: str, tmp_path: Path, gpu_costs: ModuleType) -> None:
    recipe = on_fake_gpu(gpu_costs.tokenizer_recipe(), log_every=4)
    quantizer = replace(recipes.cvivit_debug().tokenizer.quantizer, kind="fsq")
    if kind != "fsq":
        quantizer = replace(recipe.tokenizer.quantizer, update="ema" if kind == "codebook_ema" else "gradient")
    recipe = replace(recipe, tokenizer=replace(recipe.tokenizer, quantizer=quantizer))
    trainer_of = lambda recipe, run: (  # noqa: E731
        tokenizer.TokenizerTrainer(recipe, run),
        gpu_costs.Batches(recipe.data, 2, captions=False),
    )
    assert steps_on_gpu(trainer_of, recipe, tmp_path, 3) == []
    (read,) = steps_on_gpu(trainer_of, recipe, tmp_path, 4)  # the metrics of all steps
    assert "copy from the device" in read and "run.py" in read


@pytest.mark.parametrize("name", ["masked_debug", "masked_debug with a critic", "causal_debug"])
def test_a_generators_steps_wait_for_nothing_between_two_logs(name: str, tmp_path: Path) -> None:
    recipe = on_fake_gpu(recipes.GENERATOR_RECIPES[name.split()[0]](), log_every=4)
    recipe = replace(recipe, data=replace(recipe.data, batch=2))
    if "critic" in name:
        recipe = replace(recipe, critic=replace(recipe.critic, kind="token"))
    inputs = open_inputs(recipe.data, recipe.text, build_tokenizer(recipes.cvivit_debug().tokenizer), None)
    trainer_of = lambda recipe, run: (  # noqa: E731
        generator.GeneratorTrainer(recipe, run, inputs),
        inputs.batches(recipe.data, run),
    )
    assert steps_on_gpu(trainer_of, recipe, tmp_path, 3) == []


def test_sampling_waits_for_nothing(gpu_costs: ModuleType) -> None:
    assert gpu_costs.sampling_syncs() == []


class TwoShapes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.block, self.head = TransformerBlock(64), nn.Linear(64, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.block(x)).square().mean()


def test_stacked_muon_is_torchs() -> None:
    """Weights and state after three steps, and from one to the other."""
    torch.manual_seed(0)
    shapes = [(8, 8), (16, 8), (8, 16), (8, 8), (16, 8)]
    ours = [nn.Parameter(torch.randn(*shape)) for shape in shapes]
    theirs = deepcopy(ours)
    stacked = StackedMuon(ours, lr=0.1, weight_decay=0.1)
    reference = torch.optim.Muon(theirs, lr=0.1, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for step in range(3):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        if step == 1:
            ours[0].grad = theirs[0].grad = None  # as of a layer that the step did not use
        if step == 2:
            stacked.load_state_dict(deepcopy(reference.state_dict()))
        stacked.step()
        reference.step()
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
        pair = (optimizer.state[p]["momentum_buffer"] for optimizer, p in ((stacked, one), (reference, other)))
        assert torch.allclose(*pair, atol=1e-6)


def test_the_optimizer_of_a_large_recipe_needs_few_kernels(gpu_costs: ModuleType) -> None:
    assert gpu_costs.optimizer_launches(recipes.base_128()) < 300


def test_a_compiled_cross_entropy_moves_less_than_one_in_chunks(gpu_costs: ModuleType) -> None:
    compiled, chunked = gpu_costs.cross_entropy_traffic(True), gpu_costs.cross_entropy_traffic(True, chunks=8)
    assert compiled.other_bytes + compiled.matrix_bytes < 0.8 * (chunked.other_bytes + chunked.matrix_bytes)
    assert compiled.other_bytes < gpu_costs.cross_entropy_traffic(False).other_bytes / 10


@pytest.mark.slow
@pytest.mark.parametrize(("name", "clips", "before"), [("base_128", 64, 567e9), ("cvivit_128", 16, 592e9)])
def test_large_recipes_move_a_third_of_the_bytes(name: str, clips: int, before: float, gpu_costs: ModuleType) -> None:
    """Outside of matrix products; `before`: as of docs/log.md."""
    recipe = (recipes.GENERATOR_RECIPES | recipes.TOKENIZER_RECIPES)[name]()
    assert recipe.run.compile is None  # so on CUDA
    assert gpu_costs.traffic(recipe, clips, compiled=True).other_bytes < before / 3


def test_norms_stay_in_the_type_of_matrix_products_on_cuda() -> None:
    norm, x = LayerNorm(64), torch.randn(4, 64)
    torch.nn.init.normal_(norm.weight)
    expected = norm(x)
    assert residual(x) is x
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        assert residual(x).dtype == torch.bfloat16
        found = norm(x.bfloat16())
    finally:
        torch.set_autocast_enabled("cuda", False)
    assert found.dtype == torch.bfloat16 and (found.float() - expected).norm() < 0.01 * expected.norm()


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_gpu_skips_a_step_that_is_not_finite_by_itself(kind: str) -> None:
    network = TwoShapes()
    config = OptimizerConfig(kind=kind, lr=0.1, warmup_steps=0)
    with FakeGPU() as gpu:
        network.to(DEVICE)
        optimizers, average = Optimizers([network], config, 10), averaged(network, 0.9)
        x = torch.randn(2, 4, 64).to(DEVICE)
        for factor, moved in ((1.0, True), (float("nan"), False), (float("inf"), False), (1.0, True)):
            before = {name: value.values.clone() for name, value in network.state_dict().items()}
            states = [value.values.clone() for value in tensors_of(optimizers.state_dict())]
            gpu.syncs.clear()
            (factor * network(x)).backward()
            optimizers.update(0)
            average.update_parameters(network)
            assert gpu.syncs == []
            after = {name: value.values for name, value in network.state_dict().items()}
            assert any(not torch.equal(value, after[name]) for name, value in before.items()) == moved
            if not moved:
                kept = [value.values for value in tensors_of(optimizers.state_dict())]
                assert all(torch.equal(*pair) for pair in zip(states, kept, strict=True))
        assert all(value.isfinite().all() for value in average.parameters())


def tensors_of(state: object) -> list[torch.Tensor]:
    return [value for value in torch.utils._pytree.tree_leaves(state) if isinstance(value, torch.Tensor)]


def test_skipped_steps_are_counted_when_they_are_read(tmp_path: Path) -> None:
    recipe = on_fake_gpu(recipes.cvivit_debug(), log_every=3, bad_steps=4)
    with FakeGPU(), Run(tmp_path, recipe.run, recipe) as run:
        run._logger.begin(0)
        nan = torch.tensor(float("nan")).to(DEVICE)
        one = torch.ones(()).to(DEVICE)
        for run.step, loss in enumerate((one, nan, nan)):
            run.log(loss=loss, grad_norm=one)
            assert run.skipped == (2 if run.step == 2 else 0)
        with pytest.raises(PhenakiError, match="the loss became nan at step 4; 4 steps in a row"):
            for run.step in range(3, 6):
                run.log(loss=nan, grad_norm=one)


def test_embeddings_of_token_shards_are_copied_as_they_are_stored() -> None:
    """In float16, half of what the generator computes with."""
    ids, text = np.zeros((1, 2, 2), np.int64), np.ones((3, 8), np.float16)
    batch = collate([Tokens(ids, "", False, text)] * 2)
    assert batch["text"].dtype == torch.float16
    inputs = Inputs(TokenizerSpec(8, (2, 8, 8), (16, 16), 8.0), "", None, None, 8, "frozen", False, None, True)
    assert inputs.text(batch, None, torch.device("cpu")).embeddings.dtype == torch.float32
