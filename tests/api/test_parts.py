"""What the fal API is made of, piece by piece: keys, signed texts, secrets, the signature."""

import base64
import json
import os
import stat
import threading
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from svd_core.errors import InvalidSettings
from svd_core.events import Event, Progress, Stage, Stopped
from svd_core.jobs import JobEvent
from svd_core.messages import Message
from svd_core.web.fal.auth import ApiKeys
from svd_core.web.fal.job_status import follow, log_lines
from svd_core.web.fal.models import InvalidInput, read_input
from svd_core.web.fal.responses import ApiError, as_json, detail
from svd_core.web.fal.signed_tokens import SignedTokens, load_secret
from svd_core.web.fal.webhooks import Signer
from tests.fakes.errors import english, has_code

KEYS = "ann:s3cret,bob:other, ann:second"


def refused(keys: ApiKeys, header: str | None) -> str:
    with pytest.raises(ApiError) as caught:
        keys.owner(header)
    answer = caught.value.response
    assert (answer.status, answer.headers["X-Fal-Error-Type"]) == (401, "unauthorized")
    assert "s3cret" not in json.dumps(answer.body)
    detail: str = answer.body["detail"]
    return detail


@pytest.mark.parametrize(
    ("header", "owner"),
    [
        ("Key ann:s3cret", "ann"),
        ("Key ann:second", "ann"),
        ("key  bob:other ", "bob"),
        ("Bearer bob:other", "bob"),
    ],
)
def test_a_key_tells_its_owner(header: str, owner: str) -> None:
    assert ApiKeys(KEYS, open_here=True).owner(header) == owner


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        (None, "Authentication is required"),
        ("", "Authentication is required"),
        ("Key ann:wrong", "The key is unknown"),
        ("Key ann:s3cret2", "The key is unknown"),
        ("Key ann:", "The key is unknown"),
        ("Key carl:s3cret", "The key is unknown"),
        ("Key ann:other", "The key is unknown"),
        ("Key ann:s\udcff", "The key is unknown"),
        ("Key s3cret", "not of the form"),
        ("ann:s3cret", "not of the form"),
        ("Basic ann:s3cret", "not of the form"),
    ],
)
def test_whoever_has_no_key_hears_why(header: str | None, sentence: str) -> None:
    assert sentence in refused(ApiKeys(KEYS, open_here=True), header)


def test_without_keys_it_is_open_here_and_closed_elsewhere() -> None:
    assert ApiKeys("", open_here=True).owner(None) == ""
    assert ApiKeys("", open_here=True).owner("Key any:thing") == ""
    for header in (None, "Key any:thing"):
        assert "SVD_API_KEYS" in refused(ApiKeys("", open_here=False), header)


def test_every_key_is_compared_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return one == other

    monkeypatch.setattr("svd_core.web.fal.auth.hmac.compare_digest", compare)
    keys = ApiKeys(KEYS, open_here=False)
    assert keys.owner("Key ann:s3cret") == "ann"  # the first of three
    assert compared == [(32, 32)] * 3


def test_keys_are_not_shown() -> None:
    keys = ApiKeys(KEYS, open_here=False)
    shown = f"{keys!r} {vars(keys)!r}"
    assert "s3cret" not in shown
    assert "other" not in shown


def test_a_token_is_good_for_its_purpose_and_its_time() -> None:
    now = [1000.0]
    tokens = SignedTokens(b"x" * 32, lambda: now[0])
    token = tokens.issue("upload", 60, {"owner": "ann"})
    assert tokens.read("upload", token) == {"owner": "ann"}
    assert tokens.read("stream", token) is None
    assert SignedTokens(b"y" * 32, lambda: now[0]).read("upload", token) is None
    now[0] = 1061.0
    assert tokens.read("upload", token) is None


