"""The card of a complete model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from phenaki.core.card import component_table, metadata, with_metadata
from phenaki.generators import Components
from phenaki.pipeline.domain import Domain

_METRICS = {
    ("reconstruction", "psnr"): ("psnr", "PSNR of reconstructions, dB"),
    ("reconstruction", "ssim"): ("ssim", "SSIM of reconstructions"),
    ("prompts", "one_object", "rate"): ("accuracy", "prompts satisfied, one object"),
    ("prompts", "held_out_pairs", "rate"): ("accuracy", "prompts satisfied, held-out pairs"),
    ("prompts", "two_objects", "rate"): ("accuracy", "prompts satisfied, two objects"),
    ("stories", "scenes", "rate"): ("accuracy", "scenes of stories satisfied"),
}
"""In metrics.json: the hub's type of metric, and its name."""


def model_card(name: str, components: Components, domain: Domain) -> str:
    """README.md of a model, with the hub's metadata."""
    subject = f"Text to video: {domain.subject}." if domain.subject else "Text to video."
    prompt = domain.prompts[0] if domain.prompts else "a prompt"
    spec = components.generator.config.tokenizer
    height, width = spec.image_size
    size = f"Clips of {components.generator.config.frames} frames, {width}x{height} pixels, {spec.fps:g} per second."
    call = f'model = phenaki.load("{name}")\nmodel.generate({prompt!r}).save("video.mp4")'
    code = f"```python\nimport phenaki\n\n{call}\n```"
    sections = [f"# {name}", f"{subject} {size}", code, component_table(components.networks)]
    if domain.prompts:
        sections.append("Prompts:\n\n" + "\n".join(f"- {prompt}" for prompt in domain.prompts) + "\n")
    return with_metadata("\n\n".join(sections), model_metadata(domain))


def model_metadata(domain: Domain, name: str = "", metrics: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What the hub reads of a card; with `metrics`, those of metrics.json."""
    values = metadata(["text-to-video"], domain.license, "text-to-video")
    return values | ({"model-index": [_index(name, metrics)]} if metrics else {})


def _index(name: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    results = []
    for (suite, *path), (kind, label) in _METRICS.items():
        block = _section(metrics, suite)
        protocol, found = _section(block, "protocol"), _section(block, *path[:-1]).get(path[-1])
        data = str(protocol.get("world") or protocol.get("data") or "own data")
        if isinstance(found, float) or (type(found) is int and abs(found) < 10**9):
            metric = {"type": kind, "name": label, "value": round(float(found), 4)}
            task, source = {"type": "text-to-video"}, {"type": data, "name": data}
            results.append({"task": task, "dataset": source, "metrics": [metric]})
    return {"name": name, "results": results}


def _section(values: Any, *keys: str) -> Mapping[str, Any]:
    """Within nested sections; an empty one where there is something else, as a file of others may hold anything."""
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values if isinstance(values, Mapping) else {}


def model_summary(components: Components) -> bytes:
    """The config.json on top of a repository, by which the hub counts downloads; nothing of ours reads it."""
    classes = [type(network).__name__ for network in components.networks.values()]
    return f"{json.dumps({'library_name': 'phenaki', 'architectures': classes}, indent=2)}\n".encode()
