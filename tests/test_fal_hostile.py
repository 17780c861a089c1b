"""Hostile requests to the fal API: text, numbers and bodies that no client of fal sends."""

import base64
import time
import tracemalloc
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

import httpx
import pytest

from svd_core.errors import InvalidUrl
from svd_core.image import MAX_BYTES
from svd_core.web.addresses import MAX_URL, parsed
from svd_core.web.fal.links import Links, upload_name
from svd_core.web.fal.photo import photo_of
from svd_core.web.fal.schema import InvalidInput
from svd_core.web.fal.tokens import Tokens
from tests.fal_server import KEY, FalServer

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
    "brackets": "http://" + "[" * 2_000_000,
    "escapes": "http://a/" + "%2f" * 700_000,
}


@pytest.mark.parametrize("kind", LONG)
def test_a_long_address_costs_no_more_than_linear_time(kind: str) -> None:
    begun = time.process_time()
    assert upload_name(LONG[kind]) in (None, "0" * 2_000_000)
    with pytest.raises(InvalidUrl):
        parsed(LONG[kind])
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
    links = Links("", Tokens(b"secret"))
    mark = links.video("http://a", "0" * 32).split("/")[-2]
    assert links.is_video(mark, "0" * 32)
    for other in ("", mark[:-1], mark.upper(), "\udcff", "é" * 32):
        assert not links.is_video(other, "0" * 32)


@pytest.mark.parametrize("size", [1, 2, 3, 65_535, 65_536, 65_537, 200_001])
def test_a_percent_encoded_photo_is_decoded_in_pieces(server: FalServer, size: int) -> None:
    raw = "".join(f"%{n * 7 % 256:02x}" for n in range(size))
    for text in (raw, "a%41" * size, "%" * size, "a%4" * size, "a" * size + "%"):
        found = photo_of(f"data:,{text}", server.parts.uploads, "")
        assert found == unquote_to_bytes(text)


def test_a_percent_encoded_photo_takes_little_more_memory_than_its_bytes(
    server: FalServer,
) -> None:
    uri = "data:image/png," + "%41" * 2_000_000
    tracemalloc.start()
    try:
        photo = photo_of(uri, server.parts.uploads, "")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert photo == b"A" * 2_000_000
    assert peak < 24e6  # decoded at once it is 170 MB


def test_spaces_within_base64_take_little_memory(server: FalServer) -> None:
    uri = "data:image/png;base64," + "QUFB \r\n\t" * 250_000
    tracemalloc.start()
    try:
        photo = photo_of(uri, server.parts.uploads, "")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert photo == b"AAA" * 250_000
    assert peak < 12e6


def test_a_percent_encoded_photo_ends_one_byte_beyond_the_limit(server: FalServer) -> None:
    photo = photo_of("data:," + "a" * (MAX_BYTES + 100_000), server.parts.uploads, "")
    assert photo is not None
    assert len(photo) == MAX_BYTES + 1


def test_broken_base64_is_told(server: FalServer) -> None:
    good = base64.b64encode(b"photo").decode()
    assert photo_of(f"data:image/png;base64,{good[:4]}\r\n {good[4:]}", server.parts.uploads, "")
    for data in ("é", "%%%", "a", "QQ=Q"):
        with pytest.raises(InvalidInput):
            photo_of(f"data:image/png;base64,{data}", server.parts.uploads, "")
