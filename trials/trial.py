"""One trial of a tokenizer on Doom: the same data, clips of the test list and seconds of one core as all others.

    python trials/trial.py NAME '{"size": "64x48", "patch": [2, 8, 8], ...}'

The budget is CPU time of the process, so that a busy machine changes nothing; a killed trial goes on from its last
checkpoint. Appends a line to TRIALS.md and writes originals beside reconstructions to checkpoints/trials/NAME.png.
"""

import json
import math
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from phenaki.nn.convolution import depth_to_space
from phenaki.nn.past import begins
from phenaki.nn.transformer import initialize
from phenaki.precision import autocast
from phenaki.tokenizer import CViViTConfig, Conv3DConfig, QuantizerConfig, build_tokenizer, code_usage
from phenaki.tokenizer.conv3d import Conv3D
from phenaki.tokenizer.cvivit import CViViT
from phenaki.tokenizer.discriminator import Discriminator, DiscriminatorConfig, adversarial_loss, discriminator_loss
from phenaki.train.optim import OptimizerConfig, Optimizers, averaged

torch.set_num_threads(1)
HERE = Path(__file__).parent
DEFAULT = {
    "size": "64x48",
    "patch": [2, 8, 8],
    "kind": "cvivit",  # or conv3d, stem: C-ViViT between convolutions of single frames
    "width": 128,
    "layers": [2, 2],  # spatial, temporal
    "hidden": 512,
    "levels": [8, 8, 8, 8],
    "channels": [32, 64],  # of the stem, at a half and a quarter of the rows and columns
    "blocks": 1,
    "fine": 0,  # channels at the full size, in the decoder
    "l2": 1.0,
    "l1": 0.0,
    "gradient": 0.0,  # L1 of the differences of neighbouring pixels
    "spectral": 0.0,  # L1 of the amplitudes of the Fourier transforms of 8 x 8 windows
    "adversarial": 0.0,
    "adversarial_start": 0.5,  # of the budget
    "first": 0.15,  # weight of the first frame in pixel losses
    "batch": 6,
    "frames": 11,
    "lr": 2e-3,
    "clip": 0.03,
    "rooms": 0.5,  # probability of a clip of the rooms; the others are of Freedoom's levels
    "minutes": 18.0,
    "seed": 0,
}


