"""The API beside the page, as Gradio serves both: one process, one port, one queue."""

import base64
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file
from starlette.types import ASGIApp

from svd_core.settings import Settings
from svd_core.web.fal import build_api
from svd_core.web.listener import ListenAddress
from svd_core.web.middleware import MAX_BODY
from svd_core.web.origins import reachable_locally_only
from svd_core.web.page import Backend, build_page
from svd_core.web.server import configure_gradio_queue, launch, launch_options, max_followers
from tests.fakes.engines import photo
from tests.fakes.fal_server import KEY, KEYS, PhotoWork, fal_service

APP = "fal-ai/stable-video"
ANN = {"Authorization": f"Key {KEY}"}


@contextmanager
def page_and_api(
    settings: Settings,
    wrap: Callable[[ASGIApp], ASGIApp] = lambda api: api,
    preview: bytes | None = None,
) -> Iterator[tuple[str, PhotoWork]]:
    """Address of the page, without a slash at the end. `wrap`: middleware around the API.

    The page shows what is in the folder `examples` of the data folder.
    """
    folder = settings.data_dir
    work = PhotoWork(folder / "results", steps=3, preview=preview)
    with fal_service(settings, work) as (service, _):
        backend = Backend(service.queue, service.status, service.context.results, lambda _: None)
        page = build_page(backend, folder / "examples", max_followers(settings))
        configure_gradio_queue(page, settings)
        listener = ListenAddress(port=0).bind()
        launch(
            page, lambda: listener, launch_options(settings, work.folder, wrap(build_api(service)))
        )
        try:
            yield listener.url.rstrip("/"), work
        finally:
            page.close(verbose=False)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, PhotoWork]]:
    folder = tmp_path_factory.mktemp("both")
    with page_and_api(Settings(data_dir=folder, api_keys=KEYS)) as found:
        yield found


@pytest.fixture
def url(served: tuple[str, PhotoWork]) -> str:
    return served[0]


@pytest.fixture
def work(served: tuple[str, PhotoWork]) -> PhotoWork:
    return served[1]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photo(tmp_path_factory.mktemp("photo") / "photo.png")


@pytest.fixture(scope="module")
def body(image: Path) -> dict[str, str]:
    data = base64.b64encode(image.read_bytes()).decode()
    return {"image_url": f"data:image/png;base64,{data}"}


def test_both_are_there(url: str, body: dict[str, str]) -> None:
    assert "<html" in httpx.get(f"{url}/").text
    assert httpx.get(f"{url}/fal/health").json()["status"] == "ok"
    answer = httpx.post(f"{url}/fal/run/{APP}", json=body, headers=ANN)
    video = answer.json()["video"]
    assert video["url"].startswith(f"{url}/fal/cdn/videos/")
    assert httpx.get(video["url"]).content[4:8] == b"ftyp"
    for path in (f"/fal/queue/{APP}/requests/x/status/", "/fal/nothing/"):
        answer = httpx.get(f"{url}{path}", headers=ANN)
        assert (answer.status_code, answer.headers["content-type"]) == (404, "application/json")


def test_they_stand_in_one_line(
    url: str, work: PhotoWork, image: Path, body: dict[str, str]
) -> None:
    page, before = Client(url, verbose=False, analytics_enabled=False), len(work.requests)
    with work.held():
        first = page.submit(image=handle_file(image), api_name="/generate")
        while len(work.requests) == before:
            time.sleep(0.02)
        told = httpx.post(f"{url}/fal/queue/{APP}", json=body, headers=ANN).json()
        status = httpx.get(told["status_url"], headers=ANN).json()
        assert status["queue_position"] == 1  # behind the page's one, which runs
        second = page.submit(image=handle_file(image), api_name="/generate")
        while httpx.get(f"{url}/fal/health").json()["queue_length"] != 2:
            time.sleep(0.02)
    assert Path(first.result(timeout=20)[0]).stat().st_size
    assert Path(second.result(timeout=20)[0]).stat().st_size
    while httpx.get(told["status_url"], headers=ANN).status_code == 202:
        time.sleep(0.02)
    assert httpx.get(told["response_url"], headers=ANN).json()["video"]


def test_a_stream_comes_piece_by_piece(url: str, work: PhotoWork, body: dict[str, str]) -> None:
    with work.held(), httpx.stream("POST", f"{url}/fal/run/{APP}/stream", json=body,
                                   headers=ANN) as answer:  # fmt: skip
        lines = (line for line in answer.iter_lines() if line.startswith("data: "))
        stages = [json.loads(next(lines)[6:])["progress"]["stage"] for _ in range(2)]
        assert stages[-1] == "denoising"
        work.go.set()
        assert json.loads(list(lines)[-1][6:])["video"]


def test_uploads_may_be_larger_than_what_the_page_takes(url: str) -> None:
    permit = httpx.post(f"{url}/fal/rest/storage/upload/initiate", json={}, headers=ANN).json()
    big = bytes(MAX_BODY + 1)
    assert httpx.put(permit["upload_url"], content=big).status_code == 200
    assert httpx.head(permit["file_url"]).headers["content-length"] == str(len(big))
    assert httpx.post(f"{url}/gradio_api/upload", content=big).status_code == 413


def test_a_browser_reads_our_headers_through_gradio(url: str, body: dict[str, str]) -> None:
    near = {"Origin": "http://localhost:3000"}
    preflight = httpx.options(
        f"{url}/fal/run/{APP}",
        headers=near
        | {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type,x-fal-target-url",
        },
    )
    assert preflight.headers["access-control-allow-origin"] == near["Origin"]
    assert "x-fal-target-url" in preflight.headers["access-control-allow-headers"]
    answer = httpx.post(f"{url}/fal/run/{APP}", json=body, headers=near | ANN)
    assert answer.headers.get_list("access-control-allow-origin") == [near["Origin"]]
    assert "x-fal-request-id" in answer.headers["access-control-expose-headers"]


def test_page_and_api_open_no_door_for_each_other(tmp_path: Path, body: dict[str, str]) -> None:
    settings = Settings(data_dir=tmp_path, api_keys=KEYS, page_auth="ann:pass")
    with page_and_api(settings) as (url, _), httpx.Client(base_url=url) as visitor:
        assert visitor.get("/config").status_code == 401
        visitor.post("/login", data={"username": "ann", "password": "pass"})
        assert visitor.get("/config").status_code == 200
        assert visitor.cookies
        assert visitor.post(f"/fal/run/{APP}", json=body).status_code == 401
        answer = httpx.post(f"{url}/fal/run/{APP}", json=body, headers=ANN)
        assert answer.status_code == 200
        assert "set-cookie" not in answer.headers
        assert httpx.get(f"{url}/config", headers=ANN).status_code == 401


@pytest.mark.parametrize(
    ("environ", "alone"),
    [
        ({}, True),
        ({"GRADIO_SERVER_NAME": ""}, True),
        ({"GRADIO_SERVER_NAME": "localhost"}, True),
        ({"GRADIO_SERVER_NAME": "0.0.0.0"}, False),
        ({"GRADIO_SERVER_NAME": "::"}, False),
        ({"GRADIO_SERVER_NAME": "192.168.1.5"}, False),
        ({"GRADIO_SHARE": "True"}, False),
    ],
)
def test_who_can_reach_the_server(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], alone: bool
) -> None:
    for name in ("GRADIO_SERVER_NAME", "GRADIO_SHARE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setitem(os.environ, name, value)
    assert reachable_locally_only() is alone
