"""Sampling settings by flat names."""

from dataclasses import fields
from typing import Any

from phenaki.sampling import DecodingConfig, GuidanceConfig, RolloutConfig, SamplingConfig


def sampling_config(**options: Any) -> SamplingConfig:
    """Settings by the names of their fields, those of guidance with `guidance_` before them: `steps`,
    `guidance_scale`, `prime_frames`; `negative_prompt` is written without."""
    guidance = {"negative_prompt": options.pop("negative_prompt", None)}
    guidance |= {
        name: options.pop(f"guidance_{name}")
        for name in ("scale", "scale_end", "fraction", "over")
        if f"guidance_{name}" in options
    }
    rollout = {field.name: options.pop(field.name) for field in fields(RolloutConfig) if field.name in options}
    return SamplingConfig(DecodingConfig(**options), GuidanceConfig(**guidance), RolloutConfig(**rollout))
