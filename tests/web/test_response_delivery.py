"""Streams that proxies do not gather, and refusals after the rest of the request."""

import socket
from collections.abc import Iterator, Sequence

import anyio
import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from svd_core.settings import Settings
from svd_core.web.middleware import ResponseDelivery
from tests.api.test_shared_server import page_and_api
from tests.fakes.fal_server import KEY, KEYS, PhotoWork

ANN = {"Authorization": f"Key {KEY}"}
MCP = {"Accept": "application/json, text/event-stream"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, PhotoWork]]:
    folder = tmp_path_factory.mktemp("delivery")
    with page_and_api(Settings(data_dir=folder, api_keys=KEYS)) as found:
        yield found


def test_no_stream_is_gathered_or_kept(served: tuple[str, PhotoWork], uri: str) -> None:
    url, _ = served
    body, tools = {"image_url": uri}, {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    app = f"{url}/fal/run/fal-ai/stable-video"
    job = httpx.post(f"{url}/fal/queue/fal-ai/stable-video", json=body, headers=ANN).json()
    for method, address, options in (
        ("POST", f"{app}/stream", {"json": body, "headers": ANN}),
        ("GET", f"{job['status_url']}/stream", {"headers": ANN}),
        ("GET", f"{url}/gradio_api/queue/data?session_hash=abc", {}),
        ("GET", f"{url}/gradio_api/heartbeat/abc", {}),
        ("POST", f"{url}/gradio_api/mcp/", {"json": tools, "headers": MCP}),
    ):
        with httpx.stream(method, address, timeout=30, **options) as answer:  # type: ignore[arg-type]
            assert answer.headers["content-type"].startswith("text/event-stream"), address
            assert answer.headers.get_list("x-accel-buffering") == ["no"], address
            assert answer.headers.get_list("cache-control") == ["no-store"], address
    page = httpx.get(f"{url}/config")
    assert "x-accel-buffering" not in page.headers


REFUSALS = [
    (f"POST /fal/queue/fal-ai/stable-video HTTP/1.0\r\nAuthorization: Key {KEY}x\r\n", 401),
    (f"POST /fal/nothing HTTP/1.0\r\nAuthorization: Key {KEY}\r\n", 404),
    ("PUT /fal/cdn/upload/a/b.png?token=x HTTP/1.0\r\n", 403),
    ("POST /gradio_api/upload HTTP/1.0\r\nOrigin: https://evil.example\r\n", 403),
    ("POST /gradio_api/cancel HTTP/1.0\r\n", 413),
    ("POST /gradio_api/nothing HTTP/1.1\r\nConnection: close\r\n", 413),
    (f"POST /fal/nothing HTTP/1.1\r\nx: {'1' * 70_000}\r\n", 431),
    ("DELETE /fal/health HTTP/1.0\r\n", 405),
]


@pytest.mark.parametrize(("head", "status"), REFUSALS)
def test_a_client_that_sends_everything_first_reads_the_refusal(
    served: tuple[str, PhotoWork], head: str, status: int
) -> None:
    """As nginx does it, in HTTP/1.0, where the server closes the connection."""
    url, size = httpx.URL(served[0]), 2_000_000
    for _ in range(3):
        with socket.create_connection((url.host, url.port or 0), timeout=30) as client:
            client.sendall(f"{head}Host: 127.0.0.1\r\nContent-Length: {size}\r\n\r\n".encode())
            for _ in range(20):
                client.sendall(bytes(size // 20))
            answer = b""
            while piece := client.recv(65536):
                answer += piece
        assert answer.startswith(f"HTTP/1.1 {status} ".encode())


def test_a_client_that_waits_for_leave_is_refused_at_once(
    served: tuple[str, PhotoWork],
) -> None:
    url = httpx.URL(served[0])
    head = (
        "POST /fal/queue/fal-ai/stable-video HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        "Content-Length: 99999999\r\nExpect: 100-continue\r\n\r\n"
    )
    with socket.create_connection((url.host, url.port or 0), timeout=30) as client:
        client.sendall(head.encode())
        answer = b""
        while piece := client.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"100 Continue" not in answer


def exchange(
    messages: Sequence[Message], *, limit: int = 100, headers: Sequence[tuple[bytes, bytes]] = ()
) -> tuple[list[Message], int]:
    """What a refusal sends, and how many of the client's messages are left."""
    coming, sent = list(messages), []

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b"no"})

    async def receive() -> Message:
        if not coming:
            await anyio.sleep_forever()
        return coming.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    async def scenario() -> None:
        scope = {"type": "http", "method": "POST", "headers": [*headers]}
        await ResponseDelivery(refuse, limit, stall_s=0.01)(scope, receive, send)

    anyio.run(scenario)
    return sent, len(coming)


def piece(size: int, more: bool = True) -> Message:
    return {"type": "http.request", "body": bytes(size), "more_body": more}


GONE = {"type": "http.disconnect"}


@pytest.mark.parametrize(
    ("messages", "left", "closes"),
    [
        ([piece(50), piece(20, more=False), GONE], 1, False),
        ([piece(50), piece(51), piece(1), piece(1, more=False), GONE], 1, True),  # beyond the limit
        ([piece(50), piece(51), piece(1)], 0, True),
        ([piece(50), piece(51), GONE], 0, True),
        ([piece(50)], 0, True),  # no more comes: the client waits
        ([piece(50), GONE], 0, False),
        ([], 0, True),
    ],
)
def test_the_rest_of_a_request_is_dropped_within_limits(
    messages: list[Message], left: int, closes: bool
) -> None:
    sent, remaining = exchange(messages, headers=[(b"content-length", b"9")])
    assert remaining == left
    assert sent[0]["status"] == 404
    assert ((b"connection", b"close") in sent[0]["headers"]) is closes
    assert b"".join(message["body"] for message in sent[1:]) == b"no"
    assert [message.get("more_body", False) for message in sent[1:]][-1] is False


def test_a_client_that_sends_more_than_is_dropped_reads_the_refusal(
    served: tuple[str, PhotoWork],
) -> None:
    """Closed at once, the connection would be reset, and the refusal be lost."""
    url, piece = httpx.URL(served[0]), bytes(2**20)
    head = f"POST /fal/nothing HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Key {KEY}\r\n"
    with socket.create_connection((url.host, url.port or 0), timeout=60) as client:
        client.sendall(f"{head}Content-Length: {320 << 20}\r\n\r\n".encode())
        for _ in range(320):
            client.sendall(piece)
        answer = b""
        while received := client.recv(65536):
            answer += received
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert answer.endswith(b'not found"}')


@pytest.mark.parametrize("headers", [[], [(b"content-length", b"0")]])
def test_without_a_body_nothing_is_waited_for(headers: list[tuple[bytes, bytes]]) -> None:
    sent, left = exchange([GONE], headers=headers)
    assert left == 1
    assert sent[0]["headers"] == []
