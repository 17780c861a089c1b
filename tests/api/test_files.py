"""Uploads and downloads over plain HTTP: permits, parts, limits, and clients that go away."""

import contextlib
import os
import re
import socket
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from svd_core.settings import Settings
from tests.fakes.fal_server import KEY, KEYS, FalServer, fal_server

ANN = {"Authorization": f"Key {KEY}"}
BOB = {"Authorization": "Key bob:other"}
MB = 2**20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FalServer]:
    """A file may have 2 MB, a key 5 MB."""
    folder = tmp_path_factory.mktemp("fal")
    settings = Settings(data_dir=folder, api_keys=KEYS, max_upload_mb=2, uploads_gb=5 * MB / 1e9)
    with fal_server(folder, settings) as found:
        yield found


@pytest.fixture(autouse=True)
def empty(server: FalServer) -> Iterator[None]:
    yield
    for path in left(server):
        path.unlink()


def left(server: FalServer) -> list[Path]:
    return [path for path in server.parts.uploads.folder.rglob("*") if path.is_file()]


def initiate(server: FalServer, kind: str = "image/png", **headers: str) -> dict[str, str]:
    answer = httpx.post(
        f"{server.url}/rest/storage/upload/initiate?storage_type=fal-cdn-v3",
        json={"content_type": kind, "file_name": "a.png"},
        headers=ANN | headers,
    )
    assert answer.status_code == 200, answer.text
    told: dict[str, str] = answer.json()
    assert set(told) == {"upload_url", "file_url"}
    return told


def test_an_upload_url_is_its_own_permission(server: FalServer) -> None:
    permit = initiate(server)
    answer = httpx.put(permit["upload_url"], content=b"abc", headers={"Content-Type": "image/png"})
    assert answer.status_code == 200
    assert answer.headers["etag"]
    found = httpx.get(permit["file_url"])
    assert (found.content, found.headers["content-type"]) == (b"abc", "image/png")
    keyed = httpx.put(permit["upload_url"], content=b"def", headers=ANN)  # as Python sends it
    assert keyed.status_code == 200
    assert httpx.get(permit["file_url"]).content == b"def"


def test_the_older_storage_type_goes_the_same_way(server: FalServer) -> None:
    url = f"{server.url}/rest/storage/upload/initiate?storage_type=gcs"
    permit = httpx.post(url, json={"content_type": "", "file_name": "b.jpg"}, headers=ANN).json()
    assert httpx.put(permit["upload_url"], content=b"abc").status_code == 200
    assert permit["file_url"].endswith(".jpg")


def test_other_permissions_are_none(server: FalServer) -> None:
    permit, other = initiate(server), initiate(server)
    url, _, token = permit["upload_url"].partition("?token=")
    cdn = httpx.post(f"{server.url}/rest/storage/auth/token", headers=ANN).json()["token"]
    for wrong in (
        url,
        f"{url}?token=",
        f"{url}?token={token[:-2]}",
        f"{url}?token={cdn}",
        f"{other['upload_url'].partition('?')[0]}?token={token}",
    ):
        assert httpx.put(wrong, content=b"abc").status_code in (403, 404), wrong
        assert httpx.put(wrong, content=b"abc", headers=ANN).status_code in (403, 404), wrong
    assert left(server) == []


