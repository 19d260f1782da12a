"""A whole model, text in and video out: tokenizer, generator and text encoder, as one folder holds them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor, nn

import phenaki.compat  # noqa: F401, registers its types, as the imports below register theirs
from phenaki import __version__
from phenaki.conditioning import GivenText, Text, TextEncoder, encoder_class, named_config
from phenaki.core import components, hub
from phenaki.core.config import from_dict, to_dict
from phenaki.core.errors import PhenakiError
from phenaki.core.files import write_folder_atomic, writing
from phenaki.core.grid import floor_frames, latent_frames
from phenaki.core.hub import MODEL_FILE
from phenaki.core.precision import best_device
from phenaki.core.progress import progress_bar
from phenaki.generators import Generator
from phenaki.generators.critic import Critic, check_critic
from phenaki.generators.masking import Schedule
from phenaki.media.video import Frames, side_by_side, to_uint8, upscale, write_video
from phenaki.sampling import SamplingConfig, Scene, Storyteller, inpaint, interpolate, plan, story
from phenaki.sampling.orders import Order
from phenaki.sampling.rollout import count_steps
from phenaki.tokenizers import Tokenizer

LARGEST = 16_383  # pixels a side that H.264 and WebP both hold
OnStep = Callable[[int, int | None], None]
"""Called with the number of finished decoding steps, and how many there are in all, if that is known."""


@dataclass(frozen=True)
class ModelFile:
    """model.json: what a whole model's folder says beside its components tokenizer/, generator/ and text/.

    `phenaki`: the version that wrote it. `tokenizer`: the fingerprint of the tokenizer whose ids the generator writes.
    `critic`: that of the critic of these ids in critic/; "": there is none.
    """

    phenaki: str
    sampling: SamplingConfig
    tokenizer: str
    critic: str = ""


class Sampling(TypedDict, total=False):
    """What a call may change of a model's own SamplingConfig; None keeps the model's value. `steps` are those of all
    windows, a first frame by itself too."""

    steps: int | None
    guidance: float | None
    temperature: float | None
    choice_temperature: float | None
    top_k: int | None
    schedule: Schedule | None
    prime_frames: int | None
    order: Order | None
    top_p: float | None
    typical_p: float | None
    temperature_end: float | None
    guidance_end: float | None
    guidance_share: float | None
    negative: str | None


@dataclass(frozen=True)
class Generation:
    """Generated videos.

    video: float32 (B, 3, T, H, W) in [0, 1] on the CPU, B samples of the same prompts.
    prompts: of the scenes, in order. scenes: index of the first new frame of each; what was given comes before them.
    fps: frames per second at which the motion has its natural speed.
    """

    video: Tensor = field(repr=False)
    prompts: tuple[str, ...]
    scenes: tuple[int, ...]
    fps: float
    seed: int

    @property
    def clips(self) -> Frames:
        """uint8 (B, T, H, W, 3)."""
        return to_uint8(self.video)

    def save(self, path: str | Path, upscale: int = 1) -> None:
        """Write the samples side by side, each pixel `upscale` times as wide and as high.

        The ending decides: .mp4, .gif, .webp (animated), .png (a contact sheet); a path that ends in "/" becomes a
        folder of numbered PNG files. Raises PhenakiError where it cannot be written.
        """
        write_video(path, laid_out(self.video, upscale), self.fps)


class Phenaki:
    """A text-to-video model.

        model = Phenaki.from_pretrained("shapes-64")
        model.generate("a large red circle moves to the right", seed=1).save("circle.mp4")

    Several prompts are the scenes of one story. Raises PhenakiError if the parts were not built for one another.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        generator: Generator,
        text_encoder: TextEncoder,
        sampling: SamplingConfig | None = None,
        critic: Critic | None = None,
    ) -> None:
        generator.check_tokenizer(tokenizer)
        if generator.config.text_width != text_encoder.width:
            raise PhenakiError(
                f"this generator reads text of width {generator.config.text_width}, and this text encoder writes "
                f"width {text_encoder.width}: use the text encoder that the generator was trained with"
            )
        self.tokenizer, self.generator, self.text_encoder = tokenizer.eval(), generator.eval(), text_encoder.eval()
        self.critic = None if critic is None else critic.eval()
        if critic is not None:
            check_critic(critic, generator)
        self.sampling = sampling or SamplingConfig()

    @property
    def fps(self) -> float:
        return self.tokenizer.config.fps

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the frames, in pixels."""
        return self.tokenizer.config.image_size

    @property
    def device(self) -> torch.device:
        return next(self.generator.parameters()).device

    def to(self, device: str | torch.device) -> Phenaki:
        """Move all parts to a device such as "cpu" or "cuda"."""
        try:
            for part in (self.tokenizer, self.generator, self.text_encoder, self.critic):
                if part is not None:
                    part.to(device)
        except (RuntimeError, AssertionError) as error:  # what torch raises depends on how it was built
            raise PhenakiError(f"the model cannot be moved to the device '{device}': {_first_line(error)}") from error
        return self

    # ---- folders

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path, device: str | torch.device = "auto") -> Phenaki:
        """The model of a name in the package, a folder, or `owner/name` of the Hugging Face hub.

        `device` "auto" takes CUDA where there is one. Raises PhenakiError for an unknown name (with those there are),
        for a folder that holds no whole model, and for components that are broken or were not built for one another.
        """
        return cls._from_folder(hub.resolve(name_or_folder), device)

    @classmethod
    def _from_folder(cls, folder: Path, device: str | torch.device) -> Phenaki:
        if not (folder / MODEL_FILE).is_file():
            raise _no_model(folder)
        file = from_dict(ModelFile, components.read_json(folder / MODEL_FILE), where=f"'{folder / MODEL_FILE}'")
        for kind in components.REQUIRED:
            if not (folder / kind).is_dir():
                raise PhenakiError(
                    f"'{folder}' holds no {kind}/: a model that was trained from token shards is without the networks "
                    f"that made them. Copy the folder of the {kind} there"
                )
        parts = [components.load_component(folder / kind, kind) for kind in components.REQUIRED]
        critic = _critic(folder, file) if file.critic else None
        try:
            model = cls(*parts, file.sampling, critic)
        except PhenakiError as error:
            raise PhenakiError(f"'{folder}': {error}") from error
        if components.fingerprint(folder / "tokenizer") != file.tokenizer:
            raise PhenakiError(
                f"'{folder}': the generator writes ids of another tokenizer than the one in '{folder / 'tokenizer'}', "
                f"whose fingerprint is not the one in {MODEL_FILE}: put back the tokenizer that it was trained on"
            )
        return model.to(best_device() if device == "auto" else device)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write the model as a folder from which `from_pretrained` rebuilds it, whole or not at all.

        `dtype` stores the weights in another type (torch.float16: half the size). Files of other names that are in the
        folder stay. Raises PhenakiError where it cannot write.
        """
        parts = self.generator, self.tokenizer, self.text_encoder
        save_model(folder, *parts, self.sampling, dtype=dtype, critic=self.critic)

    # ---- text to video

    def generate(
        self,
        prompts: str | Sequence[str] | Text,
        *,
        frames: int | Sequence[int] | None = None,
        start: Tensor | None = None,
        size: tuple[int, int] | None = None,
        seed: int = 0,
        samples: int = 1,
        progress: bool = False,
        **sampling: Unpack[Sampling],
    ) -> Generation:
        """Make a video from a prompt, or a story from several, one per scene.

        Args:
            prompts: or their embeddings `Text(embeddings, mask)`, float (B, L, D) and bool (B, L), one for each of B
                scenes, as the model's text encoder or the caller computed them.
            frames: of a scene, 1 + p k (11 is 6 time steps of the paper's p = 2); one number for all scenes or one for
                each; None: as long as the generator was trained on. A scene that follows begins with the last frame of
                the one before it, so it adds one frame less: 3 scenes of 11 frames are 31 frames.
            start: float (B or 1, 3, K, H, W) in [0, 1]: frames that the video begins with, as they are; a picture has
                K = 1. The first scene goes on from the last `prime_frames` of them.
            size: (H, W) of the frames, multiples of the tokenizer's patch; None: those of `start`, else the trained
                ones, which look best.
            seed: the same seed gives the same video on the same machine.
            samples: how many videos of the same prompts are made at once.
            progress: show a progress bar, where there is a terminal.
            sampling: the fields of `Sampling`, such as steps, guidance, temperature, order or negative: see
                `SamplingConfig`. What is not given, or None, is the model's own.

        Raises PhenakiError, before any work begins, for a prompt that the model cannot read, a length that does not
        fit (naming the two nearest) and a setting out of its range.
        """
        if isinstance(prompts, Text):
            reader = self._reading(prompts)
            options = {"frames": frames, "start": start, "size": size, "seed": seed, "samples": samples}
            return reader.generate(reader.text_encoder.prompts, **options, progress=progress, **sampling)
        scenes = self._scenes(prompts, frames, start is None)
        options = {"frames": frames, "start": start, "size": size, "seed": seed, "samples": samples}
        with step_bar(progress) as on_step:
            pieces = [piece.cpu() for piece in self.stream(prompts, **options, on_step=on_step, **sampling)]
        given = 0 if start is None else start.shape[2]
        begins = [given + sum(scene.frames for scene in scenes[:i]) for i in range(len(scenes))]
        names = tuple(scene.prompt for scene in scenes)
        return Generation(torch.cat(pieces, dim=2), names, tuple(begins), self.fps, seed)

    def stream(
        self,
        prompts: str | Sequence[str] | Text,
        *,
        frames: int | Sequence[int] | None = None,
        start: Tensor | None = None,
        size: tuple[int, int] | None = None,
        seed: int = 0,
        samples: int = 1,
        on_step: OnStep | None = None,
        **sampling: Unpack[Sampling],
    ) -> Iterator[Tensor]:
        """What `generate` makes, handed out as it is made: float32 (B, 3, n, H, W) in [0, 1], n frames each time.

        What is given as `start` comes first. Memory does not grow with the number of scenes. Arguments are those of
        `generate`, and checked at the call.
        """
        if isinstance(prompts, Text):
            reader = self._reading(prompts)
            options = {"frames": frames, "start": start, "size": size, "seed": seed, "samples": samples}
            return reader.stream(reader.text_encoder.prompts, **options, on_step=on_step, **sampling)
        scenes = self._scenes(prompts, frames, start is None)
        config, rng = self._sampling(sampling), self._random(seed, samples)
        start, size = self._begin(start, size, samples, sampling)
        windows = plan(scenes, self.generator.config.frames, self.tokenizer.patch[0], config, start is not None)
        step = _counted(on_step, count_steps(windows, config))
        made = story(*self._parts, scenes, config, rng, samples, start, size, step, self.critic)
        return made if start is None else chain([start], made)

    def storyteller(
        self,
        *,
        start: Tensor | None = None,
        size: tuple[int, int] | None = None,
        seed: int = 0,
        samples: int = 1,
        on_step: OnStep | None = None,
        **sampling: Unpack[Sampling],
    ) -> Storyteller:
        """What makes a story whose scenes come one by one, and without end. Arguments are those of `stream`.

            teller = model.storyteller(seed=1)
            for number, prompt in enumerate(prompts):
                for piece in teller.tell(model.scene(prompt, first=not number)):
                    ...  # float32 (B, 3, n, H, W) in [0, 1]

        Memory does not grow, and `Storyteller.state`, between two scenes, is all that the rest of the story needs.
        `on_step` is told no total, but None.
        """
        config, rng = self._sampling(sampling), self._random(seed, samples)
        start, size = self._begin(start, size, samples, sampling)
        return Storyteller(*self._parts, config, rng, samples, start, size, _counted(on_step, None), self.critic)

    def scene(self, prompt: str, frames: int | None = None, keep: int | None = None, first: bool = False) -> Scene:
        """A scene, checked, as `Storyteller.tell` takes it.

        Args:
            frames: as in `generate`: for all but the `first` scene the last frame of the one before is among them.
            keep: the K of this scene: how many of the last frames it goes on from; None: `prime_frames`.

        Raises PhenakiError for a prompt that the model cannot read, and for frames that do not fit.
        """
        if not isinstance(prompt, str):
            raise PhenakiError(f"a prompt is text, not {prompt!r}")
        try:
            prompt.encode()
        except UnicodeEncodeError as error:  # bytes of another encoding, as a terminal may pass them on
            raise PhenakiError(f"the prompt {prompt!r} is no valid UTF-8 text") from error
        self.text_encoder.check(prompt)
        period, longest = self.tokenizer.patch[0], self.generator.config.frames
        frames = longest if frames is None else frames
        latent_frames(frames, period)
        if frames == 1 and not first and longest > 1:
            raise PhenakiError(
                "a scene of 1 frame adds nothing, since it begins with the last frame of the one before: "
                f"give at least {1 + period} frames"
            )
        if keep is not None:
            self._check_keep(keep)
        return Scene(prompt, frames - (not first), keep)

    # ---- editing

    def extend(
        self,
        video: Tensor,
        prompts: str | Sequence[str] | Text,
        *,
        frames: int | Sequence[int] | None = None,
        seed: int = 0,
        samples: int = 1,
        progress: bool = False,
        **sampling: Unpack[Sampling],
    ) -> Generation:
        """Go on from a video, or a picture: its frames, float (B or 1, 3, n, H, W) in [0, 1], and then the new ones.

        Of a scene's `frames` the first is the last one before it. `prime_frames` is how many of the last frames are
        gone on from (the paper's K). All else is as in `generate`.
        """
        options = {"frames": frames, "seed": seed, "samples": samples, "progress": progress}
        return self.generate(prompts, start=video, **options, **sampling)

    def interpolate(
        self,
        first: Tensor,
        last: Tensor,
        prompt: str,
        *,
        frames: int | None = None,
        seed: int = 0,
        samples: int = 1,
        progress: bool = False,
        **sampling: Unpack[Sampling],
    ) -> Generation:
        """Lead from one picture or clip to another: the frames of `first`, new ones, and those of `last`.

        Args:
            first, last: float (B or 1, 3, n, H, W) in [0, 1], pictures where n = 1, which come back as they are. The
                last `prime_frames` of `first` are known to the generator, and as many time steps of `last` less one,
                but one at least.
            frames: 1 + p k in the piece that is decoded, the known ones among them; None: as many as the generator
                writes, which is also the most.

        The rest is as in `generate`. Raises PhenakiError for what does not fit, with what does.
        """
        scene, config, rng = (
            self.scene(prompt, frames, first=True),
            self._sampling(sampling),
            self._random(seed, samples),
        )
        first, last = self._given(first, samples), self._given(last, samples)
        if first.shape[-2:] != last.shape[-2:]:
            sizes = " and ".join(f"{clip.shape[-1]}x{clip.shape[-2]}" for clip in (first, last))
            raise PhenakiError(f"the ends are of {sizes} pixels: bring them to one size")
        self._check_room(first, sampling)
        with step_bar(progress) as on_step:
            step = _counted(on_step, config.steps)
            ends = first, last, prompt, scene.frames
            new = interpolate(*self._parts, *ends, config, rng, samples, step, self.critic)
        return Generation(torch.cat((first, new, last), 2).cpu(), (prompt,), (first.shape[2],), self.fps, seed)

    def inpaint(
        self,
        video: Tensor,
        mask: Tensor,
        prompt: str,
        *,
        blend: bool = False,
        seed: int = 0,
        samples: int = 1,
        progress: bool = False,
        **sampling: Unpack[Sampling],
    ) -> Generation:
        """Make a part of a video anew.

        Args:
            video: float (B or 1, 3, T, H, W) in [0, 1], T = 1 + p k. What the mask hides does not change the result.
            mask: bool (H, W) or (T, H, W), True where something new is to be seen; it grows to whole tokens.
            blend: what is kept, bit-equal in its ids, comes back bit-equal in its pixels too, and not as the tokenizer
                gives it back.

        The rest is as in `generate`. Raises PhenakiError for a mask of another size, and one that hides nothing.
        """
        config, rng = self._sampling(sampling), self._random(seed, samples)
        video = self._given(video, samples)
        self.scene(prompt, video.shape[2], first=True)
        hole = self._hole(mask, video)
        windows = plan([Scene(prompt, video.shape[2])], self.generator.config.frames, self.tokenizer.patch[0], config)
        with step_bar(progress) as on_step:
            step = _counted(on_step, count_steps(windows, config))
            made = inpaint(*self._parts, video, hole, prompt, config, rng, blend, step, self.critic)
            pieces = [piece.cpu() for piece in made]
        return Generation(torch.cat(pieces, 2), (prompt,), (0,), self.fps, seed)

    # ---- what they have in common

    @property
    def _parts(self) -> tuple[Tokenizer, Generator, TextEncoder]:
        return self.tokenizer, self.generator, self.text_encoder

    def _random(self, seed: int, samples: int) -> torch.Generator:
        if not 0 <= seed < 2**63:
            raise PhenakiError(f"seed {seed}: give a whole number from 0 to 2^63 - 1")
        if samples < 1:
            raise PhenakiError(f"{samples} samples cannot be made: give 1 or more")
        return torch.Generator(self.device).manual_seed(seed)

    def _begin(
        self, start: Tensor | None, size: tuple[int, int] | None, samples: int, sampling: Sampling
    ) -> tuple[Tensor | None, tuple[int, int]]:
        """What a story begins with, one for each sample, and the size of its frames, both checked."""
        if start is None:
            size = self.image_size if size is None else size
            self.tokenizer.grid(1, *size)
            return None, size
        start = self._given(start, samples)
        if size is not None and tuple(start.shape[-2:]) != tuple(size):
            height, width = start.shape[-2:]
            raise PhenakiError(f"size {size[1]}x{size[0]}, and what is given is {width}x{height}: give one of the two")
        self._check_room(start, sampling)
        return start, tuple(start.shape[-2:])

    def _given(self, video: Tensor, samples: int) -> Tensor:
        """A video of the caller's, checked, one for each sample, on the model's device."""
        self.tokenizer.check_video(video)
        if len(video) not in (1, samples) or not video.numel():
            raise PhenakiError(f"videos {tuple(video.shape)} are given for {samples} samples: one, or one for each")
        return video.to(self.device).expand(samples, -1, -1, -1, -1)

    def _check_keep(self, keep: int) -> None:
        period, longest = self.tokenizer.patch[0], self.generator.config.frames
        below = floor_frames(max(1, keep), period)
        if keep != below:
            raise PhenakiError(
                f"{keep} frames to go on from do not fit time steps of {period}, which take 1 + {period}k frames: "
                f"keep {below} or {below + period}"
            )
        if keep > longest - period:
            raise PhenakiError(
                f"{keep} frames to go on from leave no room in the {longest} that this generator writes at once: "
                f"keep at most {max(1, longest - period)}"
            )

    def _check_room(self, video: Tensor, sampling: Sampling) -> None:
        keep, frames = sampling.get("prime_frames") or 1, video.shape[2]
        if keep > frames:
            raise PhenakiError(
                f"{keep} frames to go on from, and the clip has {frames}: "
                f"keep at most {floor_frames(frames, self.tokenizer.patch[0])}"
            )

    def _hole(self, mask: Tensor, video: Tensor) -> Tensor:
        """A mask, checked, as bool (1, 1, T or 1, H, W) on the model's device."""
        mask = mask[None] if mask.ndim == 2 else mask
        frames, height, width = video.shape[2:]
        if mask.dtype != torch.bool or mask.ndim != 3:
            raise PhenakiError(
                f"a mask of shape {tuple(mask.shape)} and type {mask.dtype}: give bool (H, W) or (T, H, W)"
            )
        if mask.shape[1:] != (height, width) or len(mask) not in (1, frames):
            raise PhenakiError(
                f"the mask has {len(mask)} frames of {mask.shape[2]}x{mask.shape[1]} pixels, and the video {frames} of "
                f"{width}x{height}: give one frame, or {frames}, of the video's size"
            )
        if not mask.any():
            raise PhenakiError("the mask is empty: make white what is to be made anew")
        return mask[None, None].to(self.device)

    def _reading(self, text: Text) -> Phenaki:
        """This model with a text encoder that has these embeddings, checked, for its prompts."""
        return Phenaki(self.tokenizer, self.generator, GivenText(text).to(self.device), self.sampling, self.critic)

    def _scenes(self, prompts: str | Sequence[str], frames: int | Sequence[int] | None, first: bool) -> list[Scene]:
        """The scenes, with the frames that each adds, all checked; `first`: nothing is given before them."""
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not prompts:
            raise PhenakiError("there is no prompt: give at least one")
        lengths = [frames] * len(prompts) if frames is None or isinstance(frames, int) else list(frames)
        if len(lengths) != len(prompts):
            raise PhenakiError(f"{len(lengths)} lengths for {len(prompts)} prompts: give one for each, or one for all")
        scenes = []
        for number, (prompt, length) in enumerate(zip(prompts, lengths, strict=True), start=1):
            try:
                scenes.append(self.scene(prompt, length, first=first and not scenes))
            except PhenakiError as error:
                raise PhenakiError(f"scene {number}: {error}" if len(prompts) > 1 else str(error)) from error
        return scenes

    def _sampling(self, changes: Sampling) -> SamplingConfig:
        given: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
        for name, value in given.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise PhenakiError(f"{name} {value}: give a finite number")
        if "steps" in given:
            given["first_frame_steps"] = 0
        config = from_dict(SamplingConfig, to_dict(self.sampling) | given)
        config.check_critic(self.critic is not None)
        if "prime_frames" in given:
            self._check_keep(config.prime_frames)
        if config.negative is not None:
            try:
                self.text_encoder.check(config.negative)
            except PhenakiError as error:
                raise PhenakiError(f"the negative prompt: {error}") from error
        return config


