"""The text-to-video model that users call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, chain
from typing import Unpack, get_args

import torch
from torch import Tensor

from phenaki.conditioning import Text
from phenaki.core.arguments import check_types
from phenaki.core.errors import PhenakiError
from phenaki.media.inputs import VideoInput
from phenaki.pipeline.checks import (
    Prompts,
    as_prompts,
    check_bidirectional,
    check_count,
    check_enough_frames,
    check_lengths,
    check_mask,
    check_memory,
    check_prime_frames,
    check_sampling,
    check_scene_frames,
    check_seed,
    check_start,
    check_video,
    join_prompts,
)
from phenaki.pipeline.pretrained import PretrainedModel
from phenaki.pipeline.progress import OnProgress, counting, sampling_progress
from phenaki.pipeline.provenance import provenance
from phenaki.pipeline.results import Generation, OutputType
from phenaki.pipeline.words import CallOptions, ExtendOptions, other_words
from phenaki.pipeline.world import Event, LiveWorld, SceneWorld, World
from phenaki.sampling import (
    AnyRollout,
    Scene,
    count_steps,
    inpaint,
    interpolate,
    longest_clip,
    make_rollout,
    plan_windows,
    rollout,
)
from phenaki.sampling.scenes import Prompt


class Phenaki(PretrainedModel):
    """A text-to-video model.

        model = Phenaki.from_pretrained("shapes-64")
        model.generate("a large red circle moves to the right", seed=1).save("circle.mp4")

    Several prompts are the scenes of one story; calling the model makes a batch of them. Prompts with words that are
    not in `domain.words` are warned about, or refused if `strict` is True.
    """

    # ---- text to video

    @other_words
    def __call__(
        self,
        prompts: str | Sequence[str] | Text | Tensor | None = None,
        *,
        scenes: Prompts | None = None,
        frames: int | Sequence[int] | None = None,
        start: VideoInput | Generation | None = None,
        size: tuple[int, int] | None = None,
        seed: int | None = 0,
        samples: int = 1,
        output_type: OutputType = "pil",
        progress: bool = True,
        on_progress: OnProgress | None = None,
        **options: Unpack[CallOptions],
    ) -> Generation:
        """As `generate`, in the manner of diffusers: several prompts are videos of their own, in one batch.

            frames = model(["a red circle", "a blue star"], num_inference_steps=12).frames  # two lists of PIL pictures

        Args:
            prompts: one per video, each of them `samples` times; embeddings have a row per video.
            scenes: instead, what `generate` takes: the scenes of one story.
            output_type: of `Generation.frames`.
        """
        if (prompts is None) == (scenes is None):
            raise PhenakiError("pass prompts, of a batch of videos, or scenes, of one story")
        if output_type not in get_args(OutputType):
            known = ", ".join(get_args(OutputType))
            raise PhenakiError(f"output_type {output_type!r}: there are {known}; result.video is the tensor")
        if scenes is None:
            samples = check_count(samples, ())
            rows = [prompt for prompt in as_prompts(prompts, self.components) for _ in range(samples)]
            scenes, samples = [join_prompts(rows)], len(rows)
        common = {"frames": frames, "start": start, "size": size, "seed": seed, "samples": samples}
        result = self.generate(scenes, **common, progress=progress, on_progress=on_progress, **options)
        return replace(result, output_type=output_type)

    @other_words
    def generate(
        self,
        prompts: Prompts | None = None,
        *,
        frames: int | Sequence[int] | None = None,
        start: VideoInput | Generation | None = None,
        size: tuple[int, int] | None = None,
        seed: int | None = 0,
        samples: int = 1,
        progress: bool = False,
        on_progress: OnProgress | None = None,
        **options: Unpack[CallOptions],
    ) -> Generation:
        """Generate a video from a prompt, or a story from several, one per scene.

        Args:
            prompts: of the scenes; a list in place of one has a prompt for each sample. Or their embeddings, `Text` or
                float (B, L, D), one for each of B scenes, as the model's text encoder or the caller computed them.
            frames: of a scene, 1 + p k (11 is 6 latent frames of the paper's p = 2); one number for all scenes or one
                for each; None: the length that the generator was trained on. A scene after the first counts the last
                frame of the scene before as its own first, and so adds one frame less: 11 + 10 + 10 = 31 frames for 3
                scenes of 11. The same goes for the first scene after `start`.
            start: frames that the video begins with, unchanged: what `media/inputs.py: as_video` takes, one clip or
                one for each sample. Files and PIL pictures are fitted to `size` and the model's frame rate. The first
                scene continues the last `prime_frames` of them.
            size: (H, W) of the frames, multiples of the tokenizer's patch; None: that of `start`, else the trained
                size, which looks best.
            seed: the same seed gives the same video on the same machine; None: a random one, which the result names.
            samples: how many videos of the same prompts are generated.
            progress: show a progress bar, in a terminal or a notebook.
            on_progress: called with the number of finished decoding steps and their total.
            options: sampling settings such as steps, guidance_scale, temperature, order or negative_prompt
                (`SamplingOptions`). None, or an option not given, keeps the model's own. Names of other libraries
                are taken too (`pipeline/words.py`).

        Raises PhenakiError, before any work begins, for a prompt that the model cannot read, a length that does not
        fit (naming the two nearest) and a setting out of range.
        """
        seed = check_seed(seed)
        scenes, samples = self._scenes(prompts, frames, samples, start is None)
        video, size = check_start(start, size, samples, options, self.components)
        check_memory(sum(scene.frames for scene in scenes), samples, size)
        with sampling_progress(progress, on_progress) as on_progress:
            common = {"frames": frames, "start": video, "size": size, "seed": seed, "samples": samples}
            pieces = self.stream(prompts, **common, on_progress=on_progress, **options)
            new = torch.cat([piece.cpu() for piece in pieces], dim=2)
        texts = tuple(None if isinstance(scene.prompt, Text) else scene.prompt for scene in scenes)
        *starts, _ = accumulate((scene.frames for scene in scenes), initial=0 if video is None else video.shape[2])
        inputs = {} if video is None else {"image": {}}
        made = provenance(self, "generate", texts, options, seed, samples, size, frames, inputs)
        return Generation(new, texts, tuple(starts), self.fps, seed, metadata=made)

    @other_words
    def stream(
        self,
        prompts: Prompts | None = None,
        *,
        frames: int | Sequence[int] | None = None,
        start: VideoInput | Generation | None = None,
        size: tuple[int, int] | None = None,
        seed: int | None = 0,
        samples: int = 1,
        on_progress: OnProgress | None = None,
        **options: Unpack[CallOptions],
    ) -> Iterator[Tensor]:
        """As `generate`, but yields float32 (B, 3, n, H, W) in [0, 1] while it generates, `start` first.

        Memory does not grow with the number of scenes. Arguments are checked at the call.
        """
        scenes, samples = self._scenes(prompts, frames, samples, start is None)
        self._check_words([scene.prompt for scene in scenes])
        sampling, rng = check_sampling(self.sampling, options, self.components), self._rng(seed)
        video, size = check_start(start, size, samples, options, self.components)
        longest, period = longest_clip(self.generator), self.tokenizer.patch[0]
        windows = plan_windows(scenes, longest, period, sampling.rollout, video is not None)
        on_step = counting(on_progress, count_steps(windows, sampling))
        new = rollout(self.components, scenes, sampling, rng, samples, video, size, on_step)
        return new if video is None else chain([video], new)

    @other_words
    def rollout(
        self,
        *,
        start: VideoInput | Generation | None = None,
        size: tuple[int, int] | None = None,
        seed: int | None = 0,
        samples: int = 1,
        on_progress: OnProgress | None = None,
        **options: Unpack[CallOptions],
    ) -> AnyRollout:
        """A video of any number of scenes, passed one by one. Arguments are those of `stream`.

            video = model.rollout(seed=1)
            for number, prompt in enumerate(prompts):
                for piece in video.generate(model.scene(prompt, first=number == 0)):
                    ...  # float32 (B, 3, n, H, W) in [0, 1]

        Memory does not grow. `Rollout.state`, taken between two scenes, is enough to continue the video.
        `on_progress` gets None as total.
        """
        sampling, rng = check_sampling(self.sampling, options, self.components), self._rng(seed)
        samples = check_count(samples, ())
        video, size = check_start(start, size, samples, options, self.components)
        return make_rollout(self.components, sampling, rng, samples, video, size, counting(on_progress, None))

    @check_types
    def scene(
        self, prompt: Prompt, frames: int | None = None, prime_frames: int | None = None, first: bool = False
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
        self, prompt: Prompt, frames: int | None = None, prime_frames: int | None = None, first: bool = False
    ) -> Scene:
        if not isinstance(prompt, Text):
            for text in prompt if isinstance(prompt, tuple) else (prompt,):
                self.components.check_prompt(text)
        if prime_frames is not None:
            check_prime_frames(prime_frames, self.components)
        if frames is None:
            frames = self.sampling.rollout.scene_frames or self.generator.config.frames
        check_scene_frames(frames, first, self.components)
        return Scene(prompt, frames if first else frames - 1, prime_frames)

    @other_words
    def play(
        self,
        prompt: str,
        *,
        start: VideoInput | Generation | None = None,
        seed: int | None = 0,
        events: Sequence[Event] = (),
        **options: Unpack[CallOptions],
    ) -> World:
        """A video without end that is steered while it runs, by prompts and actions.

        A causal model obeys in the next latent frame (`LiveWorld`), another in the next scene (`SceneWorld`). `start`:
        as in `generate`, but not yielded. `events`: of an earlier world with the same prompt, start, seed and options,
        whose frames come again. Raises PhenakiError as `generate` does.
        """
        sampling, seed = check_sampling(self.sampling, options, self.components, has_actions=True), check_seed(seed)
        self._check_words([prompt])
        video, _ = check_start(start, None, 1, options, self.components)
        kind = LiveWorld if self.generator.has_cache else SceneWorld
        return kind(self.components, sampling, prompt, seed, events, video)

    # ---- editing

    def extend(
        self, video: VideoInput | Generation, prompts: Prompts | None = None, **options: Unpack[ExtendOptions]
    ) -> Generation:
        """Continue a video or a picture, whatever `start` of `generate` takes: its frames, and then the new ones.

        The last frame before a scene counts among its `frames`. `prime_frames` is how many of the last frames are
        continued (the paper's K). The options are those of `generate`.
        """
        return self.generate(prompts, start=video, **options)

    @other_words
    def interpolate(
        self,
        first: VideoInput | Generation,
        last: VideoInput | Generation,
        prompt: str,
        *,
        frames: int | None = None,
        seed: int | None = 0,
        samples: int = 1,
        progress: bool = False,
        **options: Unpack[CallOptions],
    ) -> Generation:
        """Lead from one picture or clip to another: the frames of `first`, new ones, and those of `last`.

        Args:
            first: what `start` of `generate` takes, returned unchanged. The generator is conditioned on its last
                `prime_frames`.
            last: as `first`. The generator is conditioned on one latent frame less of it, but at least one.
            frames: 1 + p k of the decoded clip, known frames included; None: as many as the generator writes, which is
                also the most.

        The rest is as in `generate`. Raises PhenakiError for what does not fit, with what does.
        """
        check_bidirectional(self.generator, "interpolate")
        scene = self.scene(prompt, frames, first=True)
        sampling = check_sampling(self.sampling, options, self.components)
        seed, samples = check_seed(seed), check_count(samples, [scene.prompt])
        first, last = (check_video(clip, samples, self.components) for clip in (first, last))
        if first.shape[-2:] != last.shape[-2:]:
            sizes = " and ".join(f"{clip.shape[-1]}x{clip.shape[-2]}" for clip in (first, last))
            raise PhenakiError(f"the two clips have {sizes} pixels: bring them to one size")
        check_enough_frames(first, options, self.components)
        with sampling_progress(progress) as on_progress:
            on_step, rng = counting(on_progress, sampling.decoding.steps), self._rng(seed)
            new = interpolate(self.components, first, last, prompt, scene.frames, sampling, rng, samples, on_step)
        size, inputs = first.shape[-2:], {"first": {}, "last": {}}
        made = provenance(self, "interpolate", (prompt,), options, seed, samples, size, frames, inputs)
        joined = torch.cat((first, new, last), 2).cpu()
        return Generation(joined, (prompt,), (first.shape[2],), self.fps, seed, metadata=made)

    @other_words
    def inpaint(
        self,
        video: VideoInput | Generation,
        mask: VideoInput,
        prompt: str,
        *,
        blend: bool = False,
        seed: int | None = 0,
        samples: int = 1,
        progress: bool = False,
        **options: Unpack[CallOptions],
    ) -> Generation:
        """Regenerate a part of a video.

        Args:
            video: what `start` of `generate` takes, T = 1 + p k frames. Masked pixels do not change the result.
            mask: what `media/inputs.py: as_mask` takes, a picture or one for each frame, True or white where pixels are
                regenerated; it grows to whole tokens.
            blend: return the kept pixels bit-equal, rather than as the tokenizer reconstructs them.

        The rest is as in `generate`. Raises PhenakiError for a mask of another size, and for an empty one.
        """
        check_bidirectional(self.generator, "inpaint")
        sampling = check_sampling(self.sampling, options, self.components)
        seed, samples = check_seed(seed), check_count(samples, ())
        video = check_video(video, samples, self.components)
        scene = self.scene(prompt, video.shape[2], first=True)
        hole = check_mask(mask, video)
        longest, period = self.generator.config.frames, self.tokenizer.patch[0]
        steps = count_steps(plan_windows([scene], longest, period, sampling.rollout), sampling)
        with sampling_progress(progress) as on_progress:
            on_step, rng = counting(on_progress, steps), self._rng(seed)
            pieces = inpaint(self.components, video, hole, prompt, sampling, rng, blend, on_step)
            new = torch.cat([piece.cpu() for piece in pieces], dim=2)
        (frames, *size), inputs = video.shape[2:], {"clip": {}, "mask": {}}
        made = provenance(self, "inpaint", (prompt,), options, seed, samples, size, frames, inputs)
        return Generation(new, (prompt,), (0,), self.fps, seed, metadata=made)

    # ---- checks

    def _scenes(
        self, prompts: Prompts | None, frames: int | Sequence[int] | None, samples: int, first: bool
    ) -> tuple[list[Scene], int]:
        """The scenes, checked, with their new frames, and the number of samples; `first`: no frames come before."""
        texts = as_prompts(prompts, self.components)
        samples = check_count(samples, texts)
        scenes = []
        for i, (prompt, length) in enumerate(zip(texts, check_lengths(frames, len(texts)), strict=True)):
            try:
                scenes.append(self._scene(prompt, length, first=first and i == 0))
            except PhenakiError as error:
                raise PhenakiError(f"scene {i + 1}: {error}" if len(texts) > 1 else str(error)) from error
        return scenes, samples

    def _check_words(self, prompts: Sequence[Prompt]) -> None:
        texts = [text for prompt in prompts for text in (prompt if isinstance(prompt, tuple) else (prompt,))]
        self.domain.check((text for text in texts if isinstance(text, str)), self.name, self.strict)

    def _rng(self, seed: int | None) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(check_seed(seed))
