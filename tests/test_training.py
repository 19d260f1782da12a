"""Both trainings: they learn, resume exactly, and touch only what they should."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from helpers.processes import torchrun
from helpers.training import lasting, saved, stop_after, weights
from phenaki.conditioning import Text
from phenaki.core.components import load_component
from phenaki.core.errors import PhenakiError
from phenaki.data.config import DataConfig
from phenaki.generators import Condition, MaskedTransformer
from phenaki.generators.losses import GeneratorLossConfig
from phenaki.tokenizers import CViViT, QuantizerConfig
from phenaki.tokenizers.losses import TokenizerLossConfig
from phenaki.tokenizers.quantizers import FSQ
from phenaki.training.config import RunConfig
from phenaki.training.generator import train_generator
from phenaki.training.masking import PrefixConfig
from phenaki.training.optim import OptimizerConfig, Optimizers, averaged
from phenaki.training.recipes import cvivit_debug, cvivit_debug_codebook, masked_debug
from phenaki.training.run import Run
from phenaki.training.tokenizer import TokenizerRecipe, train_tokenizer


def averaged_codebook() -> TokenizerRecipe:
    """Codes that start in clusters of the first few batches, and are then averaged."""
    recipe = cvivit_debug_codebook()
    quantizer = replace(recipe.tokenizer.quantizer, codebook_size=128, init="kmeans", update="ema")
    return replace(recipe, tokenizer=replace(recipe.tokenizer, quantizer=quantizer))


def with_linear_skip() -> TokenizerRecipe:
    recipe = cvivit_debug()
    return replace(recipe, tokenizer=replace(recipe.tokenizer, linear_skip=True))


@pytest.mark.parametrize("make", [cvivit_debug, cvivit_debug_codebook, averaged_codebook, with_linear_skip])
@pytest.mark.parametrize("workers", [0, 1])
def test_interrupted_and_resumed_equals_uninterrupted_first_stage(
    make, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = lasting(make(), 8)
    recipe = replace(recipe, data=replace(recipe.data, workers=workers))
    train_tokenizer(recipe, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        train_tokenizer(recipe, tmp_path / "parts")
    assert saved(tmp_path / "parts")["step"] == 4
    train_tokenizer(recipe, tmp_path / "parts")
    uninterrupted, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert uninterrupted.keys() == parts.keys()
    assert len(uninterrupted) > 50
    assert all(torch.equal(uninterrupted[name], parts[name]) for name in uninterrupted)


def test_a_linear_skip_starts_from_the_training_clips(tmp_path: Path) -> None:
    def first_psnr(recipe: TokenizerRecipe, name: str) -> float:
        train_tokenizer(lasting(recipe, 1), tmp_path / name)
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return next(line["psnr"] for line in map(json.loads, lines) if "psnr" in line)

    assert first_psnr(with_linear_skip(), "skip") > first_psnr(cvivit_debug(), "plain") + 8


def test_interrupted_and_resumed_equals_uninterrupted_second_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: CViViT
) -> None:
    recipe = lasting(masked_debug(), 6)
    train_generator(recipe, tmp_path / "whole", tokenizer)
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        train_generator(recipe, tmp_path / "parts", tokenizer)
    train_generator(recipe, tmp_path / "parts", tokenizer)
    uninterrupted, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert uninterrupted.keys() == parts.keys()
    assert all(torch.equal(uninterrupted[name], parts[name]) for name in uninterrupted)


def test_the_first_stage_learns_and_leaves_what_it_promises(tmp_path: Path) -> None:
    recipe = cvivit_debug()
    recipe = replace(recipe, run=replace(recipe.run, steps=60, eval_every=60))
    folder = train_tokenizer(recipe, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0] / 2
    assert {"l2", "contrast", "perplexity", "used", "grad_norm", "lr", "psnr"} <= lines[0].keys()
    assert {"test/psnr", "test/psnr_first", "test/psnr_rest"} <= lines[-1].keys()
    assert (tmp_path / "reconstruction_0000060.png").stat().st_size > 1000
    assert list(tmp_path.glob("events.out.tfevents*"))
    tokenizer = load_component(folder, "tokenizer")
    assert tokenizer.encode(torch.rand(1, 3, 5, 32, 32)).shape == (1, 3, 4, 4)


def test_the_second_stage_learns_and_the_tokenizer_stays_frozen(
    tmp_path: Path, tokenizer: CViViT, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    dropped: list[torch.Tensor] = []
    condition = MaskedTransformer.condition

    def counted(self: MaskedTransformer, text: Text, actions: None = None, drop: Tensor | None = None) -> Condition:
        if torch.is_grad_enabled():  # the updates' own, not those of the evaluations in between
            dropped.append(drop)
        return condition(self, text, actions, drop)

    monkeypatch.setattr(MaskedTransformer, "condition", counted)
    recipe = masked_debug()
    run, loss = replace(recipe.run, steps=60, eval_every=60), replace(recipe.loss, text_drop=0.3)
    recipe = replace(recipe, run=run, loss=loss)
    train_generator(recipe, tmp_path, tokenizer)
    assert len(dropped) == 60
    assert torch.cat(dropped).float().mean().item() == pytest.approx(0.3, abs=0.08)  # of some 360 samples
    assert sum(bool(where.any() and not where.all()) for where in dropped) > 30  # drawn for each sample by itself
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.9 * losses[0]
    assert all(torch.equal(before[name], value) for name, value in tokenizer.state_dict().items())
    assert not any("tokenizer" in name for name in saved(tmp_path)["state"]["generator"])


def test_a_folder_belongs_to_one_recipe(tmp_path: Path) -> None:
    recipe = lasting(cvivit_debug(), 1)
    train_tokenizer(recipe, tmp_path)
    train_tokenizer(lasting(cvivit_debug(), 2), tmp_path)  # going on for longer is fine
    other = replace(recipe, loss=replace(recipe.loss, l1=0.5))
    with pytest.raises(PhenakiError, match=r"loss.l1 from 0.0 to 0.5"):
        train_tokenizer(other, tmp_path)
    with pytest.raises(PhenakiError, match=r"run.seed from 0 to 1"):
        train_tokenizer(lasting(cvivit_debug(), 3, seed=1), tmp_path)


def test_a_run_of_the_second_stage_belongs_to_one_tokenizer(tmp_path: Path, tokenizer: CViViT) -> None:
    train_generator(lasting(masked_debug(), 1), tmp_path, tokenizer)
    train_generator(lasting(masked_debug(), 2), tmp_path, tokenizer)
    torch.manual_seed(9)
    with pytest.raises(PhenakiError, match="builds on another tokenizer"):
        train_generator(lasting(masked_debug(), 3), tmp_path, CViViT(tokenizer.config))


def test_a_recipe_whose_parts_do_not_fit_is_refused(tmp_path: Path, tokenizer: CViViT) -> None:
    first, second = cvivit_debug(), masked_debug()
    with pytest.raises(PhenakiError, match=r"data.size 64 .*image_size \[32, 32\]"):
        train_tokenizer(replace(first, data=replace(first.data, size=64)), tmp_path / "run")
    with pytest.raises(PhenakiError, match=r"data.size 64 .*image_size \[32, 32\]"):
        train_generator(replace(second, data=replace(second.data, size=64)), tmp_path / "run", tokenizer)
    with pytest.raises(PhenakiError, match=r"data.lengths \(1, 5\) and generator.frames 11"):
        train_generator(replace(second, generator=replace(second.generator, frames=11)), tmp_path / "run", tokenizer)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("config", "wrong"),
    [
        (OptimizerConfig, {"betas": (0.9, 1.5)}),
        (OptimizerConfig, {"clip": -1.0}),
        (OptimizerConfig, {"warmup_steps": -1}),
        (GeneratorLossConfig, {"text_drop": 7.0}),
        (GeneratorLossConfig, {"label_smoothing": -0.1}),
        (TokenizerLossConfig, {"first_frame_fraction": 2.0}),
        (TokenizerLossConfig, {"l2": -1.0}),
        (PrefixConfig, {"latent_frames": (0, -1, 3)}),
        (PrefixConfig, {"probabilities": (2.0, -1.0, 0.0)}),
        (DataConfig, {"sources": (), "lengths": (1, 3), "length_weights": (2.0, -1.0)}),
        (DataConfig, {"sources": (), "workers": -1}),
        (DataConfig, {"sources": (), "lengths": (1, 3), "length_weights": (float("nan"), 1.0)}),
        (PrefixConfig, {"probabilities": (float("nan"), 0.5, 0.5)}),
        (PrefixConfig, {"last": 1.5}),
    ],
)
def test_impossible_settings_are_refused_with_their_value(config: type, wrong: dict) -> None:
    ((name, value),) = list(wrong.items())[-1:]
    with pytest.raises(PhenakiError) as caught:
        config(**wrong)
    assert str(value) in str(caught.value)
    assert name in str(caught.value) or "prefix.latent_frames" in str(caught.value)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    recipe = lasting(cvivit_debug(), 2)
    train_tokenizer(recipe, tmp_path)
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    before = checkpoint.read_bytes()
    with Run(tmp_path, RunConfig(steps=5, bad_steps=1), recipe) as run:
        run.step = 3
        with pytest.raises(PhenakiError, match="loss became nan at step 3"):
            run.log(loss=float("nan"), grad_norm=1.0)
    with Run(tmp_path, RunConfig(steps=5, bad_steps=1), recipe) as run:
        run.step = 3
        with pytest.raises(PhenakiError, match="grad_norm became inf at step 3"):
            run.log(loss=1.0, grad_norm=float("inf"))
    assert checkpoint.read_bytes() == before


def test_only_the_intended_parameters_are_in_the_optimizers(tokenizer: CViViT) -> None:
    for kind in ("adamw", "muon"):
        optimizers = Optimizers([tokenizer], OptimizerConfig(kind=kind), steps=10)
        wanted = {id(p) for p in tokenizer.parameters()}
        assert {id(p) for p in optimizers.parameters} == wanted
        held = [id(p) for o in optimizers.optimizers for group in o.param_groups for p in group["params"]]
        assert sorted(held) == sorted(wanted)
    for parameter in tokenizer.quantizer.parameters():
        parameter.requires_grad_(False)
    frozen = {id(p) for p in tokenizer.quantizer.parameters()}
    assert not frozen & {id(p) for p in Optimizers([tokenizer], OptimizerConfig(), 10).parameters}


def test_averaged_weights_follow_and_whole_numbers_stay() -> None:
    torch.manual_seed(0)
    levels = (3, 6, 7)  # 0.9 * 3 + 0.1 * 3 is 2 when cut to a whole number
    quantizer = FSQ(QuantizerConfig(levels=levels), 8)
    ema = averaged(quantizer, 0.9)
    expected = quantizer.project_in.weight.detach().clone()
    for step in range(120):
        with torch.no_grad():
            quantizer.project_in.weight.add_(torch.randn(()))
        ema.update_parameters(quantizer)
        new = quantizer.project_in.weight.detach()
        decay = 0 if step == 0 else min(0.9, (1 + step) / (10 + step))  # 0.9 is reached at step 80
        expected = decay * expected + (1 - decay) * new
    assert ema.module._levels.tolist() == list(levels)
    assert torch.allclose(ema.module.project_in.weight, expected, atol=1e-4)


def test_averaged_weights_of_a_young_run_are_not_those_it_began_with() -> None:
    layer = torch.nn.Linear(2, 2)
    ema = averaged(layer, 0.999)
    for step in range(100):
        with torch.no_grad():
            layer.weight.fill_(float(step >= 50))
        ema.update_parameters(layer)
    assert ema.module.weight.min() > 0.99


def test_the_learning_rate_warms_up_stays_and_falls() -> None:
    config = OptimizerConfig(lr=1.0, warmup_steps=10, cooldown_fraction=0.5, final_lr=0.1)
    optimizers = Optimizers([torch.nn.Linear(2, 2)], config, steps=100)
    rates = [optimizers.lr(step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10:51] == [1.0] * 41
    assert all(a > b for a, b in zip(rates[50:100], rates[51:101], strict=True))
    assert rates[100] == pytest.approx(0.1)


def test_two_processes_do_what_one_does(tmp_path: Path) -> None:
    """torchrun with two processes: same data in all, so nearly the same weights (float32 sums in another order). In the
    steps of images alone a part of the weights has no gradient."""
    script = tmp_path / "train.py"
    script.write_text(
        "import sys\n"
        "from dataclasses import replace\n"
        "from phenaki.training.recipes import cvivit_debug\n"
        "from phenaki.training import gradients\n"
        "from phenaki.training.tokenizer import train_tokenizer\n"
        "gradients._BUCKET = 20_000\n"  # several transfers
        "recipe = cvivit_debug()\n"
        "optimizer = replace(recipe.optimizer, kind='adamw', lr=1e-4)\n"
        "run = replace(recipe.run, steps=6, precision='float32')\n"
        "data = replace(recipe.data, length_weights=(0.5, 0.5))\n"
        "train_tokenizer(replace(recipe, data=data, optimizer=optimizer, run=run), sys.argv[1])\n"
    )
    for processes in (1, 2):
        torchrun(script, tmp_path / str(processes), processes=processes)
    one, two = (saved(tmp_path / str(n))["state"] for n in (1, 2))
    for name, value in one["tokenizer"].items():
        assert torch.allclose(value, two["tokenizer"][name], atol=2e-5), name


def test_gradients_are_averaged_while_the_backward_pass_goes_on(tmp_path: Path) -> None:
    """Those of two passes that add up; a layer is without gradients in one step, and a loss of one process infinite in
    another."""
    script = tmp_path / "average.py"
    script.write_text(
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from phenaki.training.recipes import cvivit_debug\n"
        "from phenaki.training import gradients\n"
        "from phenaki.training.run import Run\n"
        "gradients._BUCKET = 40\n"  # bytes: a matrix of 3 x 3, and what comes next
        "recipe, found = cvivit_debug(), []\n"
        "with Run(Path(sys.argv[1]) / 'run', recipe.run, recipe) as run:\n"
        "    torch.manual_seed(0)\n"
        "    layers = torch.nn.ModuleList(torch.nn.Linear(3, 3) for _ in range(4))\n"
        "    average = run.gradient_reducer(layers.parameters(), passes=2)\n"
        "    for left_out, loss in ((None, 0.0), (2, 0.0), (None, [0.0, float('inf')][run.rank]), (1, 0.0)):\n"
        "        for part in range(2):\n"
        "            x = torch.full((1, 3), 1.0 + run.rank + part)\n"
        "            for number, layer in enumerate(layers):\n"
        "                x = x if number == left_out else layer(x).tanh()\n"
        "            x.sum().backward()\n"
        "            early = len(average._sent)\n"
        "        own = {name: p.grad.clone() for name, p in layers.named_parameters() if p.grad is not None}\n"
        "        average.finish(loss)\n"
        "        mean = {name: p.grad.clone() for name, p in layers.named_parameters() if p.grad is not None}\n"
        "        found.append({'early': early, 'own': own, 'mean': mean})\n"
        "        layers.zero_grad()\n"
        "    torch.save(found, Path(sys.argv[1]) / f'{run.rank}.pt')\n"
    )
    torchrun(script, tmp_path)
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for step, (first, second) in enumerate(zip(one, two, strict=True)):
        assert first["early"] == second["early"] >= 2
        assert first["mean"].keys() == first["own"].keys() == second["mean"].keys()
        assert len(first["mean"]) == (8 if step in (0, 2) else 6)
        spoiled = 0
        for name, mean in first["mean"].items():
            assert torch.equal(mean, second["mean"][name]) or mean.isnan().any()
            spoiled += int(mean.isnan().any() and second["mean"][name].isnan().any())
            if not mean.isnan().any():
                assert torch.allclose(mean, (first["own"][name] + second["own"][name]) / 2)
        assert bool(spoiled) == (step == 2)


def test_processes_keep_one_codebook(tmp_path: Path) -> None:
    """Each process restarts dead codes by its own batch, and all average the codes of all batches: in the end all must
    hold the same."""
    script = tmp_path / "train.py"
    script.write_text(
        "import os, sys, torch\n"
        "from dataclasses import replace\n"
        "from pathlib import Path\n"
        "from phenaki.training.recipes import cvivit_debug_codebook\n"
        "from phenaki.tokenizers.quantizers import Codebook\n"
        "from phenaki.training.run import Run\n"
        "from phenaki.training.tokenizer import train_tokenizer\n"
        "recipe = cvivit_debug_codebook()\n"
        "quantizer = replace(recipe.tokenizer.quantizer, dead_code_threshold=0.999, update='ema')\n"
        "recipe = replace(recipe, tokenizer=replace(recipe.tokenizer, quantizer=quantizer))\n"
        "steps = Run.steps\n"
        "def spied(self, parts, prepare):\n"
        "    yield from steps(self, parts, prepare)\n"
        "    torch.save(parts['tokenizer'].state_dict(), Path(sys.argv[1]).parent / f'{self.rank}.pt')\n"
        "Run.steps = spied\n"
        "update = Codebook.update\n"
        "def spied_update(self, statistics, quantized, rng):\n"
        "    torch.save(statistics, Path(sys.argv[1]).parent / f\"statistics{os.environ['RANK']}.pt\")\n"
        "    return update(self, statistics, quantized, rng)\n"
        "Codebook.update = spied_update\n"
        "train_tokenizer(replace(recipe, run=replace(recipe.run, steps=3)), sys.argv[1])\n"
    )
    torchrun(script, tmp_path / "run")
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name, value in one.items():
        assert torch.equal(value, two[name]), name
    for one, two in zip(*(torch.load(tmp_path / f"statistics{rank}.pt") for rank in range(2)), strict=True):
        assert torch.equal(one, two)


def test_processes_without_a_common_disk_resume_together(tmp_path: Path) -> None:
    """The main process alone finds a checkpoint. A process that trained once can train again, and leaves its group."""
    recipe, trained = cvivit_debug(), torch.nn.Linear(3, 2)
    with Run(tmp_path / "0", recipe.run, recipe) as first:
        first.step = 7
        first.save({"linear": trained})
    script = tmp_path / "resume.py"
    script.write_text(
        "import atexit, os, sys, torch\n"
        "import torch.distributed as dist\n"
        "from pathlib import Path\n"
        "from phenaki.training.recipes import cvivit_debug\n"
        "from phenaki.training.run import Run\n"
        "def last():\n"
        "    threads = [Path(f'/proc/self/task/{t}/comm').read_text() for t in os.listdir('/proc/self/task')]\n"
        "    found = {'step': run.step, 'linear': linear.state_dict(), 'group': 'gloo' in ' '.join(threads)}\n"
        "    assert not dist.is_initialized()\n"
        "    torch.save(found, f'{folder}.pt')\n"
        "atexit.register(last)\n"
        "folder, recipe = Path(sys.argv[1]) / os.environ['RANK'], cvivit_debug()\n"
        "for _ in range(2):\n"
        "    linear = torch.nn.Linear(3, 2)\n"
        "    with Run(folder, recipe.run, recipe) as run:\n"
        "        run.restore({'linear': linear})\n"
        "import torch._dynamo\n"  # as torch's optimizers import it late
        "threads = ' '.join(Path(f'/proc/self/task/{t}/comm').read_text() for t in os.listdir('/proc/self/task'))\n"
        "assert 'gloo' in threads or torch.__version__ < '2.13'\n"  # older ones name no threads
    )
    torchrun(script, tmp_path)
    assert not (tmp_path / "1").exists()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found["step"] == 7
        assert not found["group"]
        assert torch.equal(found["linear"]["weight"], trained.weight)


def test_processes_end_together_where_one_has_no_further_batch(tmp_path: Path) -> None:
    script = tmp_path / "fail.py"
    script.write_text(
        "import os, sys\n"
        "from pathlib import Path\n"
        "from phenaki.core.errors import PhenakiError\n"
        "from phenaki.training.recipes import cvivit_debug\n"
        "from phenaki.training.run import Run\n"
        "folder, recipe = Path(sys.argv[1]), cvivit_debug()\n"
        "def prepare():\n"
        "    if run.step == 3 and run.rank == 1:\n"
        "        raise PhenakiError('no further batch')\n"
        "try:\n"
        "    with Run(folder, recipe.run, recipe) as run:\n"
        "        for step in run.steps({}, prepare):\n"
        "            pass\n"
        "except PhenakiError as error:\n"
        "    (folder / f'{run.rank}.txt').write_text(str(error))\n"
    )
    torchrun(script, tmp_path)
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)] == ["no further batch"] * 2
    assert saved(tmp_path)["step"] == 3


def recorded(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_steps_that_run_again_are_recorded_once(tmp_path: Path) -> None:
    """A killed run leaves metrics beyond its checkpoint, the last line of them unfinished."""
    recipe = lasting(cvivit_debug(), 6)

    def run_to(last: int, parts: dict) -> None:
        with Run(tmp_path, recipe.run, recipe) as run:
            run.restore(parts)
            for step in run.steps(parts):
                run.log(loss=float(step))
                if run.step == last:
                    raise RuntimeError("killed")

    with Run(tmp_path, recipe.run, recipe) as run:
        run.step = 2
        run.save({})
    with pytest.raises(RuntimeError):
        run_to(4, {})
    assert recorded(tmp_path) == [3, 4, 5]
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "lo')
    run_to(6, {})
    assert recorded(tmp_path) == [3, 4, 5, 6]


@pytest.mark.parametrize(("done", "left"), [(0, "2 h 13 min"), (3900, "3 min 20 s"), (3990, "20 s")])
def test_lines_tell_the_rate_and_the_time_that_is_left(
    done: int, left: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("phenaki.training.metrics.time", SimpleNamespace(monotonic=lambda: now[0], time=time.time))
    recipe = lasting(cvivit_debug(), 4001)
    with Run(tmp_path, recipe.run, recipe) as run:
        run.step = done
        next(run.steps({}))
        now[0] += 2
        run.log(loss=1.5)
    assert capsys.readouterr().err == f"step {done + 1}/4001 loss 1.5, 0.50 steps/s, {left} left\n"


def test_weights_follow_from_the_seed_and_nothing_else_does(tmp_path: Path) -> None:
    recipe = cvivit_debug()
    made = []
    for before in (1, 2):
        torch.manual_seed(before)
        expected = torch.rand(3)
        torch.manual_seed(before)
        networks = Run(tmp_path, recipe.run, recipe).initialize(lambda: {"linear": torch.nn.Linear(2, 2)})
        made.append(networks["linear"].weight)
        assert torch.equal(torch.rand(3), expected)
    assert torch.equal(*made)


def test_runs_draw_the_same_whatever_came_before(tmp_path: Path) -> None:
    recipe = cvivit_debug()
    run = Run(tmp_path, recipe.run, recipe)
    first = torch.rand(3, generator=run.rng(7))
    torch.rand(100)
    assert torch.equal(torch.rand(3, generator=run.rng(7)), first)
    assert not torch.equal(torch.rand(3, generator=run.rng(8)), first)
