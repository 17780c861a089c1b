"""Address and port: taken as they were asked for, or refused in one sentence."""

import errno
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from svd_core.errors import InvalidSettings, SvdError
from svd_core.web import listener as module
from svd_core.web.listener import DEFAULT_PORT, ListenAddress, Listener
from tests.fakes.errors import has_code


def from_env(**environ: str) -> ListenAddress:
    return ListenAddress.from_env({f"GRADIO_{name}": value for name, value in environ.items()})


def close(listener: Listener) -> None:
    for each in listener.sockets:
        each.close()


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6")


@pytest.fixture
def busy() -> Iterator[int]:
    """A port of this machine, on which another program listens."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


@pytest.mark.parametrize(
    ("environ", "host", "port"),
    [
        ({}, "127.0.0.1", None),
        ({"SERVER_NAME": "", "SERVER_PORT": ""}, "127.0.0.1", None),
        ({"SERVER_NAME": " 0.0.0.0 ", "SERVER_PORT": " 80 "}, "0.0.0.0", 80),
        ({"SERVER_NAME": "[::1]", "SERVER_PORT": "0"}, "::1", 0),
        ({"SERVER_NAME": "Studio.LAN"}, "studio.lan", None),
        ({"SERVER_PORT": "tcp://10.96.0.12:7860"}, "127.0.0.1", None),  # written by Kubernetes
    ],
)
def test_gradios_variables_are_read(environ: dict[str, str], host: str, port: int | None) -> None:
    address = from_env(**environ)
    assert (address.host, address.port) == (host, port)


@pytest.mark.parametrize("port", ["text", "-1", "65536", "7860.0", "0x50", "٧٨٦٠", "1 2", "1e3"])
@pytest.mark.parametrize("name", ["SERVER_PORT", "NUM_PORTS"])
def test_a_wrong_number_is_told(name: str, port: str) -> None:
    with pytest.raises(
        InvalidSettings, check=has_code("port_invalid", variable=f"GRADIO_{name}", most=65535)
    ) as caught:
        from_env(**{name: port})
    assert "\n" not in caught.value.message


def test_gradio_reads_what_it_can_read() -> None:
    environ = {
        "GRADIO_SERVER_PORT": "tcp://10.96.0.12:7860", "GRADIO_NUM_PORTS": "",
        "GRADIO_NODE_NUM_PORTS": "x",
    }  # fmt: skip
    ListenAddress.from_env(environ).export(environ)
    assert environ == {}
    environ = {"GRADIO_SERVER_PORT": " 80 ", "GRADIO_NUM_PORTS": "3"}
    ListenAddress.from_env(environ).export(environ)
    assert environ == {"GRADIO_SERVER_PORT": "80", "GRADIO_NUM_PORTS": "3"}


FORMS = ["127.0.0.1", "127.1", "localhost", "::1", "0:0:0:0:0:0:0:1", "0.0.0.0", "::"]


@needs_ipv6
@pytest.mark.parametrize("host", FORMS)
def test_every_form_of_an_address_is_listened_on(host: str) -> None:
    bound = ListenAddress(host, 0).bind()
    try:
        for each in bound.sockets:
            each.listen()
        url = bound.url
        assert url.startswith(("http://127.0.0.1:", "http://[::1]:"))
        ways = {"0.0.0.0": ["127.0.0.1"], "::": ["127.0.0.1", "::1"]}.get(host, [host])
        for way in ways:
            socket.create_connection((way, bound.port), timeout=5).close()
    finally:
        close(bound)


def test_a_busy_port_that_was_asked_for_is_refused(busy: int) -> None:
    with pytest.raises(InvalidSettings, check=has_code("port_taken", port=busy)):
        ListenAddress(port=busy).bind()
    with pytest.raises(InvalidSettings, check=has_code("port_taken", port=busy)):
        ListenAddress("0.0.0.0", busy).bind()


@needs_ipv6
def test_the_same_port_of_another_address_is_free(busy: int) -> None:
    bound = ListenAddress("::1", busy).bind()
    assert bound.url == f"http://[::1]:{busy}/"
    close(bound)


def test_without_a_wish_the_next_free_port_is_taken(
    busy: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DEFAULT_PORT", busy)
    bound = ListenAddress().bind()
    assert busy < bound.port < busy + 100
    close(bound)
    with pytest.raises(InvalidSettings, check=has_code("ports_taken", first=busy, last=busy)):
        ListenAddress(tries=1).bind()
    assert DEFAULT_PORT == 7860


@pytest.mark.parametrize(
    "host", ["192.0.2.7", "2001:db8::1", "no such name", "a..b", "x" * 300, "127.0.0.1:80", "é.é"]
)
def test_an_address_of_another_machine_is_told(host: str) -> None:
    with pytest.raises(InvalidSettings, match="^GRADIO_SERVER_NAME is .*127.0.0.1") as caught:
        ListenAddress(host, 0).bind()
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("number", "port", "expected"),
    [
        (errno.EACCES, 80, has_code("port_reserved", port=80)),
        (errno.EACCES, 8080, has_code("listen_failed", host="127.0.0.1", port=8080)),
        (errno.EINVAL, 80, has_code("listen_failed", port=80)),
        (errno.EADDRNOTAVAIL, 80, has_code("host_foreign", host="127.0.0.1")),
    ],
)
def test_what_the_system_refuses_is_told(
    monkeypatch: pytest.MonkeyPatch, number: int, port: int, expected: Callable[[SvdError], bool]
) -> None:
    def refused(*_: Any) -> socket.socket:
        raise OSError(number, "Refused")

    monkeypatch.setattr(module, "_bound", refused)
    with pytest.raises(InvalidSettings, check=expected):
        ListenAddress(port=port).bind()


@pytest.mark.parametrize(
    ("host", "alone"),
    [("127.0.0.1", True), ("127.1", True), ("::1", True), ("0:0:0:0:0:0:0:1", True),
     ("localhost", True), ("0.0.0.0", False), ("::", False), ("192.0.2.7", False),
     ("no such name", False), ("::ffff:127.0.0.1", True)],
)  # fmt: skip
def test_who_can_reach_an_address(host: str, alone: bool) -> None:
    assert ListenAddress(host).is_loopback is alone
