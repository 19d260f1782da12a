"""What the requests to a server share."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field
from typing import Any

from phenaki.core.config import to_dict
from phenaki.core.version import __version__
from phenaki.play.engine import Engine, Lobby
from phenaki.play.keys import bind_keys
from phenaki.play.session import Session


@dataclass
class Settings:
    """sessions: at once. idle_seconds: without an input, until a session ends. hosts: names that the server may be
    called."""

    sessions: int
    idle_seconds: float = 1800.0
    hosts: tuple[str, ...] = ()


@dataclass
class Server:
    """What the routes share."""

    engine: Engine
    settings: Settings
    lobby: Lobby = field(init=False)
    sessions: dict[str, Session] = field(default_factory=dict)
    connected: int = 0
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.lobby = Lobby(self.settings.sessions)

    def new_session(self) -> Session:
        """One that nobody can guess the name of."""
        return Session(self.engine, secrets.token_urlsafe(16))

    def describe(self) -> dict[str, Any]:
        """The model and what it can be asked, for the page and other clients."""
        model = self.engine.model
        causal, sampling = model.generator.has_cache, model.sampling
        height, width = model.image_size
        return {
            "name": self.engine.name,
            "fps": model.fps,
            "height": height,
            "width": width,
            "causal": causal,
            "frames_per_step": model.tokenizer.patch[0] if causal else model.generator.config.frames - 1,
            "actions": bind_keys(model.generator.config.actions if causal else None),
            "examples": list(model.domain.prompts),
            "subject": model.domain.subject,
            "options": {
                "guidance_scale": sampling.guidance.scale,
                "steps": sampling.decoding.steps,
                "temperature": sampling.decoding.temperature,
            },
            "sampling": to_dict(sampling),
            "sessions": self.settings.sessions,
            "playing": self.lobby.playing,
            "waiting": self.lobby.waiting,
            "phenaki": __version__,
        }