def save_model(
    folder: str | Path,
    generator: Generator,
    tokenizer: Tokenizer | None,
    text_encoder: TextEncoder | None,
    sampling: SamplingConfig,
    fingerprint: str = "",
    dtype: torch.dtype | None = None,
    critic: Critic | None = None,
) -> None:
    """Write a model as `Phenaki.save_pretrained` does, if need be without its tokenizer, of which `fingerprint` is said
    then, or without its text encoder: put into the folder as tokenizer/ and text/ they make it whole."""
    folder = Path(folder)
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with write_folder_atomic(folder) as new:
        for kind, part in zip(
            (*components.REQUIRED, components.CRITIC), (tokenizer, generator, text_encoder, critic), strict=True
        ):
            if part is not None:
                components.save_component(part, new / kind, dtype)
        ids_of = components.fingerprint(new / "tokenizer") if tokenizer else fingerprint
        file = ModelFile(
            __version__, sampling, ids_of, components.fingerprint(new / components.CRITIC) if critic else ""
        )
        (new / MODEL_FILE).write_text(json.dumps(to_dict(file), indent=2) + "\n", encoding="utf-8")


def load_part(name_or_folder: str | Path, kind: str) -> nn.Module:
    """The part of a model for `kind` ("tokenizer", "generator", "text"), on the CPU: by itself in a folder, or of a
    whole model. Raises PhenakiError for a folder that holds no such part."""
    folder = hub.resolve(name_or_folder)
    if not (folder / components.CONFIG_FILE).is_file() and (folder / kind / components.CONFIG_FILE).is_file():
        folder = folder / kind
    if not (folder / components.CONFIG_FILE).is_file():
        raise _no_model(folder)
    if (found := components.component_kind(folder)) != kind:
        raise PhenakiError(f"'{folder}' holds a {found}: name the folder of a {kind}, or of a whole model")
    return components.load_component(folder, kind)


