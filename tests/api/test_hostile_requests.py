"""Hostile requests to the fal API: text, numbers and bodies that no client of fal sends."""

import base64
import json
import socket
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote_to_bytes

import anyio
import httpx
import pytest
from starlette.types import Message, Receive

from svd_core.errors import InvalidUrl
from svd_core.media.image import MAX_BYTES
from svd_core.settings import Settings
from svd_core.web import request_body
from svd_core.web.fal.auth import ApiKeys
from svd_core.web.fal.models import InvalidInput
from svd_core.web.fal.responses import ApiError, as_json, echoed
from svd_core.web.fal.signed_tokens import SignedTokens, UrlBuilder
from svd_core.web.fal.submit import resolve_image
from svd_core.web.fal.uploads import upload_name
from svd_core.web.request_body import BodyError, BodyReader, InvalidJson
from svd_core.web.safe_http import MAX_URL, parse_url
from tests.fakes.fal_server import KEY, FalServer, fal_server

APP = "fal-ai/stable-video"
NAME = f"{'0a' * 4}/{'0b' * 16}.png"
SECONDS = 2.0
"""Far more than linear time takes here, and far less than quadratic time."""


@pytest.fixture
def api(server: FalServer) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Key {KEY}"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=30) as found:
        yield found


LONG = {
    "host": "http://" + "a" * 2_000_000,
    "path": "http://a/" + "/cdn/files" * 200_000,
    "name": "http://a/cdn/files/" + "0" * 2_000_000,
    "dots": "https://" + "a." * 1_000_000,
    "at": "http://" + "@" * 2_000_000,
    "brackets": "http://" + "[" * 40_000,
    "escapes": "http://a/" + "%2f" * 700_000,
}


@pytest.mark.parametrize("kind", LONG)
def test_a_long_address_costs_no_more_than_linear_time(kind: str) -> None:
    begun = time.process_time()
    assert upload_name(LONG[kind]) in (None, "0" * 2_000_000)
    with pytest.raises(InvalidUrl):
        parse_url(LONG[kind])
    assert time.process_time() - begun < SECONDS


@pytest.mark.parametrize("kind", LONG)
def test_an_address_of_unusual_length_is_refused(api: httpx.Client, kind: str) -> None:
    begun = time.monotonic()
    answer = api.post(f"/run/{APP}", json={"image_url": LONG[kind]})
    assert answer.status_code == 422
    (detail,) = answer.json()["detail"]
    assert (detail["loc"], detail["type"]) == (["body", "image_url"], "url_too_long")
    assert detail["ctx"] == {"max_length": MAX_URL}
    assert str(MAX_URL) in detail["msg"]
    assert "input" not in detail
    assert time.monotonic() - begun < 10 * SECONDS


def test_a_webhook_of_unusual_length_is_refused(api: httpx.Client, uri: str) -> None:
    hook = "https://example.org/" + "a" * MAX_URL
    answer = api.post(f"/queue/{APP}?fal_webhook={hook}", json={"image_url": uri})
    assert answer.status_code == 400
    assert str(MAX_URL) in answer.json()["detail"]


@pytest.mark.parametrize(
    ("url", "name"),
    [
        (f"http://a/cdn/files/{NAME}", NAME),
        (f"https://a:8/studio/fal/cdn/files/{NAME}", NAME),
        (f"http://[::1]:7860/fal/cdn/files/{NAME}", NAME),
        (f"http://a/cdn/files/cdn/files/{NAME}", NAME),
        (f"http://a/cdn/files/{NAME}?x", None),
        (f"http://a/cdn/files/{NAME}?", None),
        (f"http://a/cdn/files/{NAME}#x", None),
        (f"http:///cdn/files/{NAME}", None),
        (f"ftp://a/cdn/files/{NAME}", None),
        (f"http://a/cdn/files/{NAME}/", None),
        (f"http://a/cdn/files/../{NAME}", None),
        ("http://a/cdn/files/", None),
        ("http://[a/cdn/files/x", None),
        ("", None),
    ],
)
def test_uploads_are_known_by_their_address(url: str, name: str | None) -> None:
    assert upload_name(url) == name


