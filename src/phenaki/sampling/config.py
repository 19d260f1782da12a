"""Settings of sampling: decoding, guidance and rollout. docs/sampling.md says what each does to the videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, replace
from typing import TypedDict, get_args

from phenaki.core.config import bounded, configclass, from_dict, to_dict
from phenaki.core.errors import PhenakiError, did_you_mean
from phenaki.generators.base import Over
from phenaki.generators.masking import Schedule
from phenaki.sampling.orders import Order


@configclass
class DecodingConfig:
    """How ids are filled in.

    `steps`: decoding steps of a clip, or of a latent frame of a causal generator. `schedule`: how many ids stay masked
    after each. `order`: which ids are kept first: "confidence" (the most likely), "random", "halton" (evenly spread
    over the grid), or "critic" (all ids are scored again after each step, earlier ones too).

    `temperature` divides the logits (0: the most likely id) and moves linearly to `temperature_end` in the last step.
    `choice_temperature` scales the Gumbel noise on the confidence or the critic's score, and decays to 0 over the
    steps. `top_k` (0: all), `top_p` and `typical_p` (1: all) restrict what is sampled; the confidence of the result is
    that under the full distribution.
    """

    steps: int = bounded(12, at_least=1, at_most=1000)
    schedule: Schedule = "cosine"
    order: Order = "confidence"
    temperature: float = bounded(1.0, at_least=0)
    temperature_end: float | None = bounded(None, at_least=0)
    choice_temperature: float = bounded(4.5, at_least=0)
    top_k: int = bounded(0, at_least=0)
    top_p: float = bounded(1.0, above=0, at_most=1)
    typical_p: float = bounded(1.0, above=0, at_most=1)

    def __post_init__(self) -> None:
        _check_name("schedule", self.schedule, get_args(Schedule))
        _check_name("order", self.order, get_args(Order))

    @property
    def temperatures(self) -> list[float]:
        """One for each step."""
        return _interpolate(self.temperature, self.temperature_end, self.steps)

    def check_critic(self, has_critic: bool) -> None:
        """Raise PhenakiError for the order "critic" without one."""
        if self.order == "critic" and not has_critic:
            others = ", ".join(order for order in get_args(Order) if order != "critic")
            raise PhenakiError(
                f"the order 'critic' needs a critic, which this model does not have: use one of {others}, or train a "
                "critic (`phenaki train critic --help`)"
            )


@configclass
class GuidanceConfig:
    """Classifier-free guidance (2207.12598).

    `scale`: guidance scale, 1 is the plain conditional model; it moves linearly to `scale_end` in the last guided step.
    `over`: what the second branch does not see, and guidance amplifies: "text", "actions" (keys are followed more
    closely), or "both".
    `fraction`: of the steps, from the first on, that are guided (rounded, at least one); the others run without the
    second branch, at half the cost. `negative_prompt`: steered away from, in place of the empty prompt.
    """

    scale: float = bounded(3.0, at_least=0, at_most=1000)
    scale_end: float | None = bounded(None, at_least=0, at_most=1000)
    fraction: float = bounded(1.0, above=0, at_most=1)
    negative_prompt: str | None = None
    over: Over = "text"

    def __post_init__(self) -> None:
        _check_name("over", self.over, get_args(Over))
        if self.negative_prompt is not None and self.over == "actions":
            raise PhenakiError(
                f"the negative prompt {self.negative_prompt!r} has no effect in guidance over actions: take it over "
                "'text' or 'both'"
            )
        if self.scale_end in (None, self.scale):
            self.check_negative([self.scale])

    def check_actions(self, takes_actions: bool) -> None:
        """Raise PhenakiError for guidance over actions without a model that is steered by them."""
        if self.over != "text" and not takes_actions:
            raise PhenakiError(f"guidance_over '{self.over}' needs a causal model that takes actions: use 'text'")

    def check_negative(self, scales: Sequence[float]) -> None:
        """Raise PhenakiError for a negative prompt at scales of 1 alone."""
        if self.negative_prompt is not None and all(scale == 1 for scale in scales):
            raise PhenakiError(
                f"the negative prompt {self.negative_prompt!r} has no effect at guidance scale 1: use a scale above 1"
            )

    @property
    def uses_cfg(self) -> bool:
        """Whether any step needs the second branch."""
        return self.scale != 1 or self.scale_end not in (None, 1)

    def scales(self, steps: int) -> list[float]:
        """The guidance scale of each step."""
        count = max(1, round(self.fraction * steps))
        return _interpolate(self.scale, self.scale_end, count) + [1.0] * (steps - count)


@configclass
class RolloutConfig:
    """How a video grows beyond one clip.

    `scene_frames`: of a scene, where a call does not say; None: as many as the longest training clip. `prime_frames`:
    how many of the last frames the next clip is conditioned on (the paper's K). `first_frame_alone`: the first frame is
    decoded as an image, and the rest of the first clip continues it: a sixth of the ids of 11 frames, on which all
    others depend. It takes `first_frame_steps` (0: as many as a clip), all guided. A causal generator decodes latent
    frame by latent frame, and continues what its window holds. `recompute`: a new prompt computes the keys and values
    of the window again, as if all of it had been generated under that prompt.
    """

    scene_frames: int | None = bounded(None, at_least=1, at_most=1_000_000)
    prime_frames: int = bounded(5, at_least=1)
    first_frame_alone: bool = False
    first_frame_steps: int = bounded(0, at_least=0, at_most=1000)
    recompute: bool = False


class SamplingOptions(TypedDict, total=False):
    """Settings that a call may change; None keeps the model's. `steps` alone also sets `first_frame_steps`."""

    steps: int | None
    schedule: Schedule | None
    order: Order | None
    temperature: float | None
    temperature_end: float | None
    choice_temperature: float | None
    top_k: int | None
    top_p: float | None
    typical_p: float | None
    guidance_scale: float | None
    guidance_scale_end: float | None
    guidance_fraction: float | None
    guidance_over: Over | None
    negative_prompt: str | None
    prime_frames: int | None
    first_frame_steps: int | None


_FIELDS = {
    "guidance_scale": ("guidance", "scale"),
    "guidance_scale_end": ("guidance", "scale_end"),
    "guidance_fraction": ("guidance", "fraction"),
    "guidance_over": ("guidance", "over"),
    "negative_prompt": ("guidance", "negative_prompt"),
    "prime_frames": ("rollout", "prime_frames"),
    "first_frame_steps": ("rollout", "first_frame_steps"),
}
"""Where an option lies in `SamplingConfig`; the others are of `decoding`."""


@configclass
class SamplingConfig:
    """All settings of sampling, as a model keeps them in model.json."""

    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)

    def with_options(self, options: SamplingOptions) -> SamplingConfig:
        """A copy with the options of a call. Raises PhenakiError for unknown names, wrong types and numbers out of
        bounds, by the name of the option, and for a negative prompt without effect."""
        unknown = [name for name in options if name not in SamplingOptions.__annotations__]
        if unknown:
            nearest = did_you_mean(unknown[0], SamplingOptions.__annotations__)
            raise PhenakiError(f"there is no sampling option '{unknown[0]}'.{nearest}")
        options = {name: value for name, value in options.items() if value is not None}
        if "steps" in options:
            options = {"first_frame_steps": 0} | options
        values, names = to_dict(self), {}
        for name, value in options.items():
            section, key = _FIELDS.get(name, ("decoding", name))
            values[section][key] = value
            names[f"{section}.{key}"] = name
        try:
            sampling = from_dict(SamplingConfig, values)
        except PhenakiError as error:
            field, _, sentence = str(error).partition(" ")
            raise PhenakiError(f"{names.get(field, field)} {sentence}") from error
        steps = max(sampling.decoding.steps, sampling.rollout.first_frame_steps)
        sampling.guidance.check_negative(sampling.guidance.scales(steps))
        return sampling

    def of_first_frame(self) -> SamplingConfig:
        """The settings with which a first frame is decoded as an image."""
        steps = self.rollout.first_frame_steps or self.decoding.steps
        return replace(
            self, decoding=replace(self.decoding, steps=steps), guidance=replace(self.guidance, fraction=1.0)
        )


def _check_name(field: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise PhenakiError(f"{field} {value!r}: there are {', '.join(known)}.{did_you_mean(str(value), known)}")


def _interpolate(start: float, end: float | None, steps: int) -> list[float]:
    """A value for each step, linearly from `start` in the first to `end` in the last; None: `start` in all."""
    if end is None or steps == 1:
        return [start] * steps
    return [start * (1 - i / (steps - 1)) + end * (i / (steps - 1)) for i in range(steps)]
