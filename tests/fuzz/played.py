"""What is said to `phenaki play`, and what its videos say of themselves."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from fuzz.misbehaviour import SOUND
from fuzz.models import tiny_model
from fuzz.mutate import ODD, mutate_bytes, mutate_json
from fuzz.surface import Case, Surface
from helpers.playing import causal_model
from phenaki.core.errors import PhenakiError
from phenaki.media.uploads import encode_png
from phenaki.play.player import FirstSteps, Made, Player, make_together
from phenaki.play.protocol import parse
from phenaki.play.recording import Recording, to_picture

MOVES = [{"type": "move", "action": name, "value": 1.5} for name in ("mouse_x", "throttle")]
START = parse(json.dumps(SOUND[0]))
STRONG = (1e6, -1e6, 1e38, 1e308, 3, "steps", "temperature", "top_k", "guidance_scale", "mouse_x", "throttle")


class Messages(Surface):
    """Messages of a client, of which each has an effect or is answered with a sentence."""

    name, weight = "messages", 0.05

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.model = causal_model(tiny_model().components)

    def case(self, rng: Random) -> Case:
        sound = [*SOUND, *MOVES]
        texts = [json.dumps(SOUND[0]), *(self._text(rng.choice(sound), rng) for _ in range(rng.choice((1, 2, 5))))]
        return Case(ascii(texts)[:300], lambda: self._play(texts))

    def _text(self, message: dict[str, Any], rng: Random) -> str:
        if rng.random() < 0.3:
            key = rng.choice([key for key in message if key != "type"] or ["id"])
            return json.dumps(message | {key: rng.choice(STRONG)})
        text = json.dumps(mutate_json(message, rng) if rng.random() < 0.8 else rng.choice(ODD))
        return mutate_bytes(text.encode(), rng).decode(errors="replace") if rng.random() < 0.3 else text

    def _play(self, texts: list[str]) -> None:
        """Beside another client, whose video goes on whatever this one says."""
        first_steps = FirstSteps()
        player, other = (Player(self.model, 1, first_steps) for _ in range(2))
        make_together([(other, [START], True)])
        said = []
        for text in texts:
            try:
                messages = [parse(text)]
            except PhenakiError as error:
                said.append(str(error))
                continue
            made, beside = make_together([(player, messages, True), (other, [], True)])
            assert isinstance(beside, Made) and beside.clip is not None and not beside.errors
            said += [str(made)] if isinstance(made, PhenakiError) else [sentence for _, sentence in made.errors]
        if said:
            raise PhenakiError(said[0])


class Replays(Surface):
    """The description of a video that was played: it is played again, or refused."""

    name, weight = "replays", 0.05

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.model = causal_model(tiny_model().components)
        player = Player(self.model, 1, FirstSteps())
        for message in (
            SOUND[0] | {"picture": to_picture(encode_png(np.zeros((16, 16, 3), np.uint8)), (16, 16))},
            *SOUND[1:3],
            *MOVES,
        ):
            make_together([(player, [parse(json.dumps(message))], True)])
        self.sound = json.loads(json.dumps(player.snapshot()[1].metadata))

    def case(self, rng: Random) -> Case:
        fields = mutate_json(self.sound["play"], rng)
        return Case(ascii(fields)[:300], lambda: self._replay(fields))

    def _replay(self, fields: Any) -> None:
        recording = Recording.from_metadata(self.sound | {"play": fields}, "the file")
        for clip in islice(recording.frames_of(self.model), 8):
            assert clip.dtype == np.uint8