def load_text_encoder(name_or_folder: str | Path) -> TextEncoder:
    """A text encoder: "none", a T5 or CLIP of transformers by its folder or name, or what `load_part` finds.

    Raises PhenakiError as that does, and for a T5 or CLIP that is not on this machine.
    """
    config = named_config(str(name_or_folder))
    return load_part(name_or_folder, "text") if config is None else encoder_class(config)(config).eval()


def load(name_or_folder: str | Path, device: str | torch.device = "auto") -> Phenaki | nn.Module:
    """Whatever lies there: a whole model (`Phenaki`), or a tokenizer, generator or text encoder by itself.

    Names are those of `Phenaki.from_pretrained`. Raises PhenakiError for a folder that holds none of these.
    """
    folder = hub.resolve(name_or_folder)
    if (folder / MODEL_FILE).is_file():
        return Phenaki._from_folder(folder, device)
    if (folder / components.CONFIG_FILE).is_file():
        part = components.load_component(folder)
        return part.to(best_device() if device == "auto" else device)
    raise _no_model(folder)


def _critic(folder: Path, file: ModelFile) -> Critic:
    """The critic in a model's folder, which must be the one that its model.json names."""
    place = folder / components.CRITIC
    if not place.is_dir() or components.fingerprint(place) != file.critic:
        raise PhenakiError(
            f"'{folder}' holds no critic/, or another one than {MODEL_FILE} names: put back the critic trained "
            f'for this generator, or write "critic": "" in {MODEL_FILE} to do without'
        )
    return components.load_component(place, components.CRITIC)


