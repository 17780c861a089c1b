"""Connections: idle and slow ones end, and thousands of them keep no new client out."""

import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from starlette.requests import Request
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from svd_core.web.connections import (
    MAX_DESCRIPTORS,
    RESERVED_DESCRIPTORS,
    Connections,
    connection_limit,
    limit_connections,
)
from tests.fakes.engines import serve
from tests.fakes.fal_server import listening
from tests.fakes.job_events import eventually

PROTOCOLS = [HttpToolsProtocol, H11Protocol]
SECONDS = 30.0
"""Far more than anything here takes."""

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers at once, at `/stream` after the client is gone, at `/endless` without an end."""
    request = Request(scope, receive)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/stream":
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
    while scope["path"] == "/endless":
        await send({"type": "http.response.body", "body": bytes(2**16), "more_body": True})
        if await request.is_disconnected():
            return
    await send({"type": "http.response.body", "body": b"done"})


@contextmanager
def served(
    limit: int = 100, *, header_s: float = SECONDS, unread_s: float = SECONDS,
    inner: type = HttpToolsProtocol,
) -> Iterator[tuple[int, Connections]]:  # fmt: skip
    connections = Connections(inner, limit, header_s=header_s, unread_s=unread_s)
    with listening(app, http=connections.new_protocol) as url:  # type: ignore[arg-type]
        yield httpx.URL(url).port or 0, connections


def opened(port: int, source: str = "127.0.0.1") -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), SECONDS, (source, 0))
    client.settimeout(SECONDS)
    return client


def ended(client: socket.socket) -> bool:
    """Waits until the server ends the connection."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def drip(client: socket.socket, piece: bytes, every_s: float = 0.0) -> None:
    """Send `piece` repeatedly. Raises `OSError` once the server has ended the connection."""
    begun = time.monotonic()
    while time.monotonic() - begun < SECONDS:
        client.sendall(piece)
        time.sleep(every_s)


@pytest.mark.parametrize("inner", PROTOCOLS)
def test_a_connection_that_sends_nothing_ends(inner: type) -> None:
    with served(header_s=0.05, inner=inner) as (port, connections), opened(port) as client:
        assert ended(client)
        eventually(lambda: not len(connections))


@pytest.mark.parametrize("inner", PROTOCOLS)
def test_headers_that_drip_end(inner: type) -> None:
    with (
        served(header_s=0.2, inner=inner) as (port, _),
        opened(port) as client,
        pytest.raises(OSError, match=r"."),
    ):
        drip(client, b"G", every_s=0.02)


def test_headers_without_an_end_are_cut_off() -> None:
    with served() as (port, connections), opened(port) as client:
        client.sendall(b"GET / HTTP/1.1\r\n")
        with pytest.raises(OSError, match=r"."):
            drip(client, b"x: " + b"a" * 4091 + b"\r\n")
        eventually(lambda: not len(connections))


@pytest.mark.parametrize("inner", PROTOCOLS)
def test_a_request_under_way_is_left_alone(inner: type) -> None:
    with served(header_s=0.5, inner=inner) as (port, _), opened(port) as client:
        client.sendall(GET.replace(b"/", b"/stream", 1))
        received = b""
        while b"begun" not in received:
            received += client.recv(1000)
        client.settimeout(1.0)
        with pytest.raises(TimeoutError):
            client.recv(1)


@pytest.mark.parametrize("inner", PROTOCOLS)
def test_one_connection_takes_one_request_after_the_other(inner: type) -> None:
    with served(header_s=1.5, inner=inner) as (port, _), opened(port) as client:
        for _ in range(5):  # together longer than one may wait for its headers
            client.sendall(GET[:10])
            time.sleep(0.4)
            client.sendall(GET[10:])
            received = b""
            while b"done" not in received:
                piece = client.recv(1000)
                assert piece
                received += piece


def test_after_an_answer_what_drips_in_ends() -> None:
    with served(header_s=0.2) as (port, _), opened(port) as client:
        client.sendall(GET)
        while b"done" not in client.recv(1000):
            pass
        with pytest.raises(OSError, match=r"."):
            drip(client, b"G", every_s=0.02)


def test_who_does_not_read_is_let_go() -> None:
    with served(unread_s=0.1) as (port, connections), opened(port) as client:
        client.sendall(GET.replace(b"/", b"/endless", 1))
        eventually(lambda: len(connections) == 1)
        eventually(lambda: not len(connections))


def test_idle_connections_make_room() -> None:
    with served(limit=20) as (port, connections), ExitStack() as stack:
        idle = [stack.enter_context(opened(port)) for _ in range(60)]
        eventually(lambda: len(connections) == 20)
        for _ in range(5):
            assert httpx.get(f"http://127.0.0.1:{port}/").text == "done"
        assert all(ended(client) for client in idle[:30])
        assert len(connections) <= 20


def streaming(port: int, source: str) -> socket.socket:
    client = opened(port, source)
    client.sendall(GET.replace(b"/", b"/stream", 1))
    received = b""
    while b"begun" not in received and b"503" not in received:
        received += client.recv(1000)
    return client


def test_busy_connections_of_one_address_keep_no_other_out() -> None:
    with served(limit=8) as (port, connections), ExitStack() as stack:
        many = [stack.enter_context(streaming(port, "127.0.0.1")) for _ in range(8)]
        one_more = stack.enter_context(streaming(port, "127.0.0.1"))
        assert ended(one_more)
        other = stack.enter_context(streaming(port, "127.0.0.2"))
        assert ended(many[0])
        assert len(connections) == 8
        other.settimeout(0.2)
        with pytest.raises(TimeoutError):
            other.recv(1)


def test_the_page_that_gradio_launched_holds_to_the_limit(tmp_path: Path) -> None:
    with serve(tmp_path) as page, ExitStack() as stack:
        limit_connections(page.page.server.config, 10)
        port = httpx.URL(page.url).port or 0
        idle = [stack.enter_context(opened(port)) for _ in range(30)]
        for _ in range(3):
            assert httpx.get(f"{page.url}/config").status_code == 200
        assert all(ended(client) for client in idle[:15])


def test_so_many_connections_that_descriptors_are_left() -> None:
    assert connection_limit(2000, MAX_DESCRIPTORS) == 2000
    assert connection_limit(2000, 1024) == 1024 - RESERVED_DESCRIPTORS
    assert connection_limit(2000, 256) == 128
    assert connection_limit(2000, 1) == 1


def test_the_soft_limit_of_descriptors_is_raised() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    code = """
import resource
from svd_core.web.connections import raise_descriptor_limit
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (200, min(hard, 4096)))
print(raise_descriptor_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(min(hard, 4096))] * 3
