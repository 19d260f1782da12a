"""The text-to-video model that users call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from phenaki.conditioning import Text
from phenaki.core import hub
from phenaki.core.components import CONFIG_FILE, load_component
from phenaki.core.errors import PhenakiError
from phenaki.core.grid import latent_frames
from phenaki.core.hub import MODEL_FILE
from phenaki.core.precision import best_device
from phenaki.generators.components import check_text_width
from phenaki.pipeline.checks import (
    check_bidirectional,
    check_enough_frames,
    check_mask,
    check_prime_frames,
    check_start,
    check_video,
)
from phenaki.pipeline.loading import no_model_error
from phenaki.pipeline.pretrained import PretrainedModel
from phenaki.pipeline.progress import OnProgress, counting, sampling_progress
from phenaki.pipeline.results import Generation
from phenaki.pipeline.world import Event, LiveWorld
from phenaki.sampling import (
    AnyRollout,
    SamplingConfig,
    SamplingOptions,
    Scene,
    count_steps,
    inpaint,
    interpolate,
    longest_clip,
    make_rollout,
    plan_windows,
    rollout,
)


class Phenaki(PretrainedModel):
    """A text-to-video model.

        model = Phenaki.from_pretrained("shapes-64")
        model.generate("a large red circle moves to the right", seed=1).save("circle.mp4")

    Several prompts are the scenes of one story. Prompts with words that are not in `domain.words` are warned about, or
    refused if `strict` is True.
    """

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
        **options: Unpack[SamplingOptions],
    ) -> Generation:
        """Generate a video from a prompt, or a story from several, one per scene.

        Args:
            prompts: or their embeddings `Text(embeddings, mask)`, float (B, L, D) and bool (B, L), one for each of B
                scenes, as the model's text encoder or the caller computed them.
            frames: of a scene, 1 + p k (11 is 6 latent frames of the paper's p = 2); one number for all scenes or one
                for each; None: the length that the generator was trained on. A scene after the first counts the last
                frame of the scene before as its own first, and so adds one frame less: 11 + 10 + 10 = 31 frames for 3
                scenes of 11. The same goes for the first scene after `start`.
            start: float (B or 1, 3, K, H, W) in [0, 1], frames that the video begins with, unchanged; K = 1 for a
                picture. The first scene continues the last `prime_frames` of them.
            size: (H, W) of the frames, multiples of the tokenizer's patch; None: that of `start`, else the trained
                size, which looks best.
            seed: the same seed gives the same video on the same machine.
            samples: how many videos of the same prompts are generated.
            progress: show a progress bar, in a terminal.
            options: sampling settings such as steps, guidance_scale, temperature, order or negative_prompt
                (`SamplingOptions`). None, or an option not given, keeps the model's own.

        Raises PhenakiError, before any work begins, for a prompt that the model cannot read, a length that does not
        fit (naming the two nearest) and a setting out of range.
        """
        scenes = self._scenes(prompts, frames, start is None)
        with sampling_progress(progress) as on_progress:
            options |= {"frames": frames, "start": start, "size": size, "seed": seed, "samples": samples}
            pieces = self.stream(prompts, on_progress=on_progress, **options)
            video = torch.cat([piece.cpu() for piece in pieces], dim=2)
        texts = tuple(None if isinstance(scene.prompt, Text) else scene.prompt for scene in scenes)
        *starts, _ = accumulate((scene.frames for scene in scenes), initial=0 if start is None else start.shape[2])
        return Generation(video, texts, tuple(starts), self.fps, seed)

    def stream(
        self,
        prompts: str | Sequence[str] | Text,
        *,
        frames: int | Sequence[int] | None = None,
        start: Tensor | None = None,
        size: tuple[int, int] | None = None,
        seed: int = 0,
        samples: int = 1,
        on_progress: OnProgress | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Iterator[Tensor]:
        """As `generate`, but yields float32 (B, 3, n, H, W) in [0, 1] while it generates, `start` first.

        Memory does not grow with the number of scenes. Arguments are checked at the call.
        """
        scenes = self._scenes(prompts, frames, start is None)
        self._check_words([scene.prompt for scene in scenes])
        sampling, rng = self._sampling(options), self._rng(seed, samples)
        start, size = check_start(start, size, samples, options, self.components)
        longest, period = longest_clip(self.generator), self.tokenizer.patch[0]
        windows = plan_windows(scenes, longest, period, sampling.rollout, start is not None)
        on_step = counting(on_progress, count_steps(windows, sampling))
        new = rollout(self.components, scenes, sampling, rng, samples, start, size, on_step)
        return new if start is None else chain([start], new)

    def rollout(
        self,
        *,
        start: Tensor | None = None,
        size: tuple[int, int] | None = None,
        seed: int = 0,
        samples: int = 1,
        on_progress: OnProgress | None = None,
        **options: Unpack[SamplingOptions],
    ) -> AnyRollout:
        """A video of any number of scenes, passed one by one. Arguments are those of `stream`.

            video = model.rollout(seed=1)
            for number, prompt in enumerate(prompts):
                for piece in video.generate(model.scene(prompt, first=number == 0)):
                    ...  # float32 (B, 3, n, H, W) in [0, 1]

        Memory does not grow. `Rollout.state`, taken between two scenes, is enough to continue the video.
        `on_progress` gets None as total.
        """
        sampling, rng = self._sampling(options), self._rng(seed, samples)
        start, size = check_start(start, size, samples, options, self.components)
        return make_rollout(self.components, sampling, rng, samples, start, size, counting(on_progress, None))

    def scene(
        self, prompt: str | Text, frames: int | None = None, prime_frames: int | None = None, first: bool = False
    ) -> Scene:
        """A scene, checked, for `Rollout.generate`.

        Args:
            frames: as in `generate`, 1 + p k: they count the last frame of the scene before, so p k of them are new.
            prime_frames: how many of the last frames this scene continues (the paper's K); None: the model's.
            first: nothing comes before the scene, neither another scene nor `start`: all its frames are new.

        Raises PhenakiError for a prompt that the model cannot read, and for frames that do not fit.
        """
        scene = self._scene(prompt, frames, prime_frames, first)
        self._check_words([prompt])
        return scene

    def _scene(
        self, prompt: str | Text, frames: int | None = None, prime_frames: int | None = None, first: bool = False
    ) -> Scene:
        if not isinstance(prompt, Text):
            self.components.check_prompt(prompt)
        if prime_frames is not None:
            check_prime_frames(prime_frames, self.components)
        period, longest = self.tokenizer.patch[0], self.generator.config.frames
        frames = (self.sampling.rollout.scene_frames or longest) if frames is None else frames
        latent_frames(frames, period)
        if frames == 1 and not first and longest > 1:
            raise PhenakiError(
                "a scene of 1 frame adds nothing, since it begins with the last frame of the one before: "
                f"give at least {1 + period} frames"
            )
        return Scene(prompt, frames if first else frames - 1, prime_frames)

    def play(
        self, prompt: str, *, seed: int = 0, events: Sequence[Event] = (), **options: Unpack[SamplingOptions]
    ) -> LiveWorld:
        """A video without end that is steered while it runs, by prompts and actions; see `LiveWorld`.

        `events`: of an earlier world with the same prompt, seed and options, whose frames come again. Raises
        PhenakiError for a model that writes whole clips, and as `generate` does.
        """
        sampling = self._sampling(options)
        self._rng(seed, 1)
        self._check_words([prompt])
        return LiveWorld(self.components, sampling, prompt, seed, events)

    # ---- editing

    def extend(self, video: Tensor, prompts: str | Sequence[str] | Text, **options: Any) -> Generation:
        """Continue a video or a picture: its frames, float (B or 1, 3, n, H, W) in [0, 1], and then the new ones.

        The last frame before a scene counts among its `frames`. `prime_frames` is how many of the last frames are
        continued (the paper's K). The options are those of `generate`.
        """
        return self.generate(prompts, start=video, **options)

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
        **options: Unpack[SamplingOptions],
    ) -> Generation:
        """Lead from one picture or clip to another: the frames of `first`, new ones, and those of `last`.

        Args:
            first, last: float (B or 1, 3, n, H, W) in [0, 1], pictures where n = 1, returned unchanged. The generator
                is conditioned on the last `prime_frames` of `first`, and on as many latent frames of `last` less one,
                but at least one.
            frames: 1 + p k of the decoded clip, known frames included; None: as many as the generator writes, which is
                also the most.

        The rest is as in `generate`. Raises PhenakiError for what does not fit, with what does.
        """
        check_bidirectional(self.generator, "interpolate")
        scene = self.scene(prompt, frames, first=True)
        sampling, rng = self._sampling(options), self._rng(seed, samples)
        first, last = (check_video(clip, samples, self.components) for clip in (first, last))
        if first.shape[-2:] != last.shape[-2:]:
            sizes = " and ".join(f"{clip.shape[-1]}x{clip.shape[-2]}" for clip in (first, last))
            raise PhenakiError(f"the two clips have {sizes} pixels: bring them to one size")
        check_enough_frames(first, options, self.components)
        with sampling_progress(progress) as on_progress:
            on_step = counting(on_progress, sampling.decoding.steps)
            new = interpolate(self.components, first, last, prompt, scene.frames, sampling, rng, samples, on_step)
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
        **options: Unpack[SamplingOptions],
    ) -> Generation:
        """Regenerate a part of a video.

        Args:
            video: float (B or 1, 3, T, H, W) in [0, 1], T = 1 + p k. Masked pixels do not change the result.
            mask: bool (H, W) or (T, H, W), True where pixels are regenerated; it grows to whole tokens.
            blend: return the kept pixels bit-equal, rather than as the tokenizer reconstructs them.

        The rest is as in `generate`. Raises PhenakiError for a mask of another size, and for an empty one.
        """
        check_bidirectional(self.generator, "inpaint")
        sampling, rng = self._sampling(options), self._rng(seed, samples)
        video = check_video(video, samples, self.components)
        scene = self.scene(prompt, video.shape[2], first=True)
        hole = check_mask(mask, video)
        longest, period = self.generator.config.frames, self.tokenizer.patch[0]
        steps = count_steps(plan_windows([scene], longest, period, sampling.rollout), sampling)
        with sampling_progress(progress) as on_progress:
            on_step = counting(on_progress, steps)
            pieces = inpaint(self.components, video, hole, prompt, sampling, rng, blend, on_step)
            new = torch.cat([piece.cpu() for piece in pieces], dim=2)
        return Generation(new, (prompt,), (0,), self.fps, seed)

    # ---- checks

    def _scenes(
        self, prompts: str | Sequence[str] | Text, frames: int | Sequence[int] | None, first: bool
    ) -> list[Scene]:
        """The scenes, checked, with the new frames of each; `first`: no frames come before them."""
        if isinstance(prompts, Text):
            text = prompts.checked().to(self.device)
            check_text_width(text.embeddings.shape[2], self.generator)
            prompts = [text.row(i) for i in range(len(text.mask))]
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not prompts:
            raise PhenakiError("there is no prompt: give at least one")
        lengths = [frames] * len(prompts) if frames is None or isinstance(frames, int) else list(frames)
        if len(lengths) != len(prompts):
            raise PhenakiError(f"{len(lengths)} lengths for {len(prompts)} prompts: give one for each, or one for all")
        scenes = []
        for i, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
            try:
                scenes.append(self._scene(prompt, length, first=first and i == 0))
            except PhenakiError as error:
                raise PhenakiError(f"scene {i + 1}: {error}" if len(prompts) > 1 else str(error)) from error
        return scenes

    def _check_words(self, prompts: Sequence[str | Text]) -> None:
        self.domain.check((prompt for prompt in prompts if isinstance(prompt, str)), self.name, self.strict)

    def _sampling(self, options: SamplingOptions) -> SamplingConfig:
        sampling = self.sampling.with_options(options)
        sampling.decoding.check_critic(self.critic is not None)
        if options.get("prime_frames") is not None:
            check_prime_frames(sampling.rollout.prime_frames, self.components)
        if sampling.guidance.negative_prompt is not None:
            try:
                self.text_encoder.check(sampling.guidance.negative_prompt)
            except PhenakiError as error:
                raise PhenakiError(f"the negative prompt: {error}") from error
        return sampling

    def _rng(self, seed: int, samples: int) -> torch.Generator:
        if not 0 <= seed < 2**63:
            raise PhenakiError(f"seed {seed}: give a whole number from 0 to 2^63 - 1")
        if samples < 1:
            raise PhenakiError(f"{samples} samples cannot be generated: give 1 or more")
        return torch.Generator(self.device).manual_seed(seed)


def load(name_or_folder: str | Path, device: str | torch.device = "auto") -> Phenaki | nn.Module:
    """A whole model (`Phenaki`), or a single tokenizer, generator, text encoder or critic, whichever the folder holds.

    Names are those of `Phenaki.from_pretrained`. Raises PhenakiError for a folder that holds none of these.
    """
    folder = hub.resolve(name_or_folder)
    if (folder / MODEL_FILE).is_file():
        return Phenaki.from_folder(folder, device, str(name_or_folder))
    if (folder / CONFIG_FILE).is_file():
        component = load_component(folder)
        return component.to(best_device() if device == "auto" else device)
    raise no_model_error(folder)
