"""A plan says what fits, how long it takes and what data it wants, and refuses what it cannot plan in a sentence."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from phenaki.cli import app
from phenaki.core.errors import PhenakiError
from phenaki.tokenizers import TokenizerSpec, build_tokenizer
from phenaki.training import recipes
from phenaki.training.cost import step_cost
from phenaki.training.hardware import GPUS
from phenaki.training.layers import blocks
from phenaki.training.plan import USABLE, Devices, clip_bytes, make_plan, parse_bytes, short
from phenaki.training.sharding import shardable

RECIPE = recipes.conv3d_debug()


def test_a_share_of_the_state_on_each_device() -> None:
    alone = make_plan(RECIPE, Devices()).bytes
    copies = make_plan(RECIPE, Devices(2)).bytes
    shared = make_plan(RECIPE, Devices(2, strategy="fsdp")).bytes
    assert alone["activations"] > copies["activations"] == shared["activations"]
    shards = sum(4 * p.numel() for m in shardable(blocks([build_tokenizer(RECIPE.tokenizer)])) for p in m.parameters())
    for kind, tensors in {"weights": 1, "gradients": 1, "optimizer": 2, "averages": 1}.items():
        assert alone[kind] == copies[kind] == pytest.approx(shared[kind] + tensors * shards / 2, abs=2)
    assert shared["sum of gradients"] == shared["gradients"] - shards / 2 > 0
    assert copies["sum of gradients"] == copies["gradients"] and "sum of gradients" not in alone
    assert 0 < shared["gathered blocks"] <= 4 * alone["weights"]
    assert shared["averages for previews"] == shards


def test_the_largest_batch_is_the_largest() -> None:
    memory = 50e6
    plan = make_plan(RECIPE, Devices(memory=memory))
    assert plan.fits and plan.largest > RECIPE.data.batch
    fits, fits_not = (
        sum(step_cost(RECIPE, clips=plan.largest + more).bytes.values()) <= USABLE * memory for more in (0, 1)
    )
    assert (fits, fits_not) == (True, False)
    small = make_plan(RECIPE, Devices(memory=2e6))
    assert (small.fits, small.largest) == (False, 0)
    assert make_plan(RECIPE, Devices()).fits is None


def test_a_recipe_for_one_gpu_fits_one_with_a_fifth_to_spare() -> None:
    with torch.device("meta"):
        spec = build_tokenizer(recipes.cvivit_128().tokenizer).spec
    assert make_plan(recipes.base_128(), Devices(memory=80e9), spec).memory < 0.8 * 80e9


def test_seconds_follow_from_operations() -> None:
    plan = make_plan(RECIPE, Devices(2, teraflops=0.5))
    assert plan.step_seconds == pytest.approx(step_cost(RECIPE, clips=2).flops / 0.5e12)
    assert plan.seconds == pytest.approx(RECIPE.run.steps * plan.step_seconds)
    sent = plan.cost.bytes["weights"]
    assert plan.gradient_bytes == sent  # 2 (n - 1) / n of it
    assert make_plan(RECIPE, Devices()).seconds is None


def test_a_gpu_is_planned_by_operations_and_bytes() -> None:
    """A roofline: more bandwidth and fewer bytes help where bytes are what costs, and the reason is named."""
    recipe = replace(RECIPE, run=replace(RECIPE.run, compile=False))
    slow, fast = (make_plan(recipe, Devices(gpu=replace(GPUS["h100"], bandwidth=b))) for b in (1e11, 1e12))
    assert slow.roofline["other kernels"] == pytest.approx(10 * fast.roofline["other kernels"])
    assert (
        slow.roofline["other kernels"]
        > make_plan(replace(RECIPE, run=replace(RECIPE.run, compile=None)), slow.devices).roofline["other kernels"]
    )
    plan = make_plan(recipe, Devices(gpu=GPUS["h100"]))
    assert plan.step_seconds == max(sum(plan.roofline.values()), plan.launch_seconds)
    assert plan.utilisation == pytest.approx(plan.cost.flops / (989e12 * plan.step_seconds))
    assert any("run.compile=true" in line for line in plan.lines())  # tiny kernels are bound by their start


def test_bytes_of_a_clip() -> None:
    spec = TokenizerSpec(8192, (2, 8, 8), (128, 128), 8.0)
    assert clip_bytes(recipes.paper(), 1536, spec) == 2 * 1536 + 2 * recipes.paper().text.length * 4096
    assert clip_bytes(recipes.masked_debug(), 48, replace(spec, vocab_size=256)) == 48  # words are read anew
    assert clip_bytes(RECIPE, 48, None) == 5 * 32 * 32 / 32


@pytest.mark.parametrize(
    ("text", "size"), [("80GB", 80e9), ("24 GiB", 24 * 2**30), ("1.5tb", 1.5e12), (" 512 MB ", 512e6)]
)
def test_sizes_of_memory(text: str, size: float) -> None:
    assert parse_bytes(text) == size


def test_numbers_are_short() -> None:
    assert [short(n) for n in (0, 999, 1234, 1.5e9)] == ["0 ", "999 ", "1.23 k", "1.5 G"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["conv3d_debug", "--memory", "80"], "'80' is not a memory size"),
        (["conv3d_debug", "--memory", "80 PB"], "is not a memory size"),
        (["conv3d_debug", "--memory", "0GB"], "bytes of memory: give more than 0"),
        (["conv3d_debug", "--devices", "0"], "0 devices: give 1 or more"),
        (["conv3d_debug", "--devices", "3"], "does not divide among 3 devices: take 2 of them, or data.batch=6"),
        (["conv3d_debug", "--tflops", "-1"], "TFLOP/s: give more than 0"),
        (["conv3d_debug", "--gpu", "h1000"], "'h1000' is not known. Did you mean 'h100'?"),
        (["conv3d_debug", "--gpu", "h100", "--tflops", "400"], "give one"),
        (["conv3d_debug", "--strategy", "zero"], "use ddp or fsdp"),
        (["conv3d_debug", "run.strategy=fsdp"], "this is the only one"),
        (["masked_shapes_64", "--devices", "2", "--strategy", "fsdp"], "Muon needs full matrices"),
        (["conv4d_debug"], "there is no recipe 'conv4d_debug'. Did you mean 'conv3d_debug'?"),
        (["masked_debug", "--tokenizer", "masked_debug"], "'masked_debug' is a generator recipe"),
        (["masked_debug", "--tokenizer", "cvivit_128"], "data.size 32 must equal"),
        (["conv3d_debug", "run.step=3"], "Did you mean 'steps'?"),
    ],
)
def test_bad_input_is_a_sentence(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["plan", *arguments])
    assert result.exit_code == 2 and said in result.output and "Traceback" not in result.output, result.output


def test_the_command_tells_all_of_it() -> None:
    given = ["--devices", "2", "--memory", "8GB", "--tflops", "0.1", "--strategy", "fsdp", "--checkpointing"]
    result = CliRunner().invoke(app, ["plan", "conv3d_debug", *given, "run.steps=5"])
    assert result.exit_code == 0, result.output
    said = ("parameters", "operations, a step", "activations", "gathered blocks", "yes: 90% of 8 GB", "for 5 steps")
    assert all(words in result.output for words in (*said, "data, a second", "network"))
    plan = make_plan(replace(RECIPE, run=replace(RECIPE.run, checkpointing=True)), Devices(2))
    assert short(2 * plan.cost.flops) + "FLOP" in result.output


def test_a_recipe_for_cpus_is_planned_for_cpus() -> None:
    with pytest.raises(PhenakiError):
        Devices(teraflops=0.0)
    recipe = replace(RECIPE, run=replace(RECIPE.run, device="cpu", precision="bfloat16"))
    assert make_plan(recipe, Devices()).bytes == step_cost(recipe, hardware="cpu").bytes
