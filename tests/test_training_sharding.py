"""Sharded training (run.strategy fsdp) ends like any other, and its checkpoints are whole or refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.fsdp import FSDPModule
from typer.testing import CliRunner

from helpers.processes import torchrun
from helpers.training import saved
from phenaki.cli import app
from phenaki.conditioning import Text
from phenaki.core.components import load_component, save_component
from phenaki.core.errors import PhenakiError
from phenaki.generators import CausalTransformerSizes, MaskedTransformerSizes, build_generator
from phenaki.pipeline import load as load_model
from phenaki.tokenizers import CViViT
from phenaki.training.checkpoints import Checkpoints, load, read
from phenaki.training.config import RunConfig
from phenaki.training.cost import step_cost
from phenaki.training.generator import GeneratorRecipe, train_generator
from phenaki.training.layers import blocks, prepare_layers
from phenaki.training.recipes import cvivit_debug, masked_debug
from phenaki.training.sharding import is_sharded, local
from phenaki.training.tokenizer import TokenizerRecipe, train_tokenizer

CPU = torch.device("cpu")


def first_stage(strategy: str) -> TokenizerRecipe:
    """With a discriminator, which is not sharded, and layers that run twice."""
    recipe = cvivit_debug()
    run = replace(recipe.run, steps=3, checkpoint_every=2, log_every=1, trackers=(), precision="float32")
    return replace(
        recipe,
        loss=replace(recipe.loss, adversarial=0.1),
        discriminator=replace(recipe.discriminator, width=8, blocks=2),
        optimizer=replace(recipe.optimizer, kind="adamw", lr=1e-3),
        run=replace(run, checkpointing=True, strategy=strategy),
    )


def second_stage(strategy: str) -> GeneratorRecipe:
    recipe = masked_debug()
    return replace(
        recipe,
        critic=replace(recipe.critic, kind="token"),
        optimizer=replace(recipe.optimizer, kind="adamw", lr=1e-3),
        run=replace(recipe.run, steps=2, log_every=1, trackers=(), precision="bfloat16", strategy=strategy),
    )


def train_all(folder: Path) -> None:
    """What each of two processes runs."""
    train_tokenizer(first_stage("fsdp"), folder / "fsdp")
    if os.environ["RANK"] == "0":
        shutil.copytree(folder / "fsdp", folder / "resumed")
        shutil.rmtree(folder / "resumed" / "checkpoints" / "step_0000003")
    train_tokenizer(first_stage("ddp"), folder / "ddp")
    train_tokenizer(first_stage("fsdp"), folder / "resumed")
    for before, strategy in (("fsdp", "ddp"), ("ddp", "fsdp")):
        if os.environ["RANK"] == "0":
            shutil.copytree(folder / before, folder / f"{before}_to_{strategy}")
            newest = folder / f"{before}_to_{strategy}" / "checkpoints" / "step_0000003"
            shutil.rmtree(newest) if before == "fsdp" else newest.with_suffix(".pt").unlink()
        torch.distributed.barrier()
        train_tokenizer(first_stage(strategy), folder / f"{before}_to_{strategy}")
    for strategy in ("ddp", "fsdp"):
        tokenizer = load_component(folder / "frozen", "tokenizer")
        train_generator(second_stage(strategy), folder / f"second_{strategy}", tokenizer)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two processes by torchrun, and of one."""
    folder = tmp_path_factory.mktemp("runs")
    frozen = CViViT(cvivit_debug().tokenizer)
    save_component(frozen, folder / "frozen")
    (folder / "train.py").write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from test_training_sharding import train_all\n"
        "train_all(Path(sys.argv[1]))\n"
    )
    torchrun(folder / "train.py", folder)
    train_tokenizer(first_stage("ddp"), folder / "one")
    return folder


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][:3]


