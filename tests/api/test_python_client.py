"""The published `fal-client` for Python, unmodified, against our API."""

import asyncio
import gc
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import fal_client
import fal_client.client
import httpx
import pytest
from fal_client import AsyncClient, FalClientHTTPError, SyncClient

from tests.fakes.fal_server import KEY, FalServer
from tests.fakes.work import FakeWork

APP = "fal-ai/stable-video"

# The client leaves the connections of its uploads to the collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True, scope="module")
def collected() -> Iterator[None]:
    """Collect here what the client leaves open, so that no later test gets the warning."""
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def redirected(server: FalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipe P2: four addresses of the client's module, and nothing else."""
    for name, place in {
        "QUEUE_URL_FORMAT": "/queue/", "RUN_URL_FORMAT": "/run/", "REST_URL": "/rest",
        "CDN_URL": "/cdn",
    }.items():  # fmt: skip
        monkeypatch.setattr(fal_client.client, name, server.url + place)


@pytest.fixture
def client() -> Iterator[SyncClient]:
    found = SyncClient(key=KEY)
    yield found
    found._client.close()


def since(server: FalServer, start: int, what: str) -> list[str]:
    return [asked for asked in server.asked[start:] if what in asked]


def test_subscribe_with_logs(client: SyncClient, uri: str) -> None:
    told: list[Any] = []
    ids: list[str] = []
    result = client.subscribe(
        APP, {"image_url": uri, "seed": 4}, with_logs=True, on_queue_update=told.append,
        on_enqueue=ids.append,
    )  # fmt: skip
    assert result["seed"] == 4
    assert httpx.get(result["video"]["url"]).content[4:8] == b"ftyp"
    assert isinstance(told[-1], fal_client.Completed)
    assert told[-1].error is None
    assert told[-1].metrics["inference_time"] >= 0
    messages = [line["message"] for line in told[-1].logs]
    assert messages[:3] == [f"Denoising: step {step} of 3" for step in (1, 2, 3)]
    lengths = [len(status.logs) for status in told if not isinstance(status, fal_client.Queued)]
    assert lengths == sorted(lengths)
    assert client.result(APP, ids[0]) == result


def test_submit_and_everything_about_its_handle(
    client: SyncClient, work: FakeWork, uri: str
) -> None:
    with work.held():
        first = client.submit(APP, {"image_url": uri}, priority="normal")
        second = client.submit(APP, {"image_url": uri}, priority="low", hint="any")
        assert client.get_handle(APP, first.request_id) == first
        assert second.status().position == 1
        for _ in range(200):
            status = first.status(with_logs=True)
            if isinstance(status, fal_client.InProgress) and status.logs:
                break
            time.sleep(0.02)
        assert status.logs[-1]["message"].startswith("Denoising: step")
        assert first.status(with_logs=False).logs is None
        early = httpx.get(first.response_url, headers={"Authorization": f"Key {KEY}"})
        assert early.status_code == 400
    states = [type(status) for status in first.iter_events(with_logs=True)]
    assert states[-1] is fal_client.Completed
    assert set(first.get()) == {"video", "seed"}
    assert client.status(APP, first.request_id) == first.status()
    assert second.get()["video"]["content_type"] == "video/mp4"


def test_the_asynchronous_client(server: FalServer, uri: str) -> None:
    async def use() -> None:
        client = AsyncClient(key=KEY)
        try:
            handle = await client.submit(APP, {"image_url": uri, "seed": 6})
            assert await client.get_handle(APP, handle.request_id) == handle
            states = [status async for status in handle.iter_events(with_logs=True)]
            assert isinstance(states[-1], fal_client.Completed)
            assert (await handle.get())["seed"] == 6
            assert (await client.run(APP, {"image_url": uri, "seed": 7}))["seed"] == 7
            told: list[Any] = []
            again = await client.subscribe(
                APP, {"image_url": uri, "seed": 8}, with_logs=True, on_queue_update=told.append
            )
            assert again["seed"] == 8
            pieces = [piece async for piece in client.stream(APP, {"image_url": uri, "seed": 9})]
            assert pieces[-1]["seed"] == 9
            url = await client.upload(b"some bytes", "image/png", "a.png")
            assert httpx.get(url).content == b"some bytes"
            with pytest.raises(FalClientHTTPError) as wrong:
                await client.run(APP, {"image_url": uri, "fps": 500})
            assert wrong.value.status_code == 422
            gone = await client.submit(APP, {"image_url": uri})
            with suppress(FalClientHTTPError):
                await gone.cancel()
        finally:
            await (await client._client).aclose()

    asyncio.run(use())


def test_run_and_stream(client: SyncClient, uri: str) -> None:
    assert client.run(APP, {"image_url": uri, "seed": 1})["seed"] == 1
    pieces = list(client.stream(APP, {"image_url": uri, "seed": 2}))
    assert pieces[-1]["seed"] == 2
    assert pieces[-2]["progress"]["stage"] == "denoising"


@pytest.mark.parametrize("way", ["run", "subscribe"])
def test_a_wrong_value(client: SyncClient, uri: str, way: str) -> None:
    with pytest.raises(FalClientHTTPError) as caught:
        getattr(client, way)(APP, {"image_url": uri, "fps": 500})
    assert caught.value.status_code == 422
    (detail,) = caught.value.message
    assert detail["loc"] == ["body", "fps"]
    assert detail["ctx"] == {"le": 100}


def test_a_failed_job_says_so_in_its_status(client: SyncClient, uri: str) -> None:
    handle = client.submit(APP, {"image_url": uri, "fps": 500})
    (*_, status) = handle.iter_events()
    assert isinstance(status, fal_client.Completed)
    assert status.error_type == "less_than_equal"
    assert "100" in status.error


def test_a_wrong_key_is_refused_in_one_request(server: FalServer, uri: str) -> None:
    client = SyncClient(key="ann:wrong")
    start = len(server.asked)
    for call in (client.submit, client.run):
        with pytest.raises(FalClientHTTPError) as caught:
            call(APP, {"image_url": uri})
        assert caught.value.status_code == 401
        assert caught.value.error_type == "unauthorized"
    assert len(server.asked) == start + 2
    client._client.close()


def test_an_unknown_id_is_not_found_in_one_request(server: FalServer, client: SyncClient) -> None:
    start = len(server.asked)
    for call in (client.status, client.result, client.cancel):
        with pytest.raises(FalClientHTTPError) as caught:
            call(APP, "764cabcf-b745-4b3e-ae38-1200304cf45b")
        assert caught.value.status_code == 404
    assert len(server.asked) == start + 3


def test_cancel(client: SyncClient, work: FakeWork, uri: str) -> None:
    with work.held():
        running = client.submit(APP, {"image_url": uri})
        waiting = client.submit(APP, {"image_url": uri})
        client.cancel(APP, waiting.request_id)
        running.cancel()
        for handle in (running, waiting):
            with pytest.raises(FalClientHTTPError) as caught:
                handle.get()
            assert caught.value.status_code == 499
            assert caught.value.error_type == "client_cancelled"
    done = client.submit(APP, {"image_url": uri})
    done.get()
    with pytest.raises(FalClientHTTPError, match="ALREADY_COMPLETED") as caught:
        done.cancel()
    assert caught.value.status_code == 400


def test_a_start_timeout_is_told_once(
    server: FalServer, client: SyncClient, work: FakeWork, uri: str
) -> None:
    with work.held():
        first = client.submit(APP, {"image_url": uri})
        late = client.submit(APP, {"image_url": uri}, start_timeout=1.1)
        for _ in late.iter_events():
            pass
        start = len(server.asked)
        with pytest.raises(FalClientHTTPError) as caught:
            client.result(APP, late.request_id)
        assert caught.value.status_code == 504
        assert caught.value.response_headers["x-fal-request-timeout-type"] == "user"
        path = f"GET /queue/{APP}/requests/{late.request_id}"
        assert [asked for asked in server.asked[start:] if asked == path] == [path]
    first.get()


def test_a_client_that_does_not_wait_any_longer(
    client: SyncClient, work: FakeWork, uri: str
) -> None:
    with work.held(), pytest.raises(fal_client.FalClientTimeoutError):
        client.subscribe(APP, {"image_url": uri}, client_timeout=1.5)


def test_upload_of_bytes_and_files(
    server: FalServer, client: SyncClient, image: Path, work: FakeWork
) -> None:
    start = len(server.asked)
    url = client.upload_file(image)
    again = client.upload(image.read_bytes(), "image/png", file_name="again.png")
    assert url != again
    assert [httpx.get(u).content for u in (url, again)] == [image.read_bytes()] * 2
    assert httpx.get(url).headers["content-type"] == "image/png"
    assert since(server, start, "/cdn/files/upload")
    assert len(since(server, start, "/rest/storage/auth/token")) == 1  # it has not expired
    assert client.run(APP, {"image_url": url})["video"]
    assert work.requests[-1].image == image.read_bytes()


def test_upload_of_an_image(client: SyncClient, image: Path) -> None:
    from PIL import Image

    with Image.open(image) as opened:
        url = client.upload_image(opened.convert("RGB"))
    assert httpx.get(url).headers["content-type"] == "image/jpeg"


def test_upload_goes_another_way_where_the_first_fails(
    server: FalServer, client: SyncClient, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fal_client.client, "CDN_URL", f"{server.url}/nowhere")
    start = len(server.asked)
    url = client.upload(image.read_bytes(), "image/png")
    assert httpx.get(url).content == image.read_bytes()
    assert since(server, start, "POST /rest/storage/upload/initiate")
    assert since(server, start, "PUT /cdn/upload/")


def test_upload_with_a_lifetime(server: FalServer, client: SyncClient, image: Path) -> None:
    url = client.upload(
        image.read_bytes(), "image/png", lifecycle=fal_client.StorageSettings(expires_in=60)
    )
    found = server.parts.uploads.find("/".join(url.split("/")[-2:]))
    assert found is not None
    assert found.stat().st_mtime == pytest.approx(time.time() + 60, abs=10)


def test_upload_of_more_than_100_mib(server: FalServer, client: SyncClient, tmp_path: Path) -> None:
    big = tmp_path / "big.png"
    with big.open("wb") as file:
        for number in range(21):
            file.write(bytes([number]) * (5 * 2**20))
    start = len(server.asked)
    url = client.upload_file(big)
    assert len(since(server, start, "PUT ")) == 11
    with httpx.stream("GET", url) as answer:
        assert int(answer.headers["content-length"]) == big.stat().st_size
        with big.open("rb") as file:
            for piece in answer.iter_bytes(2**20):
                assert file.read(len(piece)) == piece
    server.parts.uploads.find("/".join(url.split("/")[-2:])).unlink()  # type: ignore[union-attr]


def test_a_photo_that_cannot_be_fetched(client: SyncClient) -> None:
    with pytest.raises(FalClientHTTPError) as caught:
        client.subscribe(APP, {"image_url": "http://127.0.0.1:9/photo.png"})
    assert caught.value.status_code == 422
    assert caught.value.message[0]["type"] == "file_download_error"


def test_an_encoded_photo(client: SyncClient, image: Path, work: FakeWork) -> None:
    client.run(APP, {"image_url": fal_client.encode_file(image)})
    assert work.requests[-1].image == image.read_bytes()
