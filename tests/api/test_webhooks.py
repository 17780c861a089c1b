"""Webhooks, from the job's end to a receiver on this machine that checks the signature."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.exceptions import InvalidSignature

from svd_core.jobs.webhook_outbox import Delivery
from tests.fakes.fal_server import KEY, FalServer, fal_server
from tests.fakes.webhook_receiver import Hook, Receiver, receiving
from tests.fakes.work import FakeWork

APP = "fal-ai/stable-video"


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


def letter(server: FalServer, job: str, state: str) -> Delivery:
    for _ in range(400):
        found = server.outbox.delivery(job)
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


@pytest.mark.parametrize("wrong_body", [{"fps": 500}, {"image_url": "http://127.0.0.1:9/a.png"}])
def test_an_error_is_told_with_its_answer(
    server: FalServer, receiver: Receiver, uri: str, wrong_body: dict[str, Any]
) -> None:
    wrong = submit(server, receiver.url, {"image_url": uri} | wrong_body)
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
