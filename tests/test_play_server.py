"""The server of `phenaki play`: sessions, the line before them, steering, and what it refuses."""

from __future__ import annotations

import base64
import io
import json
import multiprocessing
import os
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed")

from PIL import Image
from websockets.exceptions import ConnectionClosed, InvalidStatus

from helpers.playing import PROMPT, Client, bidirectional_model, causal_model, serve
from phenaki.cli.replay import read_recording
from phenaki.conditioning import WordEncoder
from phenaki.core.errors import PhenakiError
from phenaki.generators import Components, MaskedTransformer
from phenaki.media.reader import read_video
from phenaki.pipeline import Domain, Event, LiveWorld, Phenaki
from phenaki.play import connection as play_connection
from phenaki.play import idle as play_idle
from phenaki.play import player
from phenaki.play import security as play_security
from phenaki.play import session as play_session
from phenaki.play.inputs import merge
from phenaki.play.player import FirstSteps, Player, make_together
from phenaki.play.protocol import Adjust, Move, Press, Release, Say, Start
from phenaki.tokenizers import CViViT


@pytest.fixture
def base(tokenizer: CViViT, text_encoder: WordEncoder, generator: MaskedTransformer) -> Components:
    return Components(generator, tokenizer, text_encoder)


@pytest.fixture
def model(base: Components) -> Phenaki:
    return causal_model(base)


@pytest.fixture
def address(model: Phenaki) -> Iterator[str]:
    with serve(model) as address:
        yield address


def request(
    address: str, path: str, body: object = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes, dict[str, str]]:
    """Status, body and headers of an answer; a body that is not bytes is sent as JSON."""
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    headers = {"content-type": "application/json"} | (headers or {})
    try:
        with urllib.request.urlopen(
            urllib.request.Request(f"http://{address}{path}", data, headers), timeout=30
        ) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), dict(error.headers)


def detail(answer: tuple[int, bytes, dict[str, str]]) -> str:
    return json.loads(answer[1])["detail"]


def test_frames_are_those_of_the_model(model: Phenaki, address: str) -> None:
    with Client(address) as client:
        client.start(seed=4, fast=True)
        got = [client.step() for _ in range(4)]
    world = model.play(PROMPT, seed=4)
    for number, (header, frames) in enumerate(got, start=1):
        assert header[:2] == (number, 0) and np.array_equal(frames, world.step())