def _no_model(folder: Path) -> PhenakiError:
    """Says what lies in a folder without model.json, and where near it there is a model."""
    if (folder / components.CONFIG_FILE).is_file():
        return PhenakiError(
            f"'{folder}' holds a part of a model ({components.component_kind(folder)}) by itself, and no {MODEL_FILE}: "
            f"to make a video from text takes a whole model, a folder with {MODEL_FILE}"
        )
    near = [
        str(place.parent) for name in (MODEL_FILE, components.CONFIG_FILE) for place in sorted(folder.glob(f"*/{name}"))
    ]
    way_out = f"; perhaps you mean {' or '.join(repr(place) for place in near[:3])}" if near else ""
    return PhenakiError(
        f"'{folder}' is not a model folder: it holds neither {MODEL_FILE} (a whole model) nor "
        f"{components.CONFIG_FILE} "
        f"(a tokenizer, generator or text encoder){way_out or '; `phenaki models` names those in the package'}"
    )


def laid_out(video: Tensor, factor: int = 1) -> Frames:
    """Samples (B, 3, T, H, W) side by side as one clip uint8 (T, H', W', 3), pixels `factor` times as wide and high.

    Raises PhenakiError for a picture that is larger than video files can hold.
    """
    clip = side_by_side(list(to_uint8(video)))
    height, width = (factor * side for side in clip.shape[1:3])
    if max(height, width) > LARGEST:
        raise PhenakiError(
            f"{width}x{height} pixels (samples side by side: {len(video)}, enlarged {factor} times) are more than the "
            f"{LARGEST} a side that video files hold: take fewer samples or enlarge them less"
        )
    return upscale(clip, factor)


@contextmanager
def step_bar(shown: bool = True) -> Iterator[OnStep]:
    """A progress bar that vanishes when done."""
    with progress_bar(visible=shown, transient=True) as bar:
        task = bar.add_task("generating, step", total=None)

        def on_step(finished: int, total: int | None) -> None:
            bar.update(task, completed=finished, total=total)

        yield on_step


def _counted(on_step: OnStep | None, total: int | None) -> Callable[[int], None]:
    """What a decoding calls after each step, of which there are several with steps of their own."""
    finished = count(1)
    return lambda _: on_step(next(finished), total) if on_step is not None else None


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