def test_a_permission_ends(server: FalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    permit, now = initiate(server), time.time()
    monkeypatch.setattr(server.parts.tokens, "_clock", lambda: now + 3700)
    assert httpx.put(permit["upload_url"], content=b"abc").status_code == 403


def multipart(server: FalServer) -> dict[str, str]:
    url = f"{server.url}/rest/storage/upload/initiate-multipart?storage_type=fal-cdn-v3"
    answer = httpx.post(url, json={"content_type": "image/png"}, headers=ANN)
    told: dict[str, str] = answer.json()
    return told


def part_url(upload_url: str, name: str) -> str:
    """As the JavaScript client builds it."""
    url, _, query = upload_url.partition("?")
    return f"{url}/{name}?{query}"


def test_parts(server: FalServer) -> None:
    permit = multipart(server)
    stored = []
    for number, content in ((2, b"world"), (1, b"hello ")):
        answer = httpx.put(part_url(permit["upload_url"], str(number)), content=content)
        assert answer.json() == {"partNumber": number, "etag": answer.headers["etag"]}
        stored.append(answer.json())
    assert httpx.get(permit["file_url"]).status_code == 404
    done = httpx.post(part_url(permit["upload_url"], "complete"), json={"parts": stored})
    assert done.status_code == 200
    assert httpx.get(permit["file_url"]).content == b"hello world"


@pytest.mark.parametrize("number", ["0", "-1", "x", "10001", "1.5", "１"])
def test_parts_have_numbers(server: FalServer, number: str) -> None:
    permit = multipart(server)
    assert httpx.put(part_url(permit["upload_url"], number), content=b"a").status_code == 400


@pytest.mark.parametrize(
    "body",
    [{}, [], {"parts": 1}, {"parts": [1]}, {"parts": [{"partNumber": 1}]}, {"parts": []},
     {"parts": [{"partNumber": 1, "etag": "../../x"}]},
     {"parts": [{"partNumber": "x", "etag": ""}]}],
)  # fmt: skip
def test_what_is_put_together_must_be_there(server: FalServer, body: object) -> None:
    permit = multipart(server)
    httpx.put(part_url(permit["upload_url"], "1"), content=b"a")
    done = httpx.post(part_url(permit["upload_url"], "complete"), json=body)
    assert (done.status_code, done.json()["error_type"]) == (400, "bad_request")


def test_a_token_uploads_in_place_of_a_key(server: FalServer) -> None:
    told = httpx.post(f"{server.url}/rest/storage/auth/token?storage_type=fal-cdn-v3",
                      json={}, headers=ANN).json()  # fmt: skip
    assert (told["token_type"], told["base_url"]) == ("Bearer", f"{server.url}/cdn")
    until = datetime.fromisoformat(told["expires_at"])
    assert until.utcoffset() == timedelta(0)  # without a zone the client breaks at the next upload
    assert not told["expires_at"].endswith("Z")  # which Python 3.10 does not read
    bearer = {"Authorization": f"Bearer {told['token']}", "Content-Type": "image/png"}
    answer = httpx.post(f"{server.url}/cdn/files/upload", content=b"abc", headers=bearer)
    url = answer.json()["access_url"]
    assert httpx.get(url).content == b"abc"
    wrong = bearer | {"Authorization": f"Bearer {told['token'][:-2]}"}
    assert httpx.post(f"{server.url}/cdn/files/upload", headers=wrong).status_code == 401
    by_key = httpx.post(f"{server.url}/cdn/files/upload", content=b"abc", headers=ANN)
    assert by_key.status_code == 200
    assert by_key.json()["access_url"].split("/")[-2] == url.split("/")[-2]  # the same key's folder


@pytest.mark.parametrize(
    ("kind", "name", "shown"),
    [
        ("image/png", "a.png", "image/png"),
        ("image/svg+xml", "a.svg", None),
        ("text/html", "a.html", None),
        ("application/xhtml+xml", "a.png.xhtml", None),
        ("", "photo.JPEG", "image/jpeg"),
    ],
)
def test_a_file_never_becomes_a_page_of_ours(
    server: FalServer, kind: str, name: str, shown: str | None
) -> None:
    headers = ANN | {"Content-Type": kind, "X-Fal-File-Name": name}
    answer = httpx.post(f"{server.url}/cdn/files/upload", content=b"<script>", headers=headers)
    found = httpx.get(answer.json()["access_url"])
    assert found.headers["content-type"] == (shown or "application/octet-stream")
    disposition = "inline" if shown else "attachment"
    assert found.headers["content-disposition"].startswith(disposition)
    assert found.headers["content-security-policy"].startswith("sandbox")
    assert found.headers["x-content-type-options"] == "nosniff"


def test_a_file_has_a_limit(server: FalServer) -> None:
    assert httpx.put(initiate(server)["upload_url"], content=bytes(2 * MB)).status_code == 200
    permit = initiate(server)
    with contextlib.suppress(httpx.WriteError):  # refused while it is still being sent
        answer = httpx.put(permit["upload_url"], content=bytes(2 * MB + 1))
        assert (answer.status_code, answer.json()["error_type"]) == (413, "file_too_large")

    def unannounced() -> Iterator[bytes]:
        for _ in range(33):
            yield bytes(64 * 1024)

    with contextlib.suppress(httpx.WriteError):
        assert httpx.put(permit["upload_url"], content=unannounced()).status_code == 413
    assert httpx.get(permit["file_url"]).status_code == 404
    assert len(left(server)) == 1


def test_a_key_has_a_limit_and_another_its_own(server: FalServer) -> None:
    def put(size: int, headers: dict[str, str]) -> int:
        url = f"{server.url}/rest/storage/upload/initiate"
        permit = httpx.post(url, json={}, headers=headers).json()
        return httpx.put(permit["upload_url"], content=bytes(size)).status_code

    assert [put(2 * MB, ANN) for _ in range(3)] == [200, 200, 413]
    assert put(MB - 100_000, ANN) == 200
    assert put(2 * MB, BOB) == 200


def test_a_lifetime(server: FalServer) -> None:
    life = {"X-Fal-Object-Lifecycle": '{"expiration_duration_seconds": 60}'}
    permit = initiate(server, **life)
    httpx.put(permit["upload_url"], content=b"abc")
    (path,) = left(server)
    assert path.stat().st_mtime == pytest.approx(time.time() + 60, abs=5)

    os.utime(path, (1, time.time() - 1))
    assert httpx.get(permit["file_url"]).status_code == 404
    url = f"{server.url}/rest/storage/upload/initiate"
    secret = {"X-Fal-Object-Lifecycle": '{"initial_acl": {"default": "hide"}}'}
    assert httpx.post(url, json={}, headers=ANN | secret).status_code == 400


def test_an_upload_that_is_gone_is_told_by_the_job(server: FalServer) -> None:
    permit = initiate(server)
    answer = httpx.post(
        f"{server.url}/run/fal-ai/stable-video", json={"image_url": permit["file_url"]}, headers=ANN
    )
    (detail,) = answer.json()["detail"]
    assert detail["type"] == "file_download_error"
    assert "upload" in detail["msg"]


def test_parts_of_a_file_may_be_asked_for(server: FalServer) -> None:
    permit = initiate(server)
    httpx.put(permit["upload_url"], content=b"0123456789")
    part = httpx.get(permit["file_url"], headers={"Range": "bytes=2-4"})
    assert (part.status_code, part.content) == (206, b"234")
    assert httpx.head(permit["file_url"]).headers["content-length"] == "10"


@pytest.mark.parametrize("path", ["x/y", "00000000/" + "0" * 32 + ".png", "../../secrets/links"])
def test_no_other_file_can_be_had(server: FalServer, path: str) -> None:
    for place in ("files", "videos"):
        with httpx.Client() as client:
            request = client.build_request("GET", f"{server.url}/cdn/{place}/")
            request.url = request.url.copy_with(raw_path=f"/fal/cdn/{place}/{path}".encode())
            answer = client.send(request)
        assert answer.status_code in (401, 404)
        assert not re.fullmatch("[0-9a-f]{64}", answer.text)


def test_a_client_that_goes_away_while_it_uploads_leaves_nothing(server: FalServer) -> None:
    url = urlsplit(initiate(server)["upload_url"])
    head = f"PUT {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: 1500000"
    with socket.create_connection((url.hostname, url.port)) as connection:
        connection.sendall(f"{head}\r\n\r\n".encode() + bytes(1_200_000))
        for _ in range(200):
            if left(server):
                break
            time.sleep(0.02)
        else:
            raise AssertionError("nothing came")
    for _ in range(200):
        if not left(server):
            return
        time.sleep(0.02)
    raise AssertionError(left(server))


@pytest.mark.parametrize(
    "body", [[], "x", {"content_type": 1}, {"file_name": ["a"]}, {"content_type": {"a": 1}}]
)
def test_a_wrong_wish_for_an_upload(server: FalServer, body: Any) -> None:
    url = f"{server.url}/rest/storage/upload/initiate"
    assert httpx.post(url, json=body, headers=ANN).status_code == 422
    assert httpx.post(url, content=b"{", headers=ANN).status_code == 422
    assert httpx.post(url, content=bytes(100_000), headers=ANN).status_code == 413
