"""What a training step would cost a GPU besides matrix products, counted without one.

    python benchmarks/gpu_costs.py

Bytes and kernels of a step are counted on the meta device (`training/counting.py: Traffic`), as CUDA would run it in
bfloat16; kernels of the optimizers, and waits of the host for the GPU, by a fake device (`tests/helpers/fake_gpu.py`)
that runs real steps of small recipes. docs/log.md has the figures of each change.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
from torch.utils.checkpoint import checkpoint

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from helpers.fake_gpu import DEVICE, DeviceTensor, FakeGPU
from phenaki.data.loader import Batches
from phenaki.generators.losses import masked_cross_entropy
from phenaki.sampling import DecodingConfig, GuidanceConfig, SamplingConfig
from phenaki.sampling.guidance import sample_ids
from phenaki.tokenizers import build_tokenizer
from phenaki.tokenizers.discriminator import DiscriminatorConfig
from phenaki.training import cost, generator, recipes, tokenizer
from phenaki.training.counting import Traffic
from phenaki.training.inputs import open_inputs
from phenaki.training.run import Run


def traffic(recipe: cost.Recipe, clips: int, compiled: bool) -> Traffic:
    """Of a step's forward and backward passes on so many clips at a time, without the discriminator's penalty."""
    recipe = replace(recipe, run=replace(recipe.run, compile=compiled))
    with torch.device("meta"):
        spec = build_tokenizer(recipes.TOKENIZER_RECIPES["cvivit_128"]().tokenizer).spec
    recipe = replace(recipe, optimizer=replace(recipe.optimizer, accumulate=1))
    return cost.step_cost(recipe, spec, clips).traffic


def cross_entropy_traffic(compiled: bool, chunks: int = 1) -> Traffic:
    """Of the last layer and the loss of `base_128` at 64 clips, forward and backward; in chunks, whose logits are
    computed again in the backward pass, they are never in memory all at once."""
    rows, width, vocab_size = 64 * 1536 * 64 // 100, 768, 8192  # a cosine schedule masks 64 % of the ids

    def loss(x: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        return masked_cross_entropy(x @ weights.T, *others, label_smoothing=0.1)

    with torch.device("meta"):
        x, weights = (torch.empty(n, width, dtype=torch.bfloat16, requires_grad=True) for n in (rows, vocab_size))
        batch = (x, torch.empty(rows, dtype=torch.long), torch.empty(rows))
        with Traffic() as traffic:
            traffic.fused = compiled
            pieces = zip(*(tensor.chunk(chunks) for tensor in batch), strict=True)
            if chunks == 1:
                loss(*batch).backward()
            else:
                sum(
                    checkpoint(loss, *piece, use_reentrant=False, preserve_rng_state=False) for piece in pieces
                ).backward()
    return traffic


def optimizer_launches(recipe: cost.Recipe) -> int:
    """Kernels of the optimizers' step, with clipping."""
    with torch.device("meta"):
        spec = build_tokenizer(recipes.TOKENIZER_RECIPES["cvivit_128"]().tokenizer).spec
        networks = cost.make_step(recipe, spec).networks
    with FakeGPU() as gpu:
        for network in networks.values():
            network._apply(lambda values: DeviceTensor(values))
        optimizers = generator.build_optimizers(networks, recipe)["optimizers"]
        for parameter in optimizers.parameters:
            parameter.grad = torch.zeros_like(parameter)
        for optimizer in optimizers.optimizers:  # the first step also allocates
            optimizer.step()
        gpu.launches = 0
        for optimizer in optimizers.optimizers:
            optimizer.step()
        return gpu.launches


def tokenizer_recipe() -> tokenizer.TokenizerRecipe:
    """A small one with a codebook, a discriminator and its penalty."""
    recipe = recipes.cvivit_debug_codebook()
    return replace(
        recipe,
        loss=replace(recipe.loss, adversarial=0.1, token_consistency=0.1),
        discriminator=DiscriminatorConfig(width=4, blocks=2, penalty_every=1),
        run=replace(recipe.run, precision="float32", device="fakegpu", trackers=()),
    )