def test_a_video_that_begins_again_is_the_same(model: Phenaki, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first step is known then."""
    steps = []
    step = LiveWorld.step
    monkeypatch.setattr(LiveWorld, "step", lambda world: steps.append(world.latent_frames) or step(world))
    videos = []
    with Client(address) as client:
        for number, options in enumerate(({}, {}, {"temperature": 0.5}), start=1):
            client.start(seed=4, fast=True, id=number, options=options)
            while (received := client.step())[0][1] != number:
                pass
            videos.append([received[1], *(client.step()[1] for _ in range(3))])
    assert steps.count(0) == 2
    assert all(np.array_equal(*pair) for pair in zip(*videos[:2], strict=True))
    assert not np.array_equal(videos[0][0], videos[2][0])


def test_a_key_changes_the_next_latent_frame(model: Phenaki, address: str) -> None:
    with Client(address) as client:
        client.start(fast=True)
        client.step()
        client.send(type="press", action="left", id=5)
        while (received := client.step())[0][1] != 5:
            pass
        number = received[0][0]
        changed, plain = model.play(PROMPT), model.play(PROMPT)
        for _ in range(number - 1):
            changed.step(), plain.step()
        changed.press("left")
        assert np.array_equal(received[1], changed.step()) and not np.array_equal(received[1], plain.step())


@pytest.mark.parametrize(
    "message",
    [
        {"type": "say", "prompt": "a green square"},
        {"type": "move", "action": "mouse_x", "value": 3.0},
        {"type": "move", "action": "throttle", "value": 0.5},
        {"type": "adjust", "option": "guidance_scale", "value": 1.0},
        {"type": "adjust", "option": "temperature", "value": 0.1},
    ],
    ids=lambda message: next(iter({"action", "option", "prompt"} & set(message))),
)
def test_what_is_played_comes_again_from_the_saved_video(
    address: str, model: Phenaki, tmp_path: Path, message: dict
) -> None:
    with Client(address) as client:
        client.start(seed=2, options={"temperature": 0.8})
        name = client.wait_for("admitted")["session"] if not client.messages else ""
        frames = [client.step()[1]]
        name = name or next(m["session"] for m in client.messages if m["type"] == "admitted")
        client.send(**message, id=1)
        while True:
            header, clip = client.step()
            frames.append(clip)
            if header[1] == 1:
                break
        client.send(type="pause")
        status, data, headers = request(address, f"/api/sessions/{name}/video.mp4")
    assert status == 200 and headers["content-disposition"].startswith("attachment")
    path = tmp_path / "saved.mp4"
    path.write_bytes(data)
    recording = read_recording(path)
    again = np.concatenate(list(recording.frames_of(model)))
    played = np.concatenate(frames)
    assert np.array_equal(again[: len(played)], played)
    assert [event.kind for event in recording.events] == [message["type"]]
    assert read_video(path).frames.shape[1:] == (128, 128, 3)


def test_two_sessions_do_not_mix_and_a_third_waits(model: Phenaki, address: str) -> None:
    with Client(address) as one, Client(address) as two:
        one.start(seed=1, fast=True)
        two.start(seed=2, fast=True)
        worlds = [model.play(PROMPT, seed=seed) for seed in (1, 2)]
        for _ in range(4):
            for client, world in zip((one, two), worlds, strict=True):
                assert np.array_equal(client.step()[1], world.step())
        with Client(address) as three, Client(address) as four:
            three.start(fast=True)
            assert three.wait_for("waiting")["position"] == 1
            four.start()
            assert four.wait_for("waiting") == {"type": "waiting", "position": 2, "waiting": 2}
            assert request(address, "/api/video", {"prompt": PROMPT})[0] == 503
            one.socket.close()
            three.wait_for("admitted")
            assert three.step()[0][0] == 1
            assert four.wait_for("waiting")["position"] == 1


def test_sessions_that_wait_for_a_worker_are_computed_in_one_batch(
    model: Phenaki, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, together = [], player.step_together
    monkeypatch.setattr(player, "step_together", lambda worlds: sizes.append(len(worlds)) or together(worlds))
    with serve(model, sessions=3) as address, Client(address) as a, Client(address) as b, Client(address) as c:
        clients, worlds = (a, b, c), [model.play(PROMPT, seed=seed) for seed in range(3)]
        for seed, client in enumerate(clients):
            client.start(seed=seed, fast=True)
        for _ in range(6):
            for client, world in zip(clients, worlds, strict=True):
                assert np.array_equal(client.step()[1], world.step())
    assert max(sizes) > 1


def test_the_error_of_one_video_is_not_that_of_others(model: Phenaki) -> None:
    players = [Player(model, 1, FirstSteps()) for _ in range(2)]
    players[0].begin(PROMPT, 0, {}, "", (Event(0, "press", "jump"),))
    players[1].begin(PROMPT, 0, {}, "")
    error, made = make_together([(each, [], True) for each in players])
    assert isinstance(error, PhenakiError) and "no button 'jump'" in str(error)
    assert made.clip.shape == (1, 32, 32, 3) and made.number == 1


def test_the_beat_is_the_frame_rate_of_the_model(address: str) -> None:
    with Client(address) as client:
        client.start()
        client.step(), client.step()
        began = time.monotonic()
        for _ in range(4):
            client.step()
        seconds = time.monotonic() - began
    assert 0.7 < seconds < 2  # 4 latent frames of 2 frames at 8 per second


def test_a_pause_holds_and_answers(address: str) -> None:
    with Client(address) as client:
        client.start(fast=True)
        client.step()
        client.send(type="pause")
        client.send(type="say", prompt="", id=3)
        assert client.wait_for("error")["id"] == 3
        with pytest.raises(TimeoutError):
            while True:
                client.receive(0.5)
        client.send(type="resume")
        client.step()


def test_a_slow_client_misses_frames_and_holds_nobody(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(play_session, "ACK_TIMEOUT", 1.0)
    monkeypatch.setattr(Phenaki, "fps", 50.0)
    with Client(address) as slow, Client(address) as quick:
        slow.acknowledge = False
        slow.start(fast=True)
        quick.start(fast=True)
        numbers = [slow.step()[0][0] for _ in range(2)]
        seen = [quick.step()[0][0] for _ in range(20)]
        assert seen == list(range(1, 21))
        time.sleep(1.5)
        slow.send(type="ack", latent_frame=2)
        slow.acknowledge = True
        header = slow.step()[0]
        assert numbers == [1, 2] and header[0] > 3 and header[5] == header[0] - 3
        time.sleep(0.3)
        later = slow.step()[0]
        assert later[0] - header[0] < 9  # it stopped for want of acknowledgements


def test_a_new_start_begins_another_video(model: Phenaki, address: str) -> None:
    with Client(address) as client:
        client.start(fast=True)
        client.step(), client.step()
        client.start("a green square", seed=9, fast=True, id=4)
        while (received := client.step())[0][:2] != (1, 4):
            pass
        assert np.array_equal(received[1], model.play("a green square", seed=9).step())


def picture(size: tuple[int, int] = (50, 40), form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(buffer, form)
    return buffer.getvalue()


def test_a_picture_begins_a_video(model: Phenaki, address: str, tmp_path: Path) -> None:
    status, fitted, _ = request(address, "/api/picture", picture(form="JPEG"))
    assert status == 200
    with Image.open(io.BytesIO(base64.b64decode(fitted))) as image:
        assert image.size == (32, 32)
    with Client(address) as client:
        client.start(picture=fitted.decode(), fast=True)
        header, frames = client.step()
        assert header[0] == 2 and len(frames) == 2
        client.send(type="pause")
        name = next(m["session"] for m in client.messages if m["type"] == "admitted")
        (tmp_path / "saved.mp4").write_bytes(request(address, f"/api/sessions/{name}/video.mp4")[1])
    again = np.concatenate(list(read_recording(tmp_path / "saved.mp4").frames_of(model)))
    assert np.array_equal(again[:2], frames)


def test_a_post_returns_a_video_that_can_be_repeated(model: Phenaki, address: str, tmp_path: Path) -> None:
    events = [{"latent_frame": 2, "kind": "press", "name": "left"}]
    body = {"prompt": PROMPT, "seconds": 1, "seed": 3, "events": events, "upscale": 2}
    status, data, headers = request(address, "/api/video", body)
    assert status == 200 and headers["content-type"] == "video/mp4"
    (tmp_path / "video.mp4").write_bytes(data)
    assert read_video(tmp_path / "video.mp4").frames.shape == (8, 64, 64, 3)
    recording = read_recording(tmp_path / "video.mp4")
    world = model.play(PROMPT, seed=3)
    frames = [world.step(), world.step()]
    world.press("left")
    frames += [world.step() for _ in range(3)]
    again = np.concatenate(list(recording.frames_of(model)))
    assert np.array_equal(again, np.concatenate(frames)[:8])


def test_a_bidirectional_model_plays_scenes_and_says_so(base: Components) -> None:
    with serve(bidirectional_model(base)) as address:
        assert json.loads(request(address, "/api/model")[1])["causal"] is False
        with Client(address) as client:
            client.start(fast=True)
            assert client.wait_for("model")["actions"] == []
            assert len(client.step()[1]) == 11
            client.send(type="press", action="left")
            assert "writes whole scenes" in client.wait_for("error")["message"]


def test_the_page_needs_nothing_from_elsewhere(address: str) -> None:
    for name in ("", "api.html", "play.js", "keys.js", "screen.js", "chart.js", "api.js", "style.css", "icon.svg"):
        status, body, headers = request(address, f"/{name}")
        assert status == 200 and headers["content-security-policy"].startswith("default-src 'self'")
        assert b"//" not in body.replace(b"http://www.w3.org/2000/svg", b"").replace(b"}://${", b"") or name.endswith(
            ".js"
        )
        for elsewhere in (b'src="http', b'href="http', b'from "http', b"@import", b"url("):
            assert elsewhere not in body
    assert request(address, "/../server.py")[0] == 404


def test_the_interface_describes_itself(address: str) -> None:
    openapi = json.loads(request(address, "/openapi.json")[1])
    assert {"/api/model", "/api/video", "/api/picture", "/api/sessions/{name}/video.mp4"} <= set(openapi["paths"])
    assert "discriminator" in json.loads(request(address, "/api/protocol")[1])


# ---- bad input


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ("junk", "not a message: invalid JSON.*not 'junk'"),
        ("[]", "not a message"),
        ('{"type": "jump"}', "jump|Input tag"),
        ('{"type": "start"}', "prompt: field required"),
        ('{"type": "start", "prompt": "a", "seed": -1}', "seed.*greater than or equal to 0"),
        ('{"type": "start", "prompt": "a", "file": "/etc/passwd"}', "file: extra"),
        ('{"type": "start", "prompt": "a", "picture": "%%%"}', "not in base64"),
        ('{"type": "start", "prompt": "a", "picture": "aGFsbG8="}', "no PNG, JPEG"),
        ('{"type": "start", "prompt": "a", "options": {"step": 3}}', "'step' cannot be adjusted.*Did you mean 'steps'"),
        ('{"type": "start", "prompt": "a", "options": {"seed": 3}}', "'seed' cannot be adjusted"),
        ('{"type": "start", "prompt": "a", "options": {"steps": NaN}}', "finite|NaN|number"),
        ('{"type": "say", "prompt": "%s"}' % ("x" * 100_000), "at most 1000 characters, not 100,000 characters"),
        ('{"type": "start", "prompt": "a", "options": {"steps": 1e6}}', "steps 1e\\+06: use at most 100 here"),
        ("[" * 100_000, "not a message"),
        ('{"type": "say", "prompt": "\\ud800"}', "not a message|surrogate|UTF-8|no video"),
        ('{"type": "say", "prompt": "a"}', "there is no video yet to say"),
        ('{"type": "press", "action": "left"}', "there is no video yet to press"),
    ],
)
def test_a_bad_message_is_answered_with_a_sentence(address: str, message: str, sentence: str) -> None:
    with Client(address) as client:
        client.socket.send(message)
        answer = client.wait_for("error")["message"]
        assert len(answer) < 300
        with pytest.raises(AssertionError, match=sentence):
            raise AssertionError(answer)
        client.start()
        client.step()  # and the session goes on


def test_bad_steering_is_answered_and_the_video_goes_on(address: str) -> None:
    with Client(address) as client:
        client.start(fast=True)
        client.step()
        for message, sentence in (
            ({"type": "press", "action": "lef"}, "no button 'lef'.*Did you mean 'left'"),
            ({"type": "say", "prompt": "  "}, "the prompt is empty"),
            ({"type": "adjust", "option": "steps", "value": 0}, "steps 0"),
            ({"type": "adjust", "option": "steps", "value": 5_000}, "steps 5000: use at most 100"),
        ):
            client.send(**message, id=7)
            error = client.wait_for("error")
            assert error["id"] == 7
            with pytest.raises(AssertionError, match=sentence):
                raise AssertionError(error["message"])
        client.step()


def end_of(client: Client) -> tuple[str, int]:
    """Why a session ended, as its client is told, and the code of the connection's end."""
    message = client.wait_for("end")["message"]
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            client.receive()
    return message, closed.value.rcvd.code


def test_ten_thousand_messages_end_the_session(address: str) -> None:
    with Client(address) as client, Client(address) as other:
        other.start(fast=True)
        with suppress(ConnectionClosed):
            for _ in range(10_000):
                client.send(type="press", action="left")
        with pytest.raises(ConnectionClosed):
            while True:
                client.receive()
        assert any("messages a second" in m.get("message", "") for m in client.messages)
        other.step()


def test_a_message_without_end_ends_the_connection(address: str) -> None:
    with Client(address) as client:
        client.socket.send("x" * 2_000_000)
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                client.receive()
        assert closed.value.rcvd.code == 1009


def test_silence_ends_a_session(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(play_connection, "FIRST_MESSAGE_SECONDS", 0.5)
    with Client(address) as client:
        message, code = end_of(client)
    assert "send a start" in message and code == 1008


def test_an_idle_session_ends_sooner_while_others_wait(model: Phenaki, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(play_connection, "IDLE_IN_LINE_SECONDS", 1.0)
    with serve(model, sessions=1) as address, Client(address) as first, Client(address) as second:
        first.start()
        first.step()
        second.start()
        assert "no input" in end_of(first)[0]
        second.wait_for("admitted")


def test_the_end_of_the_server_is_announced(model: Phenaki) -> None:
    with serve(model) as address:
        client = Client(address)
        client.start(fast=True)
        client.step()
    with client:
        assert end_of(client) == ("the server was stopped", 1001)


def test_other_names_and_other_pages_are_refused(address: str) -> None:
    port = address.rpartition(":")[2]
    assert request(address, "/")[0] == 200
    assert request(f"localhost:{port}", "/", headers={"Origin": f"http://localhost:{port}"})[0] == 200
    for headers, sentence in (
        ({"Host": "evil.example"}, b"--allow-host evil.example"),
        ({"Host": ""}, b"--allow-host"),
        ({"Host": "["}, b"is not called '['"),
        ({"Origin": "http://["}, b"pages of 'http://[' may not"),
        ({"Origin": "http://evil.example"}, b"pages of 'http://evil.example' may not"),
        ({"Origin": "null"}, b"pages of 'null' may not"),
    ):
        status, body, _ = request(address, "/api/model", headers=headers)
        assert status == 403 and sentence in body
    with pytest.raises(InvalidStatus, match="403"):
        Client(address, origin="http://evil.example")
    with Client(address, origin=f"http://{address}") as client:
        client.wait_for("model")


def test_clients_are_bounded(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(play_connection, "_MOST_CLIENTS", 1)
    with Client(address) as client:
        client.wait_for("model")
        with pytest.raises(InvalidStatus, match="403"):
            Client(address)


def test_who_asks_for_nothing_or_without_end_is_sent_away(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(play_idle, "IDLE_SECONDS", 0.5)
    monkeypatch.setattr(play_security, "UPLOAD_SECONDS", 0.5)
    host, port = address.split(":")
    head = f"POST /api/picture HTTP/1.1\r\nHost: {address}\r\nContent-Length: 9\r\n\r\n"
    for sent, answer in (("", b""), ("GET /api/mo", b""), (head, b"HTTP/1.1 408"), (head[:-2], b"")):
        with socket.create_connection((host, int(port)), timeout=20) as client:
            client.sendall(sent.encode())
            assert client.recv(12) == answer


def test_a_closed_connection_whose_client_takes_nothing_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, transport = mock.Mock(), mock.Mock(is_closing=lambda: True)
    monkeypatch.setattr(time, "monotonic", clock)
    connections, idle = [mock.Mock(transport=transport, spec=["transport"])], play_idle.IdleConnections()
    for now, left in ((0.0, 100), (29.0, 100), (31.0, 50), (60.0, 50), (62.0, 50)):  # it takes some in between
        assert not transport.abort.called
        clock.return_value, transport.get_write_buffer_size.return_value = now, left
        idle.end(connections)
    assert transport.abort.called


def test_uploads_are_bounded(address: str) -> None:
    bomb = io.BytesIO()
    Image.new("1", (8_000, 8_000)).save(bomb, "PNG")
    for data, status, sentence in (
        (b"no picture", 400, "no PNG, JPEG"),
        (b"", 400, "no PNG, JPEG"),
        (picture()[:60], 400, "broken one"),
        (bomb.getvalue(), 400, "25,000,000"),
        (b"x" * 16_000_001, 413, "16 MB"),
    ):
        answer = request(address, "/api/picture", data)
        assert answer[0] == status and sentence in detail(answer)


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ({"prompt": ""}, 400, "the prompt is empty"),
        ({"prompt": "x" * 2_000}, 422, "at most 1000"),
        ({"prompt": "a", "seconds": 1e9}, 422, "less than or equal to 60"),
        ({"prompt": "a", "events": [{"latent_frame": 0, "kind": "press", "name": "jump"}]}, 400, "no button 'jump'"),
        (b"{", 422, "JSON"),
        (b" " * 17_000_000, 413, "16 MB"),
    ],
)
def test_a_bad_request_is_answered_with_a_sentence(address: str, body: object, status: int, sentence: str) -> None:
    answer = request(address, "/api/video", body)
    assert answer[0] == status and sentence in detail(answer)


def test_a_session_that_is_over_has_no_video(address: str) -> None:
    assert "no such session" in detail(request(address, "/api/sessions/unknown/video.mp4"))


def test_a_broken_connection_can_be_taken_up_again(model: Phenaki, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(play_connection, "REJOIN_SECONDS", 1.0)
    with serve(model, sessions=1) as address:
        client = Client(address)
        client.start(fast=True)
        number = [client.step()[0][0] for _ in range(3)][-1]
        name = next(m["session"] for m in client.messages if m["type"] == "admitted")
        client.socket.socket.shutdown(socket.SHUT_RDWR)  # without a word
        with Client(address, session=name) as again:
            assert again.wait_for("model")["rejoined"]
            assert again.step()[0][0] > number
            with Client(address, session=name) as third:  # as if the server had not noticed the end of the second
                assert third.wait_for("model")["rejoined"]
                assert end_of(again)[0] == "this session goes on in another connection"
                third.step()
                third.socket.socket.shutdown(socket.SHUT_RDWR)
        with Client(address) as other:
            other.start()
            assert other.wait_for("waiting")["position"] == 1
            other.wait_for("admitted")  # the session is over, since nobody came back
            assert request(address, f"/api/sessions/{name}/video.mp4")[0] == 404


@pytest.mark.filterwarnings("ignore::phenaki.core.errors.PhenakiWarning")
def test_words_that_are_new_to_the_model_are_noted(model: Phenaki) -> None:
    model.domain = Domain("shapes", (PROMPT,), ("a", "red", "circle"))
    with serve(model) as address, Client(address) as client:
        client.start("a red cat")
        assert client.wait_for("note")["message"].endswith("new to it: cat")
        client.step()


def test_many_messages_come_to_few() -> None:
    messages = [
        *(Start(type="start", prompt="old"), Say(type="say", prompt="old"), Start(type="start", prompt="new")),
        *(Say(type="say", prompt=str(number)) for number in range(50)),
        *(Press(type="press", action="left"), Release(type="release", action="left")) * 3,
        *(Release(type="release", action="right"), Press(type="press", action="right")),
        *(Move(type="move", action="mouse", value=value) for value in (1, 2)),
        *(Move(type="move", action="throttle", value=value) for value in (1, 2)),
        *(Adjust(type="adjust", option=option, value=3) for option in ("steps", "steps", "top_k")),
    ]
    merged = [
        tuple(message.model_dump(exclude={"id", "seed", "options", "picture", "fast"}).values())
        for message in merge(messages, frozenset({"mouse"}))
    ]
    assert merged == [
        ("start", "new"),
        ("say", "49"),
        ("press", "left"),
        ("release", "left"),
        ("press", "right"),
        ("move", "mouse", 3),
        ("move", "throttle", 2),
        ("adjust", "steps", 3),
        ("adjust", "top_k", 3),
    ]


def test_workers_are_processes_that_may_die(model: Phenaki) -> None:
    before = set(multiprocessing.active_children())
    with serve(model, processes=1) as address:
        with Client(address) as client:
            client.start(seed=4)
            assert np.array_equal(client.step()[1], model.play(PROMPT, seed=4).step())
            (worker,) = set(multiprocessing.active_children()) - before
            os.kill(worker.pid, signal.SIGKILL)
            assert "has died: begin again" in end_of(client)[0]
        with Client(address) as client:
            client.start()
            client.step()
    assert set(multiprocessing.active_children()) <= before