@pytest.mark.parametrize("position", [0, 5, -1, -10])
def test_a_token_that_was_changed_is_none(position: int) -> None:
    tokens = SignedTokens(b"x" * 32)
    token = list(tokens.issue("upload", 60, {"owner": "ann"}))
    token[position] = "A" if token[position] != "A" else "Q"
    assert tokens.read("upload", "".join(token)) is None


@pytest.mark.parametrize("token", ["", ".", "a.b", "ü.\udcff", "e30.", "." * 100])
def test_any_text_may_come_as_a_token(token: str) -> None:
    assert SignedTokens(b"x" * 32).read("upload", token) is None


def test_a_mark_can_be_told_again_but_not_guessed() -> None:
    marks = {
        SignedTokens(secret).sign_short(text) for secret in (b"x" * 32, b"y" * 32) for text in "ab"
    }
    assert len(marks) == 4
    assert SignedTokens(b"x" * 32).sign_short("a") in marks
    assert all(len(mark) == 32 for mark in marks)


def test_a_secret_outlives_the_server(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "webhook"
    first = load_secret(path)
    assert load_secret(path) == first
    assert len(first) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["webhook"]
    assert load_secret(tmp_path / "keys" / "links") != first


def test_servers_that_start_at_once_have_one_secret(tmp_path: Path) -> None:
    found: list[bytes] = []
    gate = threading.Barrier(8)

    def start() -> None:
        gate.wait()
        found.append(load_secret(tmp_path / "secret"))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


@pytest.mark.parametrize("content", ["", "abcd", "no hex", "ä" * 64])
def test_a_damaged_secret_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "secret").write_text(content)
    with pytest.raises(InvalidSettings, check=has_code("secret_damaged")):
        load_secret(tmp_path / "secret")


def test_a_secret_that_cannot_be_kept_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidSettings, check=has_code("secret_unavailable")):
        load_secret(tmp_path / "file" / "secret")


REQUEST_ID = "764cabcf-b745-4b3e-ae38-1200304cf45b"
BODY = (
    b'{"request_id":"764cabcf-b745-4b3e-ae38-1200304cf45b","gateway_request_id":'
    b'"764cabcf-b745-4b3e-ae38-1200304cf45b","status":"OK","payload":{"video":{"url":'
    b'"http://127.0.0.1/out.mp4","content_type":"video/mp4","file_name":"out.mp4","file_size":'
    b'12345},"seed":42}}'
)


def signer(timestamp: float = 1767225600.9) -> Signer:
    return Signer(bytes(range(1, 33)), lambda: timestamp)


def test_the_signature_is_that_of_the_test_vector() -> None:
    assert len(BODY) == 259
    assert signer().headers(REQUEST_ID, "local-user", BODY) == {
        "X-Fal-Webhook-Request-Id": REQUEST_ID,
        "X-Fal-Webhook-User-Id": "local-user",
        "X-Fal-Webhook-Timestamp": "1767225600",
        "X-Fal-Webhook-Signature": "8e9d331ae0f243a81a4a881b3dff41fc46a187beecb6b59ead5787740882ca"
        "96bc68b891a6616f7f4a018c46b825d22b19915761ae47a60c543b7a7806518408",
    }
    (key,) = signer().key_set()["keys"]
    assert (key["kty"], key["crv"]) == ("OKP", "Ed25519")
    assert key["x"] == "ebVWLo_mVPlAeLES6KmLp5AfhTrmlb7X4OORC60ElmQ"


@pytest.mark.parametrize("changed", ["body", "request id", "user", "time"])
def test_a_receiver_notices_every_change(changed: str) -> None:
    x = signer().key_set()["keys"][0]["x"]
    key = Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(x + "="))
    told = signer(1 if changed == "time" else 2).headers(
        "other" if changed == "request id" else "id",
        "other" if changed == "user" else "user",
        b"{ }" if changed == "body" else b"{}",
    )
    signature = bytes.fromhex(told["X-Fal-Webhook-Signature"])
    same = signer(2).headers("id", "user", b"{}")
    assert same["X-Fal-Webhook-Signature"] != told["X-Fal-Webhook-Signature"]
    digest = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"  # of {}
    message = "\n".join(("id", "user", "2", digest)).encode()
    key.verify(bytes.fromhex(same["X-Fal-Webhook-Signature"]), message)
    with pytest.raises(InvalidSignature):
        key.verify(signature, message)