def equal(one: dict, two: dict, tolerance: float) -> None:
    for part in one["state"].keys() - {"data"}:
        if "optimizers" not in part:
            for name, value in one["state"][part].items():
                assert torch.allclose(value, two["state"][part][name], atol=tolerance), f"{part} {name}"


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_do_what_one_does(runs: Path, strategy: str) -> None:
    """Networks, averages and discriminator, and the loss at each step."""
    equal(saved(runs / "one"), saved(runs / strategy), 1e-5)
    for one, two in zip(metrics(runs / "one"), metrics(runs / strategy), strict=True):
        for name in ("loss", "adversarial", "discriminator_loss", "grad_norm"):
            assert one[name] == pytest.approx(two[name], rel=1e-4), name


@pytest.mark.slow
def test_the_second_stage_learns_the_same_in_shards(runs: Path) -> None:
    full, shards = saved(runs / "second_ddp"), saved(runs / "second_fsdp")
    assert {"generator_ema", "text_encoder_ema", "critic_ema"} <= shards["state"].keys() == full["state"].keys()
    equal(full, shards, 1e-5)


@pytest.mark.slow
def test_a_process_holds_its_share(runs: Path) -> None:
    """Of weights, averages, and the optimizer's two; as the plan says."""
    for rank in (1, 2):
        (file,) = (runs / "fsdp" / "checkpoints" / "step_0000003").glob(f"shard-{rank:05}-*")
        held = sum(4 * tensor.numel() for tensor in load_file(file).values())
        assert held == 4 * step_cost(first_stage("fsdp")).shardable / 2


@pytest.mark.slow
def test_resumed_equals_uninterrupted(runs: Path) -> None:
    uninterrupted, resumed = saved(runs / "fsdp"), saved(runs / "resumed")
    assert uninterrupted["step"] == resumed["step"] == 3
    equal(uninterrupted, resumed, 0)


@pytest.mark.slow
@pytest.mark.parametrize("resumed", ["fsdp_to_ddp", "ddp_to_fsdp"])
def test_each_strategy_resumes_from_the_other(runs: Path, resumed: str) -> None:
    """Optimizer states included: the last step depends on them."""
    assert saved(runs / resumed)["step"] == 3
    equal(saved(runs / "fsdp"), saved(runs / resumed), 1e-5)