def test_marks_of_videos_are_compared_whatever_they_hold() -> None:
    links = UrlBuilder("", SignedTokens(b"secret"))
    mark = links.video("http://a", "0" * 32).split("/")[-2]
    assert links.is_video(mark, "0" * 32)
    for other in ("", mark[:-1], mark.upper(), "\udcff", "é" * 32):
        assert not links.is_video(other, "0" * 32)


@pytest.mark.parametrize("size", [1, 2, 3, 65_535, 65_536, 65_537, 200_001])
def test_a_percent_encoded_photo_is_decoded_in_pieces(server: FalServer, size: int) -> None:
    raw = "".join(f"%{n * 7 % 256:02x}" for n in range(size))
    for text in (raw, "a%41" * size, "%" * size, "a%4" * size, "a" * size + "%"):
        found = resolve_image(f"data:,{text}", server.parts.uploads, "")
        assert found == unquote_to_bytes(text)


def test_a_percent_encoded_photo_takes_little_more_memory_than_its_bytes(
    server: FalServer,
) -> None:
    uri = "data:image/png," + "%41" * 2_000_000
    tracemalloc.start()
    try:
        photo = resolve_image(uri, server.parts.uploads, "")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert photo == b"A" * 2_000_000
    assert peak < 24e6  # decoded at once it is 170 MB


def test_spaces_within_base64_take_little_memory(server: FalServer) -> None:
    uri = "data:image/png;base64," + "QUFB \r\n\t" * 250_000
    tracemalloc.start()
    try:
        photo = resolve_image(uri, server.parts.uploads, "")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert photo == b"AAA" * 250_000
    assert peak < 12e6


def test_a_percent_encoded_photo_ends_one_byte_beyond_the_limit(server: FalServer) -> None:
    photo = resolve_image("data:," + "a" * (MAX_BYTES + 100_000), server.parts.uploads, "")
    assert photo is not None
    assert len(photo) == MAX_BYTES + 1


def test_broken_base64_is_told(server: FalServer) -> None:
    good = base64.b64encode(b"photo").decode()
    assert resolve_image(
        f"data:image/png;base64,{good[:4]}\r\n {good[4:]}", server.parts.uploads, ""
    )
    for data in ("é", "%%%", "a", "QQ=Q"):
        with pytest.raises(InvalidInput):
            resolve_image(f"data:image/png;base64,{data}", server.parts.uploads, "")


# Numbers.

NUMBERS = ("1e999", "-1e999", "9" * 400, "-" + "9" * 30, "1" + "0" * 350 + ".5", "NaN",
           "Infinity", "18446744073709551616", "1" * 3_000_000, "1." + "1" * 3_000_000)  # fmt: skip
"""None of them is what a double or a 64-bit integer holds, or JSON."""


@pytest.mark.parametrize("number", NUMBERS, ids=range(len(NUMBERS)))
def test_a_number_beyond_64_bits_is_refused_wherever_json_is_read(
    server: FalServer, api: httpx.Client, uri: str, number: str
) -> None:
    initiated = api.post("/rest/storage/upload/initiate", json={}).json()
    upload = httpx.URL(initiated["upload_url"])
    complete = str(upload.copy_with(path=f"{upload.path}/complete"))
    bodies = {
        f"/queue/{APP}": f'{{"image_url": "{uri}", "cond_aug": {number}}}',
        f"/run/{APP}": f'{{"image_url": "{uri}", "other": [{{"deeper": {number}}}]}}',
        f"/run/{APP}/stream": f'{{"image_url": "{uri}", "seed": {number}}}',
        "/rest/tokens/": f'{{"allowed_apps": ["stable-video"], "token_expiration": {number}}}',
        "/rest/storage/upload/initiate": f'{{"file_name": {number}}}',
        complete: f'{{"parts": [{{"partNumber": {number}, "etag": "a"}}]}}',
    }
    for path, body in bodies.items():
        answer = api.post(path, content=body)
        assert answer.status_code in (413, 422), path
        assert answer.status_code == 422 or len(body) > 64 * 1024
        assert len(answer.content) < 1000
        if answer.status_code == 422:
            assert answer.json()["detail"][0]["ctx"]["error"]