def test_signs_of_life_between_two_steps_are_no_news() -> None:
    """A stream's clients append what they get, so that nothing may come twice."""
    at = datetime.now(UTC)
    told: list[Event] = [
        Progress(stage=Stage.QUEUED, step=1),
        Progress(stage=Stage.QUEUED, step=0),
        *(Progress(stage=Stage.LOADING, step=n, total=9, elapsed_s=n) for n in range(3)),
        *(Progress(stage=Stage.DENOISING, step=1, total=2, elapsed_s=n) for n in range(3)),
        Progress(stage=Stage.DENOISING, step=1, total=2, note="Memory ran out."),
        Progress(stage=Stage.DENOISING, step=2, total=2),
        Stopped(),
    ]

    class Talking:
        def events_since(self, seen: int = 0, timeout_s: float = 0.0) -> list[JobEvent]:
            fresh = [JobEvent(number, at, event) for number, event in enumerate(told, start=1)]
            return fresh[seen : seen + 1]

    async def watch() -> list[Event]:
        changes = follow(Talking(), 60)  # type: ignore[arg-type]
        return [stamped.event async for news in changes for stamped in news]

    assert anyio.run(watch) == [*told[:3], told[5], *told[8:]]


def test_silence_is_told_now_and_then() -> None:
    class Silent:
        def events_since(self, seen: int = 0, timeout_s: float = 0.0) -> list[JobEvent]:
            return []

    async def watch() -> None:
        async with aclosing(follow(Silent(), 0.05)) as changes:  # type: ignore[arg-type]
            assert [await anext(changes) for _ in range(2)] == [[], []]

    anyio.run(watch)


def test_every_stage_has_a_line_in_the_log() -> None:
    at = datetime.now(UTC)
    for stage in Stage:
        (*found,) = log_lines([JobEvent(1, at, Progress(stage=stage))])
        assert bool(found) == (stage is not Stage.QUEUED)


def test_answers_carry_half_characters() -> None:
    assert json.loads(as_json({"input": "\ud800"})) == {"input": "\ud800"}


@pytest.mark.parametrize(
    "body",
    [
        None, {}, {"image_url": None}, {"fps": 500}, {"fps": 0},
        {"fps": 25.5}, {"fps": "fast"}, {"fps": None}, {"fps": [1]}, {"fps": "9" * 5000},
        {"cond_aug": "x"}, {"cond_aug": "nan"}, {"cond_aug": {}}, {"fit": "stretch"}, {"model": 1},
        {"model": ""},
    ],
    ids=repr,
)  # fmt: skip
def test_a_rejected_job_gives_its_reason_in_the_language_of_the_reader(body: object) -> None:
    if isinstance(body, dict) and body and "image_url" not in body:
        body |= {"image_url": "https://example.org/photo.jpg"}
    with pytest.raises(InvalidInput) as caught:
        read_input(body)
    message = caught.value.error.message
    assert not english(message.render("de"))
    assert getattr(message.values.get("reason"), "code", "") != "reason_other"


@pytest.mark.parametrize(
    "kind", ["url_too_long", "url_scheme", "image_load_error", "file_download_error"]
)
def test_a_wrong_address_has_a_reason_of_its_own(kind: str) -> None:
    message = InvalidInput([detail("image_url", "Some text.", kind)]).error.message
    reason = message.values["reason"]
    assert isinstance(reason, Message)
    assert reason.code != "reason_other"
    assert not english(message.render("de"))
