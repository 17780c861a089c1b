"""Page and API behind nginx with `deploy/nginx.conf`: TLS, a path, and its usual buffering."""

import json
import ssl
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fal_client.client
import httpx
import pytest
from playwright.sync_api import Browser, expect

from svd_core.settings import Settings
from tests.api.test_node_clients import node  # noqa: F401 - a fixture
from tests.api.test_node_clients import run as run_node
from tests.api.test_shared_server import page_and_api
from tests.browser.visiting import done, generate, open_tab, plays, small_film, visitor
from tests.fakes.engines import examples
from tests.fakes.fal_server import KEY, KEYS, PhotoWork
from tests.fakes.fal_tls import Certificates, certificates
from tests.fakes.nginx import find_nginx, free_ports, nginx
from tests.fakes.webhook_receiver import receiving

APP = "fal-ai/stable-video"
KEPT = {"proxy_pass http://127.0.0.1:7860/;": "proxy_pass http://127.0.0.1:7860;"}
LEAST = {
    f"proxy_set_header {name} {value};": ""
    for name, value in {
        "Host             ": "$http_host",
        "X-Forwarded-For  ": "$proxy_add_x_forwarded_for",
        "X-Forwarded-Host ": "$http_host",
        "X-Forwarded-Proto": "$scheme",
    }.items()
}
"""The configuration of three lines, which passes on nothing of what visitors asked for."""

# The client leaves the connections of its uploads to the collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@dataclass(frozen=True)
class Site:
    """`url`: what visitors call, without a slash at the end."""

    url: str
    work: PhotoWork
    own: Certificates
    client: httpx.Client


PLACES: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "whole host": ("", {}),
    "path that is removed": ("/svd", {}),
    "path that is kept, and nothing passed on": ("/svd", KEPT | LEAST),
}


BELOW_A_PATH = "path that is removed"
"""The place that is tried with each change; the others are tried with the slow tests."""


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(place, marks=() if place == BELOW_A_PATH else pytest.mark.slow)
        for place in PLACES
    ],
)
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    find_nginx()
    folder = tmp_path_factory.mktemp("site")
    own = certificates(folder)
    (port,) = free_ports(1)
    path, changes = PLACES[request.param]
    url = f"https://127.0.0.1:{port}{path}"
    examples(folder)
    settings = Settings(
        data_dir=folder, api_keys=KEYS, allow_private_urls=True, public_url=f"{url}/"
    )
    with (
        page_and_api(settings, preview=small_film()) as (direct, work),
        nginx(folder / "nginx", port, int(direct.rpartition(":")[2]), own, changes),
        httpx.Client(verify=ssl.create_default_context(cafile=own.ca), timeout=30) as client,
    ):
        yield Site(url, work, own, client)


def test_the_page_makes_a_video_and_shows_it_forming(browser: Browser, site: Site) -> None:
    with visitor(browser, f"{site.url}/", site.url, ignore_https_errors=True) as page:
        progress = page.locator("#progress")
        with site.work.held():
            generate(page)
            expect(progress).to_contain_text("step 2 of 3")
            preview = page.get_by_role("img", name="Preview of the video in progress")
            assert preview.evaluate("image => image.decode().then(() => image.naturalWidth)") == 128
        done(page)
        plays(page)
        open_tab(page, "code")
        expect(page.locator("#snippets")).to_contain_text(f"{site.url}/?")
        expect(page.locator("#snippets")).to_contain_text(f"{site.url}/fal")


def test_fal_for_javascript(node: Path, site: Site, image: Path) -> None:  # noqa: F811
    environ = {
        "FAL_KEY": KEY, "FAL_LOCAL_BASE": f"{site.url}/fal", "NODE_EXTRA_CA_CERTS": str(site.own.ca)
    }  # fmt: skip
    told = run_node(site, ["scenarios.mjs", "J2", "happy", image], **environ)
    assert told["streamed"]["states"][-1] == "COMPLETED"
    assert told["streamed"]["data"]["video"]["url"].startswith(f"{site.url}/fal/cdn/videos/")
    assert told["done"]["seed"] == 24
    told = run_node(site, ["scenarios.mjs", "J2", "uploads", image], **environ)
    assert told["same"]
    assert told["url"].startswith(f"{site.url}/fal/cdn/files/")


def test_fal_for_python_and_a_webhook(
    site: Site, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(site.own.ca))
    for name, place in {
        "QUEUE_URL_FORMAT": "/queue/", "RUN_URL_FORMAT": "/run/", "REST_URL": "/rest",
        "CDN_URL": "/cdn",
    }.items():  # fmt: skip
        monkeypatch.setattr(fal_client.client, name, f"{site.url}/fal{place}")
    client = fal_client.SyncClient(key=KEY)
    try:
        url = client.upload_file(image)
        assert url.startswith(f"{site.url}/fal/cdn/files/")
        assert client.subscribe(APP, {"image_url": url, "seed": 4})["seed"] == 4
        pieces = list(client.stream(APP, {"image_url": url, "seed": 5}))
        assert pieces[-1]["seed"] == 5
        with receiving() as receiver:
            client.submit(APP, {"image_url": url, "seed": 6}, webhook_url=receiver.url)
            (hook,) = receiver.wait_for(1)
    finally:
        client._client.close()
    video = hook.told["payload"]["video"]["url"]
    assert video.startswith(f"{site.url}/fal/cdn/videos/")
    assert site.client.get(video).content[4:8] == b"ftyp"
    hook.check(site.client.get(f"{site.url}/fal/rest/.well-known/jwks.json").json())


