"""Show that a redesign of the code changed nothing in what it computes.

    PYTHONPATH=../before/src python runs/same_results.py record before.npz
    PYTHONPATH=src python runs/same_results.py record after.npz
    python runs/same_results.py compare before.npz after.npz

`record` runs the importable `phenaki` at fixed seeds on one thread, and keeps the ids that are sampled and encoded, the
pixels decoded from them, and all metrics of short trainings of every kind, with the norm of the weights they write.
`compare` prints a table, and exits with 1 if ids or counts of parameters differ, pixels, losses or weights differ by
more than 1e-5 (relative), or any is missing; a "report" is for a person to judge. Record both on one machine: another
processor rounds otherwise. Names that a redesign may change are in the first part of this file alone.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file
from torch import Tensor

import phenaki

Record = dict[str, np.ndarray]
TOLERANCE = 1e-5

# Names of the package, and what is recorded
EXAMPLES = Path(__file__).parents[1] / "examples" / "clips"
RENAMED = {"alike": "token_consistency", "restarted": "reset"}  # metrics: before -> after
NOT_RESULTS = ("step", "time", "speed/", "sentence")  # how other metrics begin
RUN = ("run.steps=20", "run.log_every=1", "run.eval_every=20", "run.device=cpu", "run.precision=float32")
OF = dict(tokenizer="discriminator.width=8", generator="--tokenizer {cvivit}/tokenizer", critic="-m {masked}/model")
# Stage, name, recipe and changes, a training a line; {name} is the folder of an earlier one.
TRAININGS = """
tokenizer cvivit cvivit_debug
tokenizer codebook cvivit_debug_codebook
tokenizer codebook_ema cvivit_debug_codebook tokenizer.quantizer.update=ema tokenizer.quantizer.init=kmeans
tokenizer lookup_free cvivit_debug tokenizer.quantizer.kind=lookup_free tokenizer.quantizer.codebook_size=512
tokenizer conv3d conv3d_debug
tokenizer more_losses cvivit_debug loss.token_consistency=0.01 loss.l1=0.5 optimizer.accumulate=2
tokenizer of_frames cvivit_debug loss.adversarial=0.1 discriminator.penalty_every=4
tokenizer of_clips conv3d_debug loss.adversarial=0.1 discriminator.input=clips
tokenizer hinge cvivit_debug loss.adversarial=0.1 discriminator.adaptive=true discriminator.loss=hinge
tokenizer cvivit_bfloat16 cvivit_debug run.precision=bfloat16
tokenizer cvivit_2_processes cvivit_debug
generator masked masked_debug
generator masked_of_conv3d masked_debug --tokenizer {conv3d}/tokenizer
generator masked_prefix masked_debug prefix.last=0.3 prefix.box=0.3 prefix.alone=0.2 loss.first_frame_weight=2
generator masked_no_text masked_debug --text-encoder none
generator masked_t5 masked_debug --text-encoder {t5}
generator masked_clip masked_debug --text-encoder {clip}
generator masked_with_critic masked_debug critic.kind=token critic.layers=1
generator masked_with_self_critic masked_debug critic.kind=self
generator masked_bfloat16 masked_debug run.precision=bfloat16
generator masked_2_processes masked_debug
generator masked_fsdp_2_processes masked_debug run.strategy=fsdp optimizer.kind=adamw
critic critic critic_debug
critic self_critic critic_debug critic.kind=self
critic critic_bfloat16 critic_debug run.precision=bfloat16
critic critic_2_processes critic_debug
"""
PLANNED = ("cvivit_debug", "cvivit_debug_codebook", "conv3d_128", "cvivit_128", "masked_debug", "base_128", "paper")
STORY = ("a large red circle moves to the right, on a navy background", "now it turns yellow", "now it moves up")
SETTINGS: dict[str, dict[str, Any]] = {  # of `generate`, for one scene
    **{order: {"order": order} for order in ("confidence", "random", "halton")},
    **{schedule: {"schedule": schedule} for schedule in ("cosine", "linear", "square", "cubic", "root")},
    "guidance 1": {"guidance_scale": 1.0},
    "negative": {"negative_prompt": "a small blue square moves down", "guidance_scale": 3.0},
    "guidance_share": {"guidance_scale": 3.0, "guidance_fraction": 0.3},
    "guidance_end": {"guidance_scale": 3.0, "guidance_scale_end": 1.0},
    "temperatures": {"temperature": 2.0, "temperature_end": 0.0, "choice_temperature": 0.0},
    **{name: {"temperature": 1.0, name: most} for name, most in (("top_k", 5), ("top_p", 0.8), ("typical_p", 0.8))},
    "all filters": {"top_k": 9, "top_p": 0.9, "typical_p": 0.9, "temperature": 1.0, "order": "halton"},
    "samples, size": {"samples": 3, "size": (48, 80)},
    **{f"{frames} frames": {"frames": frames, "prime_frames": 5} for frames in (1, 21)},
}


def edits(model: Any, clip: Tensor) -> dict[str, Callable[[], Any]]:
    """What is made of a clip float (1, 3, 21, 64, 64), one of each kind."""
    first, last, prompt = clip[:, :, :1], clip[:, :, -1:], STORY[0]
    hole = (torch.arange(64)[:, None] < 40) & (torch.arange(64) > 20)
    return {
        "start": lambda: model.generate(STORY[:2], start=first, seed=2),
        "embeddings": lambda: model.generate(model.text_encoder.encode(STORY[:2]), steps=4, seed=1),
        "extend": lambda: model.extend(clip, STORY[1:], prime_frames=5, seed=3, samples=2),
        "interpolate pictures": lambda: model.interpolate(first, last, prompt, seed=4),
        "interpolate clips": lambda: model.interpolate(clip[:, :, :5], clip[:, :, 14:], prompt, prime_frames=3, seed=5),
        "inpaint": lambda: model.inpaint(clip, hole, prompt, seed=6),
        "inpaint, blend": lambda: model.inpaint(clip[:, :, :11], hole, prompt, blend=True, seed=7, order="random"),
    }


def tokenized(name: str, tokenizer: Any, clips: Tensor) -> Record:
    """Ids and pixels of clips of 21 frames, in one shot and streamed."""
    ids = tokenizer.encode(clips)
    record = {"ids: tokenizer": ids, "pixels: tokenizer": tokenizer.decode(ids)}
    record["ids: stream"] = torch.cat(list(tokenizer.encode_stream(clips.split((3, 1, 4, 13), 2))), 1)
    record["pixels: stream"] = torch.cat(list(tokenizer.decode_stream(ids.split((1, 2, 8), 1))), 2)
    return {f"{what} {name}": value.numpy() for what, value in record.items()}


def sampled() -> Record:
    """What the released model makes: the story of the demo, with all settings, and edits; and its tokenizer."""
    model, clips = phenaki.Phenaki.from_pretrained("shapes-64", device="cpu"), moving_disc(64)
    record = generated("demo", model, partial(model.generate, STORY))
    for name, settings in SETTINGS.items():
        record |= generated(name, model, partial(model.generate, STORY[0], steps=6, seed=1, **settings))
    for name, edit in edits(model, clips[:1]).items():
        record |= generated(name, model, edit)
    return record | tokenized("shapes-64", model.tokenizer, clips)


def generated(name: str, model: Any, make: Callable[[], Any]) -> Record:
    """The ids, of all windows, that a model has its tokenizer decode while it makes something, and the video."""
    print(name, flush=True)
    windows: list[Tensor] = []
    decode = model.tokenizer.decode
    model.tokenizer.decode = lambda ids, *more, **named: (windows.append(ids.clone()), decode(ids, *more, **named))[1]
    video = make().video
    del model.tokenizer.decode
    return {f"ids: {name}": torch.cat(windows, 1).numpy(), f"pixels: {name}": video.numpy()}


def moving_disc(size: int) -> Tensor:
    """Two clips float (2, 3, 21, size, size) of a disc that moves, and in the second grows, with a little noise."""
    y, x = torch.meshgrid(*[torch.linspace(0, 1, size)] * 2, indexing="ij")
    now, growth = torch.linspace(0, 1, 21).view(1, 1, 21, 1, 1), torch.tensor([0, 0.2]).view(2, 1, 1, 1, 1)
    inside = (x - 0.2 - 0.6 * now) ** 2 + (y - 0.5) ** 2 < (0.15 + growth * now) ** 2
    disc, ground = torch.tensor([[0.9, 0.2, 0.2], [0.1, 0.1, 0.4]]).view(2, 3, 1, 1, 1)
    noise = torch.rand(2, 3, 21, size, size, generator=torch.Generator().manual_seed(0))
    return torch.where(inside, disc, ground) * 0.98 + 0.02 * noise


def trained(folder: Path) -> Record:
    """The metrics of all trainings, the norm of all weights that each writes, and what models of them make."""
    folders, record = tiny_text_encoders(folder), {}
    for stage, name, recipe, *changes in map(str.split, TRAININGS.strip().splitlines()):
        print("training", name, flush=True)
        folders[name] = run = folder / name
        options = [change.format_map(folders) for change in (*OF[stage].split(), *RUN, *changes)]
        processes = 1 + name.endswith("2_processes")
        command_line("train", stage, "--recipe", recipe, "--out", run, *options, processes=processes)
        values = defaultdict(list)
        for line in (run / "metrics.jsonl").read_text().splitlines():
            for metric, value in json.loads(line).items():
                values[f"losses: {name}: {metric}"] += [value] if not metric.startswith(NOT_RESULTS) else []
        record |= {metric: np.array(found) for metric, found in values.items() if found}
        weights = [weight for file in run.rglob("*.safetensors") for weight in load_file(file).values()]
        record[f"weights: {name}"] = np.sqrt(sum(sorted(np.square(weight, dtype=float).sum() for weight in weights)))
        if stage == "tokenizer":
            record |= tokenized(name, phenaki.load(run / "tokenizer", device="cpu"), moving_disc(32))
            continue
        model = phenaki.load(run / "model", device="cpu")
        for order in ("confidence", "critic") if "critic" in name else ("confidence",):
            generate = partial(model.generate, STORY[:2], order=order, samples=2)
            record |= generated(f"{name}, {order}", model, generate)
    return record


def tiny_text_encoders(folder: Path) -> dict[str, Path]:
    """A T5 and a CLIP with random weights, that read bytes."""
    torch.manual_seed(0)
    t5 = transformers.T5Config(vocab_size=384, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 32}
    text, picture = sizes | {"vocab_size": 384, "eos_token_id": 1}, sizes | {"image_size": 8, "patch_size": 4}
    clip = transformers.CLIPConfig(text_config=text, vision_config=picture, projection_dim=32)
    networks = {"t5": transformers.T5ForConditionalGeneration(t5), "clip": transformers.CLIPModel(clip)}
    for name, network in networks.items():
        network.save_pretrained(folder / name)
        transformers.ByT5Tokenizer().save_pretrained(folder / name)
    return {name: folder / name for name in networks}


def reported(folder: Path) -> Record:
    """How well the released tokenizer gives back the clips of the examples, and what `plan` says of some recipes."""
    command_line("reconstruct", EXAMPLES, "--model=shapes-64", f"--out={folder}/back")
    mean = json.loads((folder / "back" / "metrics.json").read_text())["mean"]
    record = {f"losses: reconstruct: {name}": np.array(mean[name]) for name in ("frames", "psnr", "ssim")}
    for recipe in PLANNED:
        lines = command_line("plan", recipe)
        parameters = int(re.search(r"parameters +([\d,]+)", lines)[1].replace(",", ""))
        record |= {f"parameters: {recipe}": np.array(parameters), f"report: plan {recipe}": np.array(lines)}
    return record


def command_line(*arguments: object, processes: int = 1) -> str:
    """What `phenaki` with these arguments prints."""
    many = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}") if processes > 1 else ()
    command = [sys.executable, *many, "-m", "phenaki", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def compare(before: Record, after: Record) -> bool:
    """Print how far two records agree. Returns whether they do."""
    there = {name: re.sub(r"\S+$", lambda end: RENAMED.get(end[0], end[0]), name) for name in before}
    found = {name: compare_values(name, old, after.get(there[name])) for name, old in before.items()}
    found |= {name: ("new", True) for name in sorted(set(after) - set(there.values()))}
    print(*(f"{name:{max(map(len, found))}}  {result}" for name, (result, _) in found.items()), sep="\n")
    unequal = [name for name, (_, same) in found.items() if not same and not name.startswith("report")]
    print(f"{len(found)} results, {len(unequal)} not the same", *unequal, sep="\n  ")
    return not unequal


def compare_values(name: str, old: np.ndarray, new: np.ndarray | None) -> tuple[str, bool]:
    """How two values compare, in words, and whether they count as the same."""
    if new is None or old.shape != new.shape or old.dtype.kind != new.dtype.kind:
        return ("missing" if new is None else f"{old.dtype} {old.shape} is now {new.dtype} {new.shape}"), False
    if np.array_equal(old, new, equal_nan=old.dtype.kind == "f"):
        return "equal", True
    if old.dtype.kind != "f":
        return f"{np.mean(old != new):.2%} differ", False
    scale = np.abs(old).max() if name.startswith("pixels") else np.maximum(np.abs(old), np.abs(new)).clip(1e-30)
    difference = float((np.abs(old - new) / scale).max())
    return f"differs by {difference:.1e}", difference <= TOLERANCE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("record", "compare"))
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE.npz")
    arguments = parser.parse_args()
    if arguments.command == "compare":
        sys.exit(not compare(*(dict(np.load(file)) for file in arguments.files)))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        record = sampled() | trained(Path(folder)) | reported(Path(folder))
    record["report: machine"] = np.array(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}")
    np.savez_compressed(arguments.files[0], **record)
    print(f"{len(record)} results of {phenaki.__path__[0]} in {arguments.files[0]}")


if __name__ == "__main__":
    main()
