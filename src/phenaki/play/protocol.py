"""The messages between the page, or another client, and the server.

A client sends JSON, `{"type": "say", "prompt": "..."}`, and gets JSON and, for frames, binary messages: a header of
HEADER.size bytes (`pack_frames`), then the pixels. All inputs are bounded here.
"""

from __future__ import annotations

import struct
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from phenaki.core.errors import PhenakiError
from phenaki.media.convert import Frames

LARGEST_MESSAGE = 1_000_000  # bytes; a first picture of the model's size fits in
LARGEST_UPLOAD = 16_000_000  # bytes of a picture
UPLOAD_SECONDS = 60.0  # in which a request must have come whole
LONGEST_PROMPT = 1_000  # characters; how many words, the model says
RATE, BURST = 100, 300  # messages a second, on average and at once
LONGEST_VIDEO = 60.0  # seconds that one request may ask for

HEADER = struct.Struct("<IIHHHHf")
"""Number of the latent frame; id of the last message that took effect in it; frames, height, width; latent frames
dropped before it because the client was slow; seconds that it took to make. Pixels follow: uint8 RGB, frame by frame,
row by row."""

Prompt = Annotated[str, Field(max_length=LONGEST_PROMPT)]
Name = Annotated[str, Field(max_length=100)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Options = Annotated[dict[Name, Number], Field(max_length=20)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Picture = Annotated[str, Field(max_length=LARGEST_MESSAGE, description="a file in base64, as /api/picture returns it")]


class _Input(BaseModel):
    model_config = ConfigDict(extra="forbid")

    id: int = Field(0, ge=0, lt=2**32, description="comes back in the header of the first frames that it changes")


class Start(_Input):
    """Begin a video, or begin anew."""

    type: Literal["start"]
    prompt: Prompt
    seed: Seed = 0
    options: Options = Field({}, description="sampling options, such as guidance_scale")
    picture: Picture = Field("", description="the first frame")
    fast: bool = Field(False, description="make frames as fast as they come, not at the model's frame rate")


class Say(_Input):
    """Go on under another prompt."""

    type: Literal["say"]
    prompt: Prompt


class Press(_Input):
    """Hold a button down."""

    type: Literal["press"]
    action: Name


class Release(_Input):
    type: Literal["release"]
    action: Name


class Move(_Input):
    """Move a relative axis, or set a level."""

    type: Literal["move"]
    action: Name
    value: Number


class Adjust(_Input):
    """Change a sampling option."""

    type: Literal["adjust"]
    option: Name
    value: Number


class Pause(_Input):
    type: Literal["pause"]


class Resume(_Input):
    type: Literal["resume"]


class Speed(_Input):
    """Make frames as fast as they come, or at the model's frame rate."""

    type: Literal["speed"]
    fast: bool


class Ack(_Input):
    """A latent frame is on the screen. Without acknowledgements the server sends two latent frames, then drops."""

    type: Literal["ack"]
    latent_frame: int = Field(ge=0)


Message = Annotated[
    Start | Say | Press | Release | Move | Adjust | Pause | Resume | Speed | Ack, Field(discriminator="type")
]
MESSAGES: TypeAdapter[Message] = TypeAdapter(Message)


class Step(BaseModel):
    """An event of a requested video: what is done before a latent frame is made."""

    model_config = ConfigDict(extra="forbid")

    latent_frame: int = Field(ge=0)
    kind: Literal["say", "press", "release", "move", "adjust"]
    name: Prompt
    value: Number = 0.0


class VideoRequest(BaseModel):
    """A video to be made in one go."""

    model_config = ConfigDict(extra="forbid")

    prompt: Prompt
    seconds: float = Field(5.0, gt=0, le=LONGEST_VIDEO)
    seed: Seed = 0
    options: Options = {}
    events: list[Step] = Field([], max_length=1_000)
    picture: Picture = Field("", description="the first frame, a file in base64")
    upscale: int = Field(4, ge=1, le=16, description="side of a square that becomes of each pixel")


def parse(text: str) -> Message:
    """A message of a client. Raises PhenakiError that says what is wrong with it."""
    try:
        return MESSAGES.validate_json(text)
    except ValidationError as error:
        raise PhenakiError(describe(error)) from error


def describe(error: ValidationError) -> str:
    """The first mistake of an input in a sentence."""
    mistake = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(key) for key in mistake["loc"])
    value = mistake.get("input")
    if isinstance(value, str) and len(value) > 60:
        seen = f"{len(value):,} characters"
    else:
        seen = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:57]}..."
    return f"{where + ': ' if where else 'not a message: '}{mistake['msg'][0].lower()}{mistake['msg'][1:]}, not {seen}"


def pack_frames(number: int, applied: int, clip: Frames, dropped: int, seconds: float) -> bytes:
    """The binary message of a latent frame, clip uint8 (n, H, W, 3)."""
    return HEADER.pack(number, applied, *clip.shape[:3], min(dropped, 0xFFFF), seconds) + clip.tobytes()