def test_events_arrive_when_they_are_sent(site: Site, uri: str) -> None:
    headers, body = {"Authorization": f"Key {KEY}"}, {"image_url": uri}
    url = f"{site.url}/fal/run/{APP}/stream"
    with site.work.held(), site.client.stream("POST", url, json=body, headers=headers) as answer:
        lines = (line for line in answer.iter_lines() if line.startswith("data: "))
        found = ""
        while found != "denoising":  # the work waits, so that nginx has no more to send
            found = json.loads(next(lines)[6:])["progress"]["stage"]
        site.work.go.set()
        assert json.loads(list(lines)[-1][6:])["video"]


REFUSALS: list[tuple[str, str, dict[str, str], int]] = [
    ("POST", f"/fal/queue/{APP}", {"Authorization": "Key me:wrong"}, 401),
    ("POST", "/fal/nothing", {"Authorization": f"Key {KEY}"}, 404),
    ("PUT", f"/fal/queue/{APP}", {"Authorization": f"Key {KEY}"}, 405),
    ("PUT", "/fal/cdn/upload/a/b.png?token=x", {}, 403),
    ("POST", "/gradio_api/cancel", {}, 413),
    ("POST", "/gradio_api/upload", {"Origin": "https://evil.example"}, 403),
]


@pytest.mark.parametrize(("method", "path", "headers", "status"), REFUSALS)
def test_refusals_are_read(
    site: Site, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    for _ in range(5):
        answer = site.client.request(
            method, f"{site.url}{path}", content=bytes(3_000_000), headers=headers
        )
        assert answer.status_code == status


@pytest.mark.slow
def test_silent_streams_outlive_a_proxy_that_cuts_them(
    tmp_path: Path, image: Path, uri: str
) -> None:
    """Each stream says something every 15 s, so that limits of 30 s and more never cut it."""
    own, (port,) = certificates(tmp_path), free_ports(1)
    settings = Settings(
        data_dir=tmp_path, api_keys=KEYS, public_url=f"https://127.0.0.1:{port}", keep_hours=1
    )
    limits = {"proxy_read_timeout 1h;": f"proxy_read_timeout {CUT_S}s;"}
    key = {"Authorization": f"Key {KEY}"}
    mcp = {"Accept": "application/json, text/event-stream"}
    with (
        page_and_api(settings) as (direct, work),
        nginx(tmp_path / "nginx", port, int(direct.rpartition(":")[2]), own, limits),
        httpx.Client(
            base_url=settings.public_url, timeout=120,
            verify=ssl.create_default_context(cafile=own.ca),
        ) as client,
        ThreadPoolExecutor(8) as threads,
        work.held(),
    ):  # fmt: skip
        (path,) = client.post("/gradio_api/upload", files={"files": image.open("rb")}).json()
        photo = {"path": path, "meta": {"_type": "gradio.FileData"}}
        event = client.post("/gradio_api/call/v2/generate", json={"image": photo}).json()
        job = client.post(f"/fal/queue/{APP}", json={"image_url": uri}, headers=key).json()
        (tool,) = mcp_call(client, "tools/list", {}, mcp)["tools"]
        streams = [
            threads.submit(client.get, f"/gradio_api/call/generate/{event['event_id']}"),
            threads.submit(client.get, f"{job['status_url']}/stream", headers=key),
            threads.submit(
                client.post, f"/fal/run/{APP}/stream", json={"image_url": uri}, headers=key
            ),
            threads.submit(
                mcp_call, client, "tools/call",
                {"name": tool["name"], "arguments": {"image": uri}},
                mcp,
            ),
        ]  # fmt: skip
        time.sleep(CUT_S + 5)
        assert [s.result() if s.done() else None for s in streams] == [None] * 4
        work.go.set()
        called, status, run, tool_result = [stream.result() for stream in streams]
    assert "event: complete" in called.text
    assert '"COMPLETED"' in status.text
    assert '"video"' in run.text
    assert not tool_result.get("isError"), tool_result


CUT_S = 17
"""Seconds of silence after which nginx gives up here: a little more than the 15 s of heartbeats."""


def mcp_call(
    client: httpx.Client, method: str, params: dict[str, Any], headers: dict[str, str]
) -> dict[str, Any]:
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    answer = client.post("/gradio_api/mcp/", json=body, headers=headers)
    data = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    found: dict[str, Any] = json.loads(data[-1])["result"]
    return found
