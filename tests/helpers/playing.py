"""A server of `phenaki play` in a thread, and a client of it."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from phenaki.core.actions import ActionSpec
from phenaki.generators import CausalTransformer, CausalTransformerSizes, Components, MaskedTransformer
from phenaki.pipeline import Domain, Phenaki
from phenaki.play.engine import Engine
from phenaki.play.protocol import HEADER
from phenaki.play.server import Settings, make_server

PROMPT = "a red circle"
SPEC = ActionSpec(("left", "right", "mouse_x", "throttle"), ("button", "button", "relative", "level"))


def causal_model(base: Components, actions: ActionSpec | None = SPEC) -> Phenaki:
    """A tiny model on the tokenizer and text encoder of `base`, whose frames change with every action."""
    torch.manual_seed(0)
    sizes = CausalTransformerSizes(frames=21, width=64, layers=2, window=3)
    generator = CausalTransformer(sizes.config(base.tokenizer.spec, base.text_encoder.width, actions))
    if actions is not None:
        torch.nn.init.normal_(generator.actions.weight)
    model = Phenaki(Components(generator, base.tokenizer, base.text_encoder), name="tiny")
    model.sampling = model.sampling.with_options({"steps": 2})
    model.domain = Domain("shapes", (PROMPT, "now it turns blue"))
    return model


def bidirectional_model(base: Components) -> Phenaki:
    assert isinstance(base.generator, MaskedTransformer)
    model = Phenaki(base, name="scenes")
    model.sampling = model.sampling.with_options({"steps": 2, "prime_frames": 1})
    return model


@contextmanager
def serve(model: Phenaki, processes: int = 0, **settings: Any) -> Iterator[str]:
    """The address, such as "127.0.0.1:8300", of a server of the model; `settings`: those of `Settings`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        engine = Engine(model, processes)
        server = make_server(engine, Settings(**{"sessions": 2} | settings))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)
            engine.close()
            assert not thread.is_alive()


class Client:
    """A session over a WebSocket. messages: JSON received so far. acknowledge: whether frames are acknowledged."""

    def __init__(self, address: str, session: str = "", **options: Any) -> None:
        self.address, self.messages, self.acknowledge = address, [], True
        self._opened = connect(f"ws://{address}/api/play?session={session}", **options)
        self.socket: ClientConnection = self._opened.__enter__()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.__exit__(None, None, None)

    def send(self, **message: Any) -> None:
        self.socket.send(json.dumps(message))

    def start(self, prompt: str = PROMPT, **fields: Any) -> None:
        self.send(type="start", prompt=prompt, **fields)

    def receive(self, timeout: float = 20.0) -> dict[str, Any] | tuple[tuple, np.ndarray]:
        """A JSON message, or the header of a latent frame and its pixels uint8 (n, H, W, 3)."""
        message = self.socket.recv(timeout)
        if isinstance(message, str):
            self.messages.append(json.loads(message))
            return self.messages[-1]
        header = HEADER.unpack_from(message)
        if self.acknowledge:
            with suppress(ConnectionClosed):  # what came before is still to be read
                self.send(type="ack", latent_frame=header[0])
        return header, np.frombuffer(message, np.uint8, offset=HEADER.size).reshape(*header[2:5], 3)

    def step(self) -> tuple[tuple, np.ndarray]:
        """The next latent frame."""
        while isinstance(received := self.receive(), dict):
            pass
        return received

    def wait_for(self, kind: str, seconds: float = 20.0) -> dict[str, Any]:
        """The next JSON message of a type."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            received = self.receive(max(0.01, end - time.monotonic()))
            if isinstance(received, dict) and received["type"] == kind:
                return received
        raise AssertionError(f"no {kind} in {seconds} s: {self.messages}")