class ConvStem(CViViT):
    """C-ViViT whose patches are cut from features that convolutions made of single frames, and drawn by such."""

    def __init__(self, config: CViViTConfig, channels: tuple[int, int], blocks: int, fine: int):
        super().__init__(config)
        half, quarter = channels
        p, ph, pw = config.patch
        assert ph % 4 == 0 and pw % 4 == 0
        self.cell = (ph // 4, pw // 4)
        inside = quarter * self.cell[0] * self.cell[1]
        self.embed_first = nn.Linear(inside, config.width)
        self.embed_rest = nn.Linear(p * inside, config.width)
        self.pixels_first = nn.Linear(config.width, inside)
        self.pixels_rest = nn.Linear(config.width, p * inside)
        self.down = nn.Sequential(
            nn.Conv2d(3, half, 4, 2, 1), *(Residual(half) for _ in range(blocks)),
            nn.Conv2d(half, quarter, 4, 2, 1), *(Residual(quarter) for _ in range(blocks)),
        )
        last = [nn.PixelShuffle(2)]
        self.up = nn.Sequential(
            *(Residual(quarter) for _ in range(blocks)),
            nn.Conv2d(quarter, 4 * half, 1), nn.PixelShuffle(2),
            *(Residual(half) for _ in range(blocks)),
            *([nn.Conv2d(half, 4 * fine, 1), nn.PixelShuffle(2), Residual(fine), nn.Conv2d(fine, 3, 3, 1, 1)] if fine
              else [Norm(half), nn.SiLU(), nn.Conv2d(half, 12, 3, 1, 1), nn.PixelShuffle(2)]),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
                nn.init.zeros_(module.bias)
            if isinstance(module, Residual):
                with torch.no_grad():
                    module.second.weight.div_((2 * 2 * blocks) ** 0.5)
        for linear in (self.embed_first, self.embed_rest, self.pixels_first, self.pixels_rest):
            nn.init.trunc_normal_(linear.weight, std=linear.in_features ** -0.5)
            nn.init.zeros_(linear.bias)

    @property
    def last_layer(self):
        return [[m for m in self.up if isinstance(m, nn.Conv2d)][-1].weight]

    def _embed(self, video, first):
        B, _, T = video.shape[:3]
        x = video.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        x = self.down(x).unflatten(0, (B, T)).transpose(1, 2)  # (B, C, T, H/4, W/4)
        head, tail = x.tensor_split([int(first)], dim=2)
        out = []
        if head.shape[2]:
            out.append(self.embed_first(cut(head, (1, *self.cell))))
        if tail.shape[2]:
            out.append(self.embed_rest(cut(tail, (self.patch[0], *self.cell))))
        return torch.cat(out, 1)

    def _pixels(self, x, first):
        head, tail = x.tensor_split([int(first)], dim=1)
        out = []
        if head.shape[1]:
            out.append(depth_to_space(self.pixels_first(head), (1, *self.cell)))
        if tail.shape[1]:
            out.append(depth_to_space(self.pixels_rest(tail), (self.patch[0], *self.cell)))
        x = torch.cat(out, 1)  # (B, T, H/4, W/4, C)
        B, T = x.shape[:2]
        y = self.up(x.flatten(0, 1).permute(0, 3, 1, 2))
        return y.unflatten(0, (B, T)).transpose(1, 2)


def cut(x: Tensor, patch):
    p, ph, pw = patch
    B, C, T, H, W = x.shape
    x = x.reshape(B, C, T // p, p, H // ph, ph, W // pw, pw)
    return x.permute(0, 2, 4, 6, 3, 5, 7, 1).flatten(4)


class Norm(nn.Module):
    """Layer norm over the channels of (N, C, H, W)."""

    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width, bias=False)

    def forward(self, x):
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = Norm(width)
        self.first = nn.Conv2d(width, width, 3, 1, 1)
        self.second = nn.Conv2d(width, width, 3, 1, 1)

    def forward(self, x):
        return x + self.second(F.silu(self.first(F.silu(self.norm(x)))))


def build(c):
    width, height = map(int, c["size"].split("x"))
    quantizer = QuantizerConfig(kind="fsq", levels=tuple(c["levels"]))
    if c["kind"] == "conv3d":
        return build_tokenizer(Conv3DConfig((height, width), 8.75, tuple(c["widths"]), tuple(c["conv_blocks"]), quantizer))
    spatial, temporal = c["layers"]
    frames = 1 + (c["frames"] - 1) // c["patch"][0]
    config = CViViTConfig((height, width), 8.75, tuple(c["patch"]), c["width"], spatial, temporal, pixel_hidden=c["hidden"],
                          window=frames, quantizer=quantizer)
    if c["kind"] == "stem":
        return ConvStem(replace(config, pixel_hidden=0), c["channels"], c["blocks"], c["fine"])
    return build_tokenizer(config)


class Clips:
    def __init__(self, c):
        self.parts, self.frames = [], c["frames"]
        for split in ("train_rooms", "train_levels"):
            starts = json.loads((HERE / f"data/{split}.json").read_text())["starts"]
            video = np.load(HERE / f"data/{split}_{c['size']}.npy", mmap_mode="r")
            valid = np.concatenate([np.arange(a, b - c["frames"] + 1) for a, b in zip(starts[:-1], starts[1:])])
            self.parts.append((video, valid))
        self.rooms = c["rooms"]

    def batch(self, count, rng):
        clips = []
        for _ in range(count):
            video, valid = self.parts[0 if rng.random() < self.rooms else 1]
            start = valid[rng.integers(len(valid))]
            clips.append(video[start : start + self.frames])
        return to_float(np.stack(clips))


def to_float(clips):
    return torch.from_numpy(np.ascontiguousarray(clips)).permute(0, 4, 1, 2, 3).float() / 255


def weigh(error, first):
    return torch.lerp(error[:, :, 1:].mean(), error[:, :, :1].mean(), first)


def losses(made, video, c):
    made = made.float()
    error, out = made - video, {}
    if c["l2"]:
        out["l2"] = c["l2"] * weigh(error.square(), c["first"])
    if c["l1"]:
        out["l1"] = c["l1"] * weigh(error.abs(), c["first"])
    if c["gradient"]:
        d = error.diff(dim=3).abs().mean() + error.diff(dim=4).abs().mean()
        out["gradient"] = c["gradient"] * d
    if c["spectral"]:
        out["spectral"] = c["spectral"] * (amplitudes(made) - amplitudes(video)).abs().mean()
    return out


def amplitudes(video):
    """Of the Fourier transform of windows of 8 x 8 pixels, 4 apart: what there is of each frequency, wherever its phase."""
    x = video.transpose(1, 2).flatten(0, 1)
    x = x.unfold(2, 8, 4).unfold(3, 8, 4)
    window = torch.hann_window(8, periodic=False)
    return (torch.fft.rfft2(x * window * window[:, None]).abs().square() + 1e-6).sqrt()


@torch.no_grad()
def evaluate(tokenizer, c):
    index = json.loads((HERE / "data/test.json").read_text())
    video = np.load(HERE / f"data/unseen_{c['size']}.npy", mmap_mode="r")
    result, ids, made_all, real_all = {}, [], [], []
    for name in ("near_walls", "anywhere"):
        real = to_float(np.stack([video[s : s + 11] for s in index[name]]))
        made = []
        for part in real.split(8):
            with autocast(part.device):
                out = tokenizer(part[:, :, : c["frames"]])
            made.append(out.video.float().clamp(0, 1))
            ids.append(out.quantized.ids)
        made = torch.cat(made)
        real = real[:, :, : c["frames"]]
        made_all.append(made), real_all.append(real)
        error = (made - real).square()
        clip = -10 * error.mean((1, 2, 3, 4)).log10()
        result[f"psnr_{name}"] = clip.mean().item()
        result[f"energy_{name}"] = energy(made) / energy(real)
    real, made = torch.cat(real_all), torch.cat(made_all)
    error = (made - real).square()
    result["psnr"] = (-10 * error.mean((1, 2, 3, 4)).log10()).mean().item()
    result["psnr_first"] = (-10 * error[:, :, :1].mean((1, 2, 3, 4)).log10()).mean().item()
    result["psnr_rest"] = (-10 * error[:, :, 1:].mean((1, 2, 3, 4)).log10()).mean().item()
    result["energy"] = energy(made) / energy(real)
    ph, pw = tokenizer.patch[1:]
    result["blocks"] = border(made, ph, pw) / border(real, ph, pw)
    flat = torch.cat([i.flatten() for i in ids])
    if tokenizer.vocab_size <= 1 << 18:
        result["perplexity"], result["used"] = code_usage(flat[None, None, None], tokenizer.vocab_size)
    else:  # nobody counts so many: the fraction of the test clips' ids that are different ones
        probabilities = flat.unique(return_counts=True)[1].double() / len(flat)
        result["perplexity"] = (-(probabilities * probabilities.log()).sum()).exp().item()
        result["used"] = len(probabilities) / len(flat)
    rows = []
    for k in (0, 3, 9, 15, 33, 37, 43, 51):
        for x in (real[k], made[k]):
            rows.append((x.permute(1, 2, 3, 0) * 255).round().byte().numpy()[[0, 1, 2, 5, 6, 10] if c["frames"] > 10 else [0, 1, 2, 3, 4, 5]])
    sheet = np.concatenate([np.concatenate(list(row), 1) for row in rows], 0)
    return result, sheet


def energy(x):
    return (x.diff(dim=3).square().mean() + x.diff(dim=4).square().mean()).item()


def border(x, ph, pw):
    """Squared differences across patch borders, relative to those inside."""
    dy, dx = x.diff(dim=3).square().mean((0, 1, 2, 4)), x.diff(dim=4).square().mean((0, 1, 2, 3))
    by, bx = torch.arange(len(dy)) % ph == ph - 1, torch.arange(len(dx)) % pw == pw - 1
    return ((dy[by].mean() + dx[bx].mean()) / (dy[~by].mean() + dx[~bx].mean())).item()


@torch.no_grad()
def decode_ms(tokenizer, c):
    """Milliseconds of one thread for a latent frame in a stream: the least of many."""
    width, height = map(int, c["size"].split("x"))
    h, w = height // tokenizer.patch[1], width // tokenizer.patch[2]
    decoder, best = tokenizer.decoder(), math.inf
    for _ in range(40):
        ids = torch.randint(tokenizer.vocab_size, (1, 1, h, w))
        t = time.perf_counter()
        decoder.push(ids)
        best = min(best, time.perf_counter() - t) if _ > 2 else best
    return best * 1000


def main(name, overrides):
    c = DEFAULT | overrides
    assert not set(overrides) - set(DEFAULT) - {"widths", "conv_blocks"}, overrides
    folder = HERE.parent / "checkpoints/trials"
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / f"{name}.json").exists():
        return
    torch.manual_seed(c["seed"])
    tokenizer = build(c)
    adversary = None
    optimizer = OptimizerConfig(kind="muon", lr=c["lr"], warmup_steps=100, cooldown_share=0.5, clip=c["clip"], ema_decay=0.998)
    optimizers = Optimizers([tokenizer], optimizer, 10**9)
    ema = averaged(tokenizer, 0.998)
    if c["adversarial"]:
        adversary = Discriminator(DiscriminatorConfig(sees="frames", width=16, blocks=4, loss="hinge"))
        adversary_optimizer = torch.optim.AdamW(adversary.parameters(), 5e-4, betas=(0.5, 0.99))
    data, budget, spent, step = Clips(c), c["minutes"] * 60, 0.0, 0
    path = folder / f"{name}.pt"
    if path.exists():
        state = torch.load(path, weights_only=False)
        tokenizer.load_state_dict(state["tokenizer"]), ema.load_state_dict(state["ema"]), optimizers.load_state_dict(state["optimizers"])
        spent, step = state["spent"], state["step"]
        if adversary:
            adversary.load_state_dict(state["adversary"]), adversary_optimizer.load_state_dict(state["adversary_optimizer"])

    def save():
        state = {"tokenizer": tokenizer.state_dict(), "ema": ema.state_dict(), "optimizers": optimizers.state_dict(), "spent": spent, "step": step, "config": c}
        if adversary:
            state |= {"adversary": adversary.state_dict(), "adversary_optimizer": adversary_optimizer.state_dict()}
        torch.save(state, path.with_suffix(".tmp")), path.with_suffix(".tmp").rename(path)

    tally, mark, saved = {}, time.process_time(), time.monotonic()
    while spent < budget:
        rng = np.random.default_rng([c["seed"], step])
        video = data.batch(c["batch"], rng)
        progress = spent / budget
        optimizers.steps = max(step + 1, round((step + 1) / max(progress, 1e-3)))
        with autocast(video.device):
            out = tokenizer(video)
        terms = losses(out.video, video, c)
        listening = adversary is not None and progress > c["adversarial_start"]
        if listening:
            seen = torch.from_numpy(rng.permutation(video.shape[2])[:3])
            adversary.requires_grad_(False)
            with autocast(video.device):
                scores = adversary(out.video[:, :, seen])
            adversary.requires_grad_(True)
            terms["adversarial"] = c["adversarial"] * adversarial_loss(scores, "hinge")
        sum(terms.values()).backward()
        norm = optimizers.update(step)
        ema.update_parameters(tokenizer)
        if listening:
            with autocast(video.device):
                loss = discriminator_loss(adversary(video[:, :, seen]), adversary(out.video[:, :, seen].detach().float().clamp(0, 1)), "hinge")
            adversary_optimizer.zero_grad(), loss.backward(), adversary_optimizer.step()
            terms["discriminator"] = loss
        step += 1
        now = time.process_time()
        spent, mark = spent + now - mark, now
        terms["psnr"] = -10 * (out.video.detach().float() - video).square().mean().log10()
        for key, value in (terms | {"norm": torch.tensor(norm)}).items():
            tally[key] = 0.95 * tally.get(key, float(value.detach())) + 0.05 * float(value.detach())
        if step % 50 == 0:
            print(f"{name} step {step} cpu {spent / 60:.1f} min", " ".join(f"{k} {v:.4g}" for k, v in tally.items()), flush=True)
        if time.monotonic() - saved > 240:
            save()
            saved = time.monotonic()
    save()
    network = ema.module.eval()
    result, sheet = evaluate(network, c)
    try:
        result["decode_ms"] = decode_ms(network, c)
    except Exception as error:  # a trial network without a stream
        print(error)
        result["decode_ms"] = math.nan
    result |= {"steps": step, "minutes": spent / 60, "parameters": sum(p.numel() for p in network.parameters())}
    (folder / f"{name}.json").write_text(json.dumps(c | {"result": result}, indent=1))
    Image.fromarray(sheet).resize((sheet.shape[1] * 2, sheet.shape[0] * 2), Image.NEAREST).save(folder / f"{name}.png")
    r = result
    line = (
        f"| {time.strftime('%m-%d %H:%M', time.gmtime())} | {name} | {json.dumps(overrides)[1:-1]} | {step} | {spent / 60:.0f} | {r['psnr']:.2f} | "
        f"{r['psnr_near_walls']:.2f} | {r['psnr_anywhere']:.2f} | {r['psnr_first']:.2f} | {r['psnr_rest']:.2f} | {r['energy']:.2f} | {r['energy_near_walls']:.2f} | "
        f"{r['blocks']:.2f} | {r['used']:.2f} | {r['perplexity']:.0f} | {r['parameters'] / 1e6:.1f} | {r['decode_ms']:.1f} |"
    )
    with open(HERE.parent / "TRIALS.md", "a") as file:
        file.write(line + "\n")
    print(line, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]) if len(sys.argv) > 2 else {})