@pytest.mark.slow
def test_a_missing_or_broken_shard_is_a_sentence(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "fsdp", tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / "step_0000003"
    (file,) = newest.glob("shard-00002-*")
    file.write_bytes(bytes(len(file.read_bytes())))
    with pytest.raises(PhenakiError, match="is corrupt in shard-00002"):
        read(newest)
    file.unlink()
    with pytest.raises(PhenakiError, match="of the files of 2 processes shard-00002.* cannot be read"):
        read(newest)
    said: list[str] = []
    assert load(Checkpoints(tmp_path / "run", 2, 0, said.append).newest(), CPU)["step"] == 2
    assert "skipped" in said[0]
    Checkpoints(tmp_path / "run", 2, 0, said.append).forget(after=2)
    assert not newest.exists()


@pytest.mark.slow
def test_merged_is_what_the_run_wrote(runs: Path, tmp_path: Path) -> None:
    """At the last step, whose model the run itself gathers and writes; and another before."""
    for run, written in (("fsdp", "tokenizer"), ("second_fsdp", "model")):
        result = CliRunner().invoke(app, ["train", "export", str(runs / run), str(tmp_path / run)])
        assert result.exit_code == 0, result.output
        for file in (runs / run / written).rglob("*.safetensors"):
            again = load_file(tmp_path / run / file.relative_to(runs / run / written))
            assert all(torch.equal(value, again[name]) for name, value in load_file(file).items())
    load_model(tmp_path / "second_fsdp")
    older = runs / "fsdp" / "checkpoints" / "step_0000002"
    given = ["train", "export", str(runs / "fsdp"), str(tmp_path / "older"), "--checkpoint", str(older)]
    assert CliRunner().invoke(app, given).exit_code == 0
    before, after = (load_component(tmp_path / name, "tokenizer").state_dict() for name in ("older", "fsdp"))
    assert not all(torch.equal(value, after[name]) for name, value in before.items())
    again = CliRunner().invoke(app, given)
    assert again.exit_code == 2 and "exists" in again.output
    nothing = CliRunner().invoke(app, ["train", "export", str(tmp_path), str(tmp_path / "new")])
    assert nothing.exit_code == 2 and "no checkpoint" in nothing.output


def full_gradients(network: torch.nn.Module) -> int:
    """Elements of the full gradients of sharded weights that are alive."""
    states = [module._get_fsdp_state() for module in network.modules() if isinstance(module, FSDPModule)]
    parameters = [each for state in states if state._fsdp_param_group for each in state._fsdp_param_group.fsdp_params]
    full = [getattr(each, "_unsharded_param", None) for each in parameters]
    return sum(each.numel() for each in full if each is not None and each.grad is not None)


def call_entry_points() -> None:
    """What each of two processes runs: a sharded generator and a full one, by each of their entry points."""
    torch.distributed.init_process_group("gloo")
    torch.manual_seed(0)
    spec, text = CViViT(cvivit_debug().tokenizer).spec, Text(torch.randn(2, 3, 8), torch.ones(2, 3).bool())
    ids, config = torch.randint(spec.vocab_size, (2, 1, 4, 4)), RunConfig(strategy="fsdp", precision="float32")
    for sizes in (
        MaskedTransformerSizes(frames=5, width=64, layers=6),
        CausalTransformerSizes(frames=5, width=64, layers=2),
    ):
        full = build_generator(sizes, spec, text_width=8)
        sharded = deepcopy(full)
        prepare_layers([sharded], config, CPU)
        outputs, alive = [], [0]
        count = lambda *_, network=sharded, counts=alive: counts.append(full_gradients(network))  # noqa: E731
        for block in blocks([sharded]):
            block.register_full_backward_pre_hook(count)
        for generator in (full, sharded):
            condition = generator.condition(text)  # before any other: the root has to be the first to gather
            features, logits = generator.features(ids, condition), generator.logits(ids, condition)
            found = [features, logits, generator(ids, condition)]
            if generator.has_cache:
                generator.commit(ids, condition, cache := generator.make_cache())
                found.append(generator.logits(ids, condition, cache=cache))
            sum(each.square().mean() for each in found).backward()
            outputs.append(found)
        assert all(torch.allclose(*pair, atol=1e-5) for pair in zip(*outputs, strict=True))
        assert max(alive) <= 2 * sum(local(p).numel() * 2 for p in blocks([sharded])[0].parameters() if is_sharded(p))
        shards = [parameter for parameter in sharded.parameters() if is_sharded(parameter)]
        assert shards and all(2 * local(shard).numel() == shard.numel() for shard in shards)
        for one, other in zip(full.parameters(), sharded.parameters(), strict=True):
            gradient = other.grad.full_tensor() if is_sharded(other) else other.grad
            assert torch.allclose(one.grad, gradient, atol=1e-5)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_each_entry_point_of_a_generator_gathers_its_shards(tmp_path: Path) -> None:
    script = tmp_path / "call.py"
    script.write_text("from test_training_sharding import call_entry_points\ncall_entry_points()\n")
    torchrun(script)


def test_export_knows_all_components_in_a_process_of_its_own() -> None:
    code = "import phenaki.training.export; from phenaki.core.registry import REGISTRIES"
    code += "; assert all(registry.types for registry in REGISTRIES.values())"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_cannot_be_sharded_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(PhenakiError, match="the only one"):
        train_tokenizer(first_stage("fsdp"), tmp_path / "run")
    muon = replace(first_stage("fsdp"), optimizer=replace(cvivit_debug().optimizer, kind="muon"))
    with pytest.raises(PhenakiError, match="full matrices.*optimizer.kind=adamw"):
        train_tokenizer(muon, tmp_path / "run")
    assert not (tmp_path / "run").exists()