@pytest.mark.parametrize("number", [*NUMBERS[:8], "1e308", "-1", "1e400", "[" * 30_000, "{}"])
@pytest.mark.parametrize(
    "form", ['{"expiration_duration_seconds": X}', '{"initial_acl": X}', "X", '{"a": X}']
)
def test_a_lifecycle_header_never_breaks_a_request(
    api: httpx.Client, uri: str, number: str, form: str
) -> None:
    wish = form.replace("X", number)
    queue = {"x-fal-object-lifecycle-preference": wish}
    storage = {"x-fal-object-lifecycle": wish}
    answer = api.post(f"/queue/{APP}", json={"image_url": "x"}, headers=queue)
    assert answer.status_code in (200, 400)
    begun = api.post("/cdn/files/upload", content=b"a", headers=storage)
    assert begun.status_code in (200, 400)
    assert answer.status_code == begun.status_code
    assert isinstance(begun.json().get("detail", ""), str)


@pytest.mark.parametrize(
    "number", ["0", "10001", "9" * 5000, "-1", "1.5", "1e3", "nan", "\u0663", "%00", "+1"]
)
def test_a_part_has_a_number_of_five_digits_at_most(api: httpx.Client, number: str) -> None:
    initiated = api.post("/rest/storage/upload/initiate", json={}).json()
    upload = httpx.URL(initiated["upload_url"])
    answer = api.put(str(upload.copy_with(path=f"{upload.path}/{number}")), content=b"a")
    assert answer.status_code == 400
    complete = str(upload.copy_with(path=f"{upload.path}/complete"))
    for form in (f'"{number}"', number):
        body = f'{{"parts": [{{"partNumber": {form}, "etag": "a"}}]}}'
        assert api.post(complete, content=body.encode()).status_code in (400, 422)


@pytest.mark.parametrize("name", ["x-fal-request-timeout", "fal_max_queue_length"])
@pytest.mark.parametrize("number", ["1e999", "9" * 5000, "nan", "-inf", "1e9"])
def test_a_number_of_the_queue_is_finite(
    api: httpx.Client, uri: str, name: str, number: str
) -> None:
    where: dict[str, dict[str, str]] = {
        "params" if name.startswith("fal_") else "headers": {name: number}
    }
    answer = api.post(f"/queue/{APP}", json={"image_url": uri}, **where)  # type: ignore[arg-type]
    assert answer.status_code == 400
    assert answer.json()["detail"]


def test_what_json_has_no_form_for_is_answered_as_text() -> None:
    told = {"a": [float("inf"), {"b": float("nan")}], "c": 10**5000, "d": 1, "e": "\ud800"}
    assert json.loads(as_json(told)) == {
        "a": ["inf", {"b": "nan"}], "c": "a number of 16610 bits", "d": 1, "e": "\ud800",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("a" * 100, "a" * 100),
        ("a" * 101, "a" * 100 + "..."),
        ([1, {"a": None}], [1, {"a": None}]),
        (float("inf"), "inf"),
        (10**5000, "a number of 16610 bits"),
        ([float("nan")], ["nan"]),
        (True, True),
    ],
    ids=range(7),
)
def test_values_are_echoed_in_short(value: object, told: object) -> None:
    assert echoed(value) == told


@pytest.mark.parametrize(
    "value",
    [{"a": "b" * 30_000_000}, [["c" * 1000] * 1000] * 1000, {f"k{n}": n for n in range(200_000)}],
    ids=["text", "lists", "keys"],
)
def test_a_large_value_is_not_looked_at_whole(value: object) -> None:
    begun = time.process_time()
    assert len(echoed(value)) <= 103
    assert time.process_time() - begun < SECONDS