def tokenizer_syncs(steps: int = 2) -> list[str]:
    """Waits of the host in a training step of a tokenizer, the second one."""
    recipe = tokenizer_recipe()
    with tempfile.TemporaryDirectory() as folder, FakeGPU() as gpu:
        run = Run(folder, recipe.run, recipe)
        trainer, data = tokenizer.TokenizerTrainer(recipe, run), Batches(recipe.data, 2, captions=False)
        for step in range(steps):
            gpu.syncs.clear()
            trainer.update(trainer.load(next(data)), step)
        return gpu.syncs


def generator_syncs(steps: int = 2) -> list[str]:
    """Waits of the host in a training step of a generator with a critic that encodes its own clips, the second one."""
    recipe = recipes.masked_debug()
    run_config = replace(recipe.run, precision="float32", device="fakegpu", trackers=())
    recipe = replace(recipe, run=run_config, critic=replace(recipe.critic, kind="token"))
    inputs = open_inputs(recipe.data, recipe.text, build_tokenizer(recipes.cvivit_debug().tokenizer), None)
    with tempfile.TemporaryDirectory() as folder, FakeGPU() as gpu:
        run = Run(folder, recipe.run, recipe)
        trainer = generator.GeneratorTrainer(recipe, run, inputs)
        data = inputs.batches(recipe.data, run)
        for step in range(steps):
            gpu.syncs.clear()
            trainer.update(trainer.load(next(data)), step)
        return gpu.syncs


def sampling_syncs() -> list[str]:
    """Waits of the host while ids are decoded with guidance."""
    recipe = recipes.masked_debug()
    inputs = open_inputs(recipe.data, recipe.text, build_tokenizer(recipes.cvivit_debug().tokenizer), None)
    networks = generator.build_networks(recipe, inputs)
    for network in networks.values():
        network.requires_grad_(False)
    with FakeGPU() as gpu:
        for network in networks.values():
            network.to(DEVICE)
        components = inputs.components(networks)
        text = components.encode_text("a red circle moves up", samples=2)
        ids = torch.zeros(2, 3, 4, 4, dtype=torch.long, device=DEVICE)
        known = torch.zeros(2, 3, 4, 4, dtype=torch.bool)
        for order in ("confidence", "random"):
            sampling = SamplingConfig(DecodingConfig(steps=4, order=order), GuidanceConfig(scale=2.0))
            sample_ids(components, text, ids, known, sampling, torch.Generator().manual_seed(0))
            if order == "confidence":
                gpu.syncs.clear()  # those of the first call: tables that are kept
                sample_ids(components, text, ids, known, sampling, torch.Generator().manual_seed(0))
        return gpu.syncs


SYNCS = {"tokenizer": tokenizer_syncs, "generator": generator_syncs, "sampling": sampling_syncs}


def main() -> None:
    for name, clips in (("base_128", 64), ("cvivit_128", 16)):
        stages = recipes.GENERATOR_RECIPES | recipes.TOKENIZER_RECIPES
        compiled = stages[name]().run.compile is not False
        counted = traffic(stages[name](), clips, compiled)
        print(
            f"{name}, {clips} clips{', compiled' if compiled else ''}: "
            f"{counted.other_bytes / 1e9:,.0f} GB outside of matrix products, "
            f"{counted.matrix_bytes / 1e9:,.0f} GB in them, {counted.launches:,} kernels",
            flush=True,
        )
    for compiled, chunks in ((False, 1), (True, 1), (True, 8)):
        counted = cross_entropy_traffic(compiled, chunks)
        print(
            f"base_128, cross-entropy, {'compiled' if compiled else 'eager'}, chunks {chunks}: "
            f"{counted.other_bytes / 1e9:.1f} GB outside of matrix products, {counted.matrix_bytes / 1e9:.1f} in them",
            flush=True,
        )
    print(f"base_128, optimizer step: {optimizer_launches(recipes.base_128()):,} kernels", flush=True)
    for stage, count_syncs in SYNCS.items():
        syncs = count_syncs()
        print(f"{stage}, waits of the host: {len(syncs)}")
        for line, count in Counter(syncs).items():
            print(f"  {count} x {line}")


if __name__ == "__main__":
    main()
