"""Webhooks, from the job's end to a receiver on this machine that checks the signature."""

import base64
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from svd_core.jobs.outbox import Letter
from tests.fake_work import FakeWork
from tests.fal_server import KEY, FalServer, fal_server

APP = "fal-ai/stable-video"


@dataclass(frozen=True)
class Hook:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def told(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found

    def check(self, key_set: dict[str, Any]) -> None:
        """As a receiver does it that knows nothing but the published keys."""
        own = {name.lower(): value for name, value in self.headers.items()}
        assert abs(int(own["x-fal-webhook-timestamp"]) - time.time()) < 300
        names = ("request-id", "user-id", "timestamp")
        parts = [own[f"x-fal-webhook-{name}"] for name in names]
        message = "\n".join([*parts, hashlib.sha256(self.body).hexdigest()]).encode()
        signature = bytes.fromhex(own["x-fal-webhook-signature"])
        (key,) = key_set["keys"]
        assert (key["kty"], key["crv"]) == ("OKP", "Ed25519")
        raw = base64.urlsafe_b64decode(key["x"] + "=")
        Ed25519PublicKey.from_public_bytes(raw).verify(signature, message)


@dataclass
class Receiver:
    """`answer` gives the status for the hook of that number, counted from 0."""

    url: str = ""
    hooks: list[Hook] = field(default_factory=list)
    answer: Callable[[int], int] = lambda _: 200

    def wait_for(self, count: int) -> list[Hook]:
        for _ in range(400):
            if len(self.hooks) >= count:
                return self.hooks
            time.sleep(0.02)
        raise AssertionError(f"{len(self.hooks)} hooks")


@contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = receiver.answer(len(receiver.hooks))
            receiver.hooks.append(Hook(self.path, dict(self.headers), body))
            self.send_response(status)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.url = f"http://127.0.0.1:{server.server_port}/hook?secret=1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


def submit(server: FalServer, hook: str, body: dict[str, Any]) -> str:
    answer = httpx.post(
        f"{server.url}/queue/{APP}",
        params={"fal_webhook": hook},
        json=body,
        headers={"Authorization": f"Key {KEY}"},
    )
    assert answer.status_code == 200, answer.text
    job: str = answer.json()["request_id"]
    return job


def letter(server: FalServer, job: str, state: str) -> Letter:
    for _ in range(400):
        found = server.outbox.letter(job)
        if found is not None and found.state == state:
            return found
        time.sleep(0.02)
    raise AssertionError(found)


def key_set(server: FalServer) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{server.url}/rest/.well-known/jwks.json").json()
    return found


def test_a_video_is_told_signed(server: FalServer, receiver: Receiver, uri: str) -> None:
    job = submit(server, receiver.url, {"image_url": uri, "seed": 31})
    (hook,) = receiver.wait_for(1)
    hook.check(key_set(server))
    result = httpx.get(
        f"{server.url}/queue/{APP}/requests/{job}", headers={"Authorization": f"Key {KEY}"}
    )
    assert hook.path == "/hook?secret=1"
    assert hook.headers["content-type"] == "application/json"
    assert hook.headers["x-fal-webhook-request-id"] == job
    assert hook.headers["x-fal-webhook-user-id"] == "ann"
    assert hook.told == {
        "request_id": job,
        "gateway_request_id": job,
        "status": "OK",
        "payload": result.json(),
    }
    assert httpx.get(hook.told["payload"]["video"]["url"]).content[4:8] == b"ftyp"
    assert letter(server, job, "delivered").tries == 1


def test_a_changed_body_is_noticed(server: FalServer, receiver: Receiver, uri: str) -> None:
    submit(server, receiver.url, {"image_url": uri})
    (hook,) = receiver.wait_for(1)
    with pytest.raises(InvalidSignature):
        Hook(hook.path, hook.headers, hook.body.replace(b"OK", b"NO")).check(key_set(server))


def test_an_error_is_told_with_its_answer(server: FalServer, receiver: Receiver, uri: str) -> None:
    wrong = submit(server, receiver.url, {"image_url": uri, "fps": 500})
    (hook,) = receiver.wait_for(1)
    hook.check(key_set(server))
    result = httpx.get(
        f"{server.url}/queue/{APP}/requests/{wrong}", headers={"Authorization": f"Key {KEY}"}
    )
    assert result.status_code == 422
    assert hook.told == {
        "request_id": wrong,
        "gateway_request_id": wrong,
        "status": "ERROR",
        "error": "Invalid status code: 422",
        "payload": result.json(),
    }


def test_a_cancelled_job_is_told_too(server: FalServer, receiver: Receiver, uri: str) -> None:
    assert isinstance(server.work, FakeWork)
    with server.work.held():
        submit(server, receiver.url, {"image_url": uri})
        waiting = submit(server, receiver.url, {"image_url": uri})
        url = f"{server.url}/queue/{APP}/requests/{waiting}/cancel"
        httpx.put(url, headers={"Authorization": f"Key {KEY}"})
        (hook,) = receiver.wait_for(1)
    assert hook.told["request_id"] == waiting
    assert hook.told["error"] == "Invalid status code: 499"
    assert hook.told["payload"]["error_type"] == "client_cancelled"
    receiver.wait_for(2)


def test_a_receiver_that_fails_is_asked_again(
    server: FalServer, receiver: Receiver, uri: str
) -> None:
    receiver.answer = lambda number: (500, 429, 204)[number]
    job = submit(server, receiver.url, {"image_url": uri})
    hooks = receiver.wait_for(3)
    assert {hook.body for hook in hooks} == {hooks[0].body}
    for hook in hooks:
        hook.check(key_set(server))
    assert letter(server, job, "delivered").tries == 3


def test_a_receiver_that_always_fails_is_given_up(
    server: FalServer, receiver: Receiver, uri: str
) -> None:
    receiver.answer = lambda _: 503
    job = submit(server, receiver.url, {"image_url": uri})
    found = letter(server, job, "given up")
    assert found.tries == len(receiver.hooks) == 3
    assert "503" in found.problem


def test_a_redirect_is_not_followed(server: FalServer, receiver: Receiver, uri: str) -> None:
    receiver.answer = lambda _: 307
    job = submit(server, receiver.url, {"image_url": uri})
    found = letter(server, job, "given up")
    assert (found.tries, len(receiver.hooks)) == (1, 1)
    assert "redirect" in found.problem


def test_a_target_that_has_moved_inside_is_not_asked(
    server: FalServer, receiver: Receiver, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address is looked at again at each delivery: names change."""
    assert isinstance(server.work, FakeWork)
    with server.work.held():
        job = submit(server, receiver.url, {"image_url": uri})
        vars(server.parts)["fetcher"] = type(server.parts.fetcher)()  # private ones are off now
    try:
        found = letter(server, job, "given up")
    finally:
        vars(server.parts)["fetcher"] = type(server.parts.fetcher)(allow_private=True)
    assert receiver.hooks == []
    assert "private" in found.problem


def test_a_webhook_survives_a_restart_and_so_does_the_key(tmp_path: Path, uri: str) -> None:
    with receiving() as receiver:
        receiver.answer = lambda number: 503 if number == 0 else 200
        with fal_server(tmp_path) as server:
            keys = key_set(server)
            job = submit(server, receiver.url, {"image_url": uri})
            receiver.wait_for(1)
        with fal_server(tmp_path) as server:
            assert key_set(server) == keys
            hooks = receiver.wait_for(2)
            assert letter(server, job, "delivered")
    hooks[1].check(keys)
    first, second = hooks[0].told, hooks[1].told
    assert first == second