# Bodies.

STRANGE = {
    "lists": b"[" + b",".join([b"[]"] * 5_000_000) + b"]",
    "keys": b"{" + b",".join(b'"%d":1' % n for n in range(200_000)) + b"}",
    "deep": b'{"a":' * 300 + b"1" + b"}" * 300,
    "deeper": b"[" * 49_000,
    "escapes": b'{"a": "' + b"\\u0041" * 4_000_000 + b'"}',
    "spaces": b" " * 30_000_000 + b"{",
    "no text": b"\xff" * 30_000_000,
}


@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.parametrize("place", ["queue", "run"])
def test_json_that_is_large_to_parse_is_refused_before(
    api: httpx.Client, kind: str, place: str
) -> None:
    answer = api.post(f"/{place}/{APP}", content=STRANGE[kind])
    assert answer.status_code == 422
    assert len(answer.content) < 1000


@pytest.mark.parametrize("kind", [kind for kind in STRANGE if kind != "spaces"])
def test_strict_json_costs_little_time(kind: str) -> None:
    begun = time.process_time()
    with pytest.raises(ValueError, match=r".") as caught:
        request_body.parse_json(STRANGE[kind])
    assert isinstance(caught.value, InvalidJson)
    assert time.process_time() - begun < SECONDS / 2


@pytest.mark.parametrize(
    "text", ["[" * 64 + "]" * 64, "1e308", "-9223372036854775808", "18446744073709551615", "1e-999"]
)
def test_what_is_within_the_limits_is_read(text: str) -> None:
    assert request_body.parse_json(text) == json.loads(text)
    assert request_body.parse_json(text.encode()) == json.loads(text)


def test_only_a_submit_may_be_large(api: httpx.Client) -> None:
    wish = {"file_name": "a" * 70_000}
    assert api.post("/rest/storage/upload/initiate", json=wish).status_code == 413
    initiated = api.post("/rest/storage/upload/initiate", json={}).json()
    upload = httpx.URL(initiated["upload_url"])
    complete = str(upload.copy_with(path=f"{upload.path}/complete"))
    assert api.post(complete, json={"parts": "a" * 2**20}).status_code == 413


