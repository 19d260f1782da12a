"""How well a causal generator follows actions, scored by an inverse dynamics model trained on real clips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phenaki.core.components import fingerprint
from phenaki.core.config import to_dict
from phenaki.core.errors import BadSample, PhenakiError
from phenaki.core.grid import floor_frames
from phenaki.data.batch import collate
from phenaki.data.config import DataConfig, SourceConfig
from phenaki.data.opening import open_source
from phenaki.data.sources import StreamConfig
from phenaki.evaluation.generate import Advance, Model, batches
from phenaki.evaluation.inverse_dynamics import InverseDynamics, button_rates
from phenaki.evaluation.protocol import PREPROCESSING
from phenaki.evaluation.rates import success_rate
from phenaki.media.convert import to_float
from phenaki.media.view import ClipView
from phenaki.sampling import CausalRollout

START = 9  # real frames, at most, that each video continues
HELD = 4  # latent frames for which a button is held, before another is
SECONDS = (1.0, 5.0, 30.0)  # of play after which it is measured, over half a second each way
STARTS = 20  # among which the end of a way there and back has to resemble its own most
OPPOSITES = (("left", "right"), ("forward", "backward"), ("up", "down"))
_BATCH = 10  # videos
_TRIED = 20  # samples of the data for each that is needed


def actions(
    model: Model, inverse_dynamics: InverseDynamics, uri: str, count: int, seed: int, advance: Advance
) -> dict[str, Any]:
    """Success rates of `count` videos that continue real clips while random buttons are held, one after the other.

    `real`, `reconstructed`: of each button, how often it is found in the transitions of the clips where it was pressed,
    and where it was not (`false`), in the clips and after the tokenizer. `generated`: the same after 1, 5 and 30 s of
    play. `following`: hits less false finds, mean over the buttons, relative to `real`. `pictures`: frames that pass as
    real. `there_and_back`: a button is held, then its opposite, as long as both fit in the window; how often the end
    resembles its own start most among 20.

    Raises PhenakiError for a model that takes no actions, and for data without these buttons.
    """
    components = model.components
    generator, tokenizer = components.generator, components.tokenizer
    if not generator.has_cache or generator.config.actions is None:
        raise PhenakiError("the suite 'actions' needs a causal generator with actions, and this one has none")
    columns = inverse_dynamics.check_actions(generator.config.actions)
    inverse_dynamics = inverse_dynamics.to(components.device).eval()
    samples, rng = _samples(model, uri, max(count, STARTS), seed), np.random.default_rng(seed)
    batch = collate(samples)
    video = to_float(batch["video"]).to(components.device)
    pressed = batch["actions"][:, 1:, columns].bool().flatten(0, 1)
    metrics: dict[str, Any] = {}
    for name, clips in (("real", video), ("reconstructed", tokenizer.decode(tokenizer.encode(video)))):
        scores = inverse_dynamics.score(clips)
        metrics[name] = _by_button(inverse_dynamics, pressed, scores.pressed.cpu().flatten(0, 1))
        metrics[name]["pictures"] = float((scores.real > 0).float().mean())
    metrics |= _play(model, inverse_dynamics, columns, batch, video[:count], rng, advance)
    reference = metrics["real"]["following"]
    for block in metrics["generated"].values():
        block["relative"] = block["following"] / reference if reference > 0 else float("nan")
    metrics |= _there_and_back(model, batch, video[:STARTS], rng)
    protocol = {"videos": count, "data": uri, "seed": seed, "frames": video.shape[2], "held": HELD}
    protocol |= {"size": list(tokenizer.config.image_size), "fps": tokenizer.config.fps, **PREPROCESSING}
    protocol |= {"inverse_dynamics": fingerprint(inverse_dynamics), "sampling": to_dict(model.sampling)}
    return {"protocol": protocol} | metrics


def _samples(model: Model, uri: str, count: int, seed: int) -> list[Any]:
    """Clips with captions and actions, as many frames as are continued."""
    tokenizer = model.components.tokenizer
    frames = floor_frames(START, tokenizer.patch[0])
    view = ClipView(frames, tokenizer.config.fps, tuple(tokenizer.config.image_size), random=True)
    data = DataConfig((SourceConfig(uri),), size=view.size, fps=view.fps, lengths=(frames,), seed=seed)
    source, rng, found = open_source(data.sources[0], data, True, actions=True), np.random.default_rng(seed), []
    if source.actions is None:
        raise PhenakiError(f"'{uri}' has no actions: name recordings whose dataset.json names some")
    bad = ""
    for tried, (item, _) in enumerate(source.items(StreamConfig(seed), {})):
        if len(found) == count or tried == count * _TRIED:
            break
        try:
            found.append(source.sample(item, view, rng))
        except BadSample as error:
            bad = f": {error}"
    if len(found) < count:
        raise PhenakiError(f"'{uri}' has too few usable clips of {frames} frames{bad}")
    return found


def _by_button(inverse_dynamics: InverseDynamics, pressed: Tensor, log_odds: Tensor) -> dict[str, Any]:
    """Rates of each button, of pressed bool (N, A) and log_odds (N, A), and `following`, mean hits less false finds."""
    hits, alarms = button_rates(pressed, log_odds)
    buttons = {
        name: {"rate": float(hit), "false": float(alarm), "count": int(number)}
        for name, hit, alarm, number in zip(inverse_dynamics.config.buttons, hits, alarms, pressed.sum(0), strict=True)
        if number
    }
    following = [button["rate"] - button["false"] for button in buttons.values()]
    return {"buttons": buttons, "following": float(np.mean(following)) if following else 0.0}


def _play(
    model: Model,
    inverse_dynamics: InverseDynamics,
    columns: Sequence[int],
    batch: Any,
    video: Tensor,
    rng: np.random.Generator,
    advance: Advance,
) -> dict[str, Any]:
    """`generated`, by seconds of play, from videos that continue the clips under random buttons."""
    tokenizer, spec = model.components.tokenizer, model.components.generator.config.actions
    period, fps = tokenizer.patch[0], tokenizer.config.fps
    length = -(-round((max(SECONDS) + 0.5) * fps) // period)  # latent frames
    scores, pressed = [], []
    for indices in batches(range(len(video)), _BATCH):
        held = rng.choice(columns, (len(indices), -(-length // HELD)))
        rows = torch.zeros(length, len(indices), period, len(spec))
        for latent in range(length):
            rows[latent, torch.arange(len(indices)), :, torch.from_numpy(held[:, latent // HELD])] = 1.0
        before, found = video[list(indices)][:, :, -1:], []
        captions = [batch["captions"][index] for index in indices]
        for frames in _rollout(model, video[list(indices)], captions, rows.flatten(2), rng):
            both = torch.cat((before, frames), dim=2)
            found.append(inverse_dynamics.score(both))
            before = frames[:, :, -1:]
        scores.append([torch.cat([getattr(each, name).cpu() for each in found], 1) for name in ("pressed", "real")])
        pressed.append(rows.transpose(0, 1).flatten(1, 2)[..., columns].bool())
        advance(len(indices))
    log_odds, real = (torch.cat(each) for each in zip(*scores, strict=True))
    keys, generated = torch.cat(pressed), {}
    for seconds in SECONDS:
        around = slice(max(0, round((seconds - 0.5) * fps)), round((seconds + 0.5) * fps))
        block = _by_button(inverse_dynamics, keys[:, around].flatten(0, 1), log_odds[:, around].flatten(0, 1))
        good = (real[:, around] > 0).flatten()
        block["pictures"] = success_rate(int(good.sum()), len(good), independent=len(video))
        generated[f"{seconds:g}"] = block
    return {"generated": generated}


def _there_and_back(model: Model, batch: Any, video: Tensor, rng: np.random.Generator) -> dict[str, Any]:
    """How often the end of a way there and back is nearest, in pixels, to its own start; {} without opposites."""
    generator, period = model.components.generator, model.components.tokenizer.patch[0]
    spec, each_way = generator.config.actions, (generator.config.window - 1) // 2
    pairs = [(name, name.replace(one, other)) for name in spec.names for one, other in OPPOSITES if one in name]
    pairs = [way for pair in pairs if pair[1] in spec.names for way in (pair, pair[::-1])]
    if not pairs or not each_way:
        return {}
    hits = count = 0
    for there, back in pairs:
        rows = torch.zeros(2 * each_way, len(video), period, len(spec))
        rows[:each_way, ..., spec.index(there)] = rows[each_way:, ..., spec.index(back)] = 1.0
        *_, end = _rollout(model, video, batch["captions"][: len(video)], rows.flatten(2), rng)
        distance = torch.cdist(end[:, :, -1].flatten(1), video[:, :, -1].flatten(1))
        hits += int((distance.argmin(1).cpu() == torch.arange(len(video))).sum())
        count += len(video)
    return {"there_and_back": success_rate(hits, count)}


def _rollout(
    model: Model, start: Tensor, captions: Sequence[str], rows: Tensor, rng: np.random.Generator
) -> Iterator[Tensor]:
    """The frames float (B, 3, p, H, W) of each latent frame that continues the clips, under rows (t, B, p * A)."""
    components = model.components
    seeded = torch.Generator(components.device).manual_seed(int(rng.integers(2**62)))
    rollout = CausalRollout(components, model.sampling, seeded, len(start), start)
    text = components.encode_text(list(captions), len(start))
    for row in rows:
        yield rollout.step(text, row.to(components.device))