class Sender:
    """A client that sends `pieces` and then nothing more."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)

    async def receive(self) -> Message:
        if not self.pieces:
            await anyio.sleep_forever()
        return {"type": "http.request", "body": self.pieces.pop(0), "more_body": True}


async def refused(bodies: BodyReader, sender: Sender, limit: int = 100) -> int:
    try:
        async with bodies.read(sender.receive, limit):
            return 0
    except BodyError as error:
        return error.status


def test_a_body_that_stalls_or_is_too_slow_or_too_large_ends() -> None:
    async def drip() -> Message:
        await anyio.sleep(0.005)
        return {"type": "http.request", "body": b"", "more_body": True}

    async def scenario() -> list[int]:
        slow = Sender()
        slow.receive = drip  # type: ignore[method-assign]
        return [
            await refused(BodyReader(stall_s=0.01), Sender(b"a")),
            await refused(BodyReader(total_s=0.05), slow),
            await refused(BodyReader(), Sender(b"a" * 101)),
        ]

    assert anyio.run(scenario) == [408, 408, 413]


def test_too_many_bodies_cost_the_one_that_is_silent() -> None:
    async def scenario() -> list[int]:
        bodies, ends = BodyReader(budget=150), [-1, -1, -1]

        async def send(number: int, *pieces: bytes) -> None:
            sender = Sender(*pieces)
            if number == 2:
                await anyio.wait_all_tasks_blocked()
                sender.receive = ending(sender.pieces)  # type: ignore[method-assign]
            ends[number] = await refused(bodies, sender)

        with anyio.move_on_after(20):
            async with anyio.create_task_group() as group:
                group.start_soon(send, 0, b"a" * 60)
                await anyio.wait_all_tasks_blocked()
                group.start_soon(send, 1, b"b" * 60)
                group.start_soon(send, 2, b"c" * 30, b"c" * 30)
                while ends[2] < 0 or ends[0] < 0:
                    await anyio.sleep(0.001)
                group.cancel_scope.cancel()
        return ends

    def ending(pieces: list[bytes]) -> Receive:
        async def receive() -> Message:
            await anyio.sleep(0)
            body = pieces.pop(0)
            return {"type": "http.request", "body": body, "more_body": bool(pieces)}

        return receive

    assert anyio.run(scenario) == [503, -1, 0]


def test_an_upload_that_stalls_leaves_nothing(server: FalServer, api: httpx.Client) -> None:
    vars(server.parts)["bodies"] = BodyReader(stall_s=0.1)
    try:
        with socket.create_connection(
            (httpx.URL(server.url).host, httpx.URL(server.url).port or 0)
        ) as client:
            head = "POST /fal/cdn/files/upload HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n"
            client.sendall(f"{head}Authorization: Key {KEY}\r\n\r\nabc".encode())
            client.settimeout(30)
            answer = client.recv(10_000)
    finally:
        del vars(server.parts)["bodies"]
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in answer.lower()
    assert not [*server.parts.uploads.folder.rglob("*.part")]


# Keys.


@pytest.mark.parametrize("secret", ["pässwörd", "пароль", "😀", "plain"])
def test_a_secret_may_have_any_letters(secret: str) -> None:
    keys = ApiKeys(f"ann:{secret}", open_here=False)
    as_utf8 = f"Key ann:{secret}".encode().decode("latin-1")  # how servers read header bytes
    assert keys.owner(as_utf8) == "ann"
    for wrong in (f"{as_utf8}x", as_utf8[:-1], "Key ann:?", "Key ann:" + "?" * len(secret)):
        with pytest.raises(ApiError):
            keys.owner(wrong)


def test_a_secret_may_come_as_latin_1() -> None:
    assert ApiKeys("ann:pässwörd", open_here=False).owner("Key ann:pässwörd") == "ann"


# Without keys.

RELAYED = ("Via", "X-Forwarded-Proto", "X-Forwarded-For", "X-Forwarded-Server", "X-Forwarded",
           "X-Original-Host", "X-Original-URL", "X-Client-IP", "X-Real-IP", "CF-Connecting-IP",
           "True-Client-IP", "Fly-Client-IP", "Fastly-Client-IP", "Forwarded", "CDN-Loop",
           "X-Envoy-External-Address", "X-Cluster-Client-IP", "CF-Ray")  # fmt: skip


def test_an_open_api_takes_nothing_from_a_proxy(tmp_path: Path) -> None:
    with fal_server(tmp_path, Settings(data_dir=tmp_path), open_here=True) as server:
        assert httpx.get(f"{server.url}/health").status_code == 200
        for name in RELAYED:
            assert httpx.get(f"{server.url}/health", headers={name: "a"}).status_code == 403, name
        for origin in ("https://http://localhost", "http://localhost@evil.example", "file://"):
            headers = {"Origin": origin}
            assert httpx.get(f"{server.url}/health", headers=headers).status_code == 403, origin
        url = httpx.URL(server.url)
        with socket.create_connection((url.host, url.port or 0)) as nginx:
            nginx.sendall(
                b"GET /fal/health HTTP/1.0\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
            )
            nginx.settimeout(30)
            assert nginx.recv(1000).startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize(
    ("public_url", "status"), [("https://svd.example", 401), ("http://localhost:8000", 422)]
)
def test_an_api_with_a_public_address_is_closed_without_keys(
    tmp_path: Path, public_url: str, status: int
) -> None:
    settings = Settings(data_dir=tmp_path, public_url=public_url)
    with fal_server(tmp_path, settings, open_here=True) as server:
        assert httpx.post(f"{server.url}/run/{APP}", json={}).status_code == status
