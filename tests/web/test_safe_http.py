"""The guard of addresses that users name. Only 127.0.0.1 is ever dialled; the rest is on paper."""

import gzip
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import anyio
import httpx
import pytest

from svd_core.errors import InvalidUrl, Unreachable
from svd_core.media.image import MAX_BYTES
from svd_core.web.safe_http import Fetcher
from tests.fakes.errors import has_code

PUBLIC = "93.184.216.34"


def picture(data: bytes) -> httpx.Response:
    stream = httpx.ByteStream(data)
    return httpx.Response(200, headers={"Content-Type": "image/png"}, stream=stream)


@dataclass
class Paper:
    """Name service and network on paper: what was looked up, what was dialled."""

    names: dict[str, Sequence[str]] = field(default_factory=dict)
    answer: Callable[[httpx.Request], httpx.Response] = lambda _: picture(b"picture")
    looked_up: list[str] = field(default_factory=list)
    dialled: list[httpx.Request] = field(default_factory=list)

    def resolve(self, host: str, port: int) -> Sequence[str]:
        self.looked_up.append(host)
        if host not in self.names:
            raise OSError("no such name")
        return self.names[host]

    def _handle(self, request: httpx.Request) -> httpx.Response:
        self.dialled.append(request)
        return self.answer(request)

    def fetcher(self, allow_private: bool = False) -> Fetcher:
        return Fetcher(
            allow_private,
            resolve=self.resolve,
            transport=lambda: httpx.MockTransport(self._handle),
        )


REFUSED = {
    "loopback": ["127.0.0.1", "127.8.9.1", "::1"],
    "this machine": ["0.0.0.0", "0.1.2.3", "::"],
    "private": ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fd12::1", "fec0::1"],
    "link-local": ["169.254.1.1", "fe80::1", "fe80::1%eth0"],
    "CGNAT": ["100.64.0.1", "100.127.255.255"],
    "metadata": ["169.254.169.254", "100.100.100.200", "192.0.0.192", "168.63.129.16",
                 "fd00:ec2::254"],
    "IPv4 in IPv6": ["::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1",
                     "64:ff9b:1::7f00:1"],
    "6to4 and Teredo": ["2002:7f00:1::", "2002:5db8:d822::1", "2001:0:4136:e378::1"],
    "reserved": ["192.0.0.8", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.9",
                 "192.88.99.1", "240.0.0.1", "255.255.255.255", "2001:db8::1", "3fff::1",
                 "100::1", "5f00::1", "4000::1"],
    "multicast": ["224.0.0.1", "239.255.255.250", "ff02::1", "ff0e::1"],
}  # fmt: skip
EACH_REFUSED = [address for addresses in REFUSED.values() for address in addresses]


@pytest.mark.parametrize("address", EACH_REFUSED)
@pytest.mark.parametrize("way", ["named", "literal", "one of two"])
def test_what_is_not_public_is_never_dialled(address: str, way: str) -> None:
    paper = Paper({"photos.test": [PUBLIC, address] if way == "one of two" else [address]})
    shown = f"[{address}]" if ":" in address else address
    url = f"http://{shown}/a.png" if way == "literal" else "https://photos.test/a.png"
    if "%" in url:
        url = url.replace("%", "%25")
    with pytest.raises(InvalidUrl) as caught:
        paper.fetcher().photo(url)
    assert not isinstance(caught.value, Unreachable)
    assert paper.dialled == []
    assert address not in caught.value.message.removeprefix(address)  # names tell, maps do not
    with pytest.raises(InvalidUrl):
        anyio.run(paper.fetcher().check, url)
    with pytest.raises(InvalidUrl):
        paper.fetcher().post(url, b"{}", {})
    assert paper.dialled == []


@pytest.mark.parametrize("address", [PUBLIC, "1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1"])
def test_what_is_public_is_dialled_at_the_checked_address(address: str) -> None:
    paper = Paper({"photos.test": [address]})
    assert paper.fetcher().photo("https://photos.test:8443/a.png?size=1") == b"picture"
    (request,) = paper.dialled
    assert request.url.host == address.removeprefix("::ffff:")
    assert (request.url.port, request.url.raw_path) == (8443, b"/a.png?size=1")
    assert request.headers.get_list("Host") == ["photos.test:8443"]
    assert request.extensions["sni_hostname"] == "photos.test"  # whose certificate is asked for
    assert not {"cookie", "authorization"} & set(request.headers)


def test_private_addresses_may_be_switched_on_but_never_where_credentials_lie() -> None:
    for kind, addresses in REFUSED.items():
        for address in addresses:
            paper = Paper({"photos.test": [address]})
            if kind in ("loopback", "private"):
                assert paper.fetcher(allow_private=True).photo("http://photos.test/") == b"picture"
            elif kind in ("metadata", "link-local", "this machine", "multicast", "6to4 and Teredo"):
                with pytest.raises(InvalidUrl):
                    paper.fetcher(allow_private=True).photo("http://photos.test/")
                assert paper.dialled == []


@pytest.mark.parametrize(
    "host",
    ["2130706433", "0177.0.0.1", "0x7f.0.0.1", "0x7f000001", "127.1", "127.0.1", "017700000001",
     "0x7f.1", "127.0.0.0x1", "127.0.0.1.", "2130706433.", "0300.0250.1.1", "127.000.000.001",
     "①②⑦.0.0.1"],
)  # fmt: skip
def test_odd_ways_to_write_an_address_are_refused(host: str) -> None:
    """The system's resolver reads many of these as loopback; here it is not even asked."""
    paper = Paper({host: [PUBLIC]})
    with pytest.raises(InvalidUrl):
        paper.fetcher(allow_private=True).photo(f"http://{host}/a.png")
    assert (paper.looked_up, paper.dialled) == ([], [])


@pytest.mark.parametrize(
    "url",
    ["ftp://photos.test/a", "file:///etc/passwd", "gopher://photos.test/", "photos.test/a.png",
     "//photos.test/a", "http:///a.png", "http://", "", "data:image/png;base64,AA==",
     "http://ann:pw@photos.test/", "http://photos.test:22/", "http://photos.test:25/",
     "http://photos.test:99999/", "http://[::1/", "http://a b/", "http://photos.test\r\n/"],
)  # fmt: skip
def test_other_forms_are_refused(url: str) -> None:
    paper = Paper({"photos.test": [PUBLIC]})
    with pytest.raises(InvalidUrl) as caught:
        paper.fetcher().photo(url)
    assert (paper.looked_up, paper.dialled) == ([], [])
    assert "pw" not in caught.value.message


def test_a_name_that_changes_after_the_check_changes_nothing() -> None:
    answers = iter([[PUBLIC], ["127.0.0.1"], ["127.0.0.1"]])
    paper = Paper()
    paper.resolve = lambda host, port: next(answers)  # type: ignore[method-assign]
    assert paper.fetcher().photo("http://photos.test/a.png") == b"picture"
    assert [request.url.host for request in paper.dialled] == [PUBLIC]


def test_each_redirect_is_checked_anew() -> None:
    for target in (
        "http://127.0.0.1/",
        "http://[::ffff:10.0.0.1]/",
        "//inside.test/a",
        "http://2130706433/",
        "file:///etc/passwd",
        "http://photos.test:22/",
    ):
        redirect = httpx.Response(302, headers={"Location": target})
        paper = Paper(
            {"photos.test": [PUBLIC], "inside.test": ["192.168.0.7"]},
            lambda _, redirect=redirect: redirect,  # type: ignore[misc]
        )
        with pytest.raises(InvalidUrl):
            paper.fetcher().photo("http://photos.test/a.png")
        assert len(paper.dialled) == 1


def test_a_redirect_is_followed_and_the_name_is_looked_up_again() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/a":
            return httpx.Response(301, headers={"Location": "/b", "Set-Cookie": "who=you"})
        assert "cookie" not in request.headers
        return picture(b"moved")

    answers = iter([[PUBLIC], ["127.0.0.1"]])
    paper = Paper({"photos.test": [PUBLIC]}, answer)
    assert paper.fetcher().photo("http://photos.test/a") == b"moved"
    paper.resolve = lambda host, port: next(answers)  # type: ignore[method-assign]
    with pytest.raises(InvalidUrl):
        paper.fetcher().photo("http://photos.test/a")


def test_redirects_have_an_end() -> None:
    again = httpx.Response(302, headers={"Location": "/again"})
    paper = Paper({"photos.test": [PUBLIC]}, lambda _: again)
    with pytest.raises(Unreachable, check=has_code("url_redirects_exceeded")):
        paper.fetcher().photo("http://photos.test/")
    assert len(paper.dialled) == 6


def test_the_next_address_is_tried_where_one_takes_no_connection() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host == PUBLIC:
            raise httpx.ConnectError("refused")
        return picture(b"second")

    paper = Paper({"photos.test": [PUBLIC, "1.1.1.1"]}, answer)
    assert paper.fetcher().photo("http://photos.test/") == b"second"


def test_an_unknown_name_is_unreachable() -> None:
    with pytest.raises(Unreachable, match="nowhere.test"):
        Paper().fetcher().photo("http://nowhere.test/a?token=s3cret")


class Answering(BaseHTTPRequestHandler):
    """Answers by path. `posted` and `asked` belong to its server."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers))  # type: ignore[attr-defined]
        with suppress(OSError):  # the client may have gone, which is what some tests want
            getattr(self, self.path[1:].partition("?")[0].replace("-", "_"))()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posted.append((self.path, self.headers, body))  # type: ignore[attr-defined]
        self.do_GET()

    def say(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Type": "image/png"} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def photo(self) -> None:
        self.say(getattr(self.server, "picture", b"photo"))

    def octets(self) -> None:
        self.say(b"photo", **{"Content-Type": "binary/octet-stream"})

    def page(self) -> None:
        self.say(b"<html>secret</html>", **{"Content-Type": "text/html; charset=utf-8"})

    def gone(self) -> None:
        self.say(b"secret", 404)

    def packed(self) -> None:
        self.say(gzip.compress(b"photo"), Content_Encoding="gzip")

    def deflated(self) -> None:
        self.say(zlib.compress(b"photo"), Content_Encoding="deflate")

    def bomb(self) -> None:
        self.say(self.server.bomb, Content_Encoding="gzip")  # type: ignore[attr-defined]

    def damaged(self) -> None:
        self.say(b"no gzip", Content_Encoding="gzip")

    def brotli(self) -> None:
        self.say(b"??", Content_Encoding="br")

    def moved(self) -> None:
        self.say(b"", 307, Location="/photo")

    def endless(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.send_header("Connection", "close")
        self.end_headers()
        while not self.server.over.is_set():  # type: ignore[attr-defined]
            self.wfile.write(bytes(1 << 20))

    def slow_body(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.send_header("Content-Length", "1000")
        self.end_headers()
        while not self.server.over.wait(0.1):  # type: ignore[attr-defined]
            self.wfile.write(b".")

    def slow_head(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        while not self.server.over.wait(0.1):  # type: ignore[attr-defined]
            self.wfile.write(b".")

    def cut_off(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"half")
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def listening() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    server.asked, server.posted, server.over = [], [], threading.Event()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.over.set()  # type: ignore[attr-defined]
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadingHTTPServer]:
    with listening() as found:
        yield found


@pytest.fixture
def here(server: ThreadingHTTPServer) -> str:
    """A name that leads to the server, for `Fetcher`s made by `fetcher`."""
    return f"http://photos.test:{server.server_port}"


def fetcher(photo_s: float = 10.0) -> Fetcher:
    return Fetcher(True, photo_s, photo_s, resolve=lambda host, port: ["127.0.0.1"])


@pytest.mark.parametrize("path", ["photo", "octets", "packed", "deflated", "moved"])
def test_a_photo_is_fetched(here: str, server: ThreadingHTTPServer, path: str) -> None:
    assert fetcher().photo(f"{here}/{path}?a=b") == b"photo"
    _, headers = server.asked[-1]  # type: ignore[attr-defined]
    assert headers["Host"] == here.removeprefix("http://")
    assert headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize(
    ("path", "code", "values"),
    [
        ("page", "url_not_image", {"type": "'text/html'"}),
        ("gone", "url_status", {"status": 404}),
        ("damaged", "url_encoding_damaged", {}),
        ("brotli", "url_encoding_unsupported", {}),
        ("cut-off", "url_connection_failed", {}),
    ],
)
def test_what_is_no_photo_is_named_and_not_shown(
    here: str, path: str, code: str, values: dict[str, Any]
) -> None:
    with pytest.raises(Unreachable, check=has_code(code, **values)) as caught:
        fetcher().photo(f"{here}/{path}?key=s3cret")
    assert "secret" not in caught.value.message
    assert "s3cret" not in caught.value.message


@pytest.mark.parametrize("path", ["slow-body", "slow-head"])
def test_slowness_has_an_end(here: str, path: str) -> None:
    started = time.monotonic()
    with pytest.raises(Unreachable, check=has_code("url_timed_out", seconds=0.5)):
        fetcher(0.5).photo(f"{here}/{path}")
    assert time.monotonic() - started < 2


def test_a_slow_name_service_has_an_end() -> None:
    def resolve(host: str, port: int) -> Sequence[str]:
        time.sleep(1.5)
        return [PUBLIC]

    started = time.monotonic()
    with pytest.raises(Unreachable, check=has_code("url_timed_out", seconds=0.2)):
        Fetcher(photo_timeout_s=0.2, resolve=resolve).photo("http://photos.test/")
    assert time.monotonic() - started < 1


@pytest.mark.parametrize("path", ["endless", "bomb"])
def test_more_than_a_photo_may_have_is_not_kept(
    here: str, server: ThreadingHTTPServer, path: str
) -> None:
    server.bomb = gzip.compress(bytes(15 * MAX_BYTES))  # type: ignore[attr-defined]
    fetcher().photo(f"{here}/photo")  # what the first call loads does not count
    tracemalloc.start()
    try:
        photo = fetcher(30).photo(f"{here}/{path}")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(photo) == MAX_BYTES + 1  # one too many, which the core refuses with its sentence
    assert peak < 4 * MAX_BYTES


def test_nobody_listens() -> None:
    with listening() as server:
        port = server.server_port
    with pytest.raises(Unreachable, check=has_code("url_connection_failed")):
        fetcher().photo(f"http://photos.test:{port}/photo")


def test_post(here: str, server: ThreadingHTTPServer) -> None:
    assert fetcher().post(f"{here}/photo", b'{"a": 1}', {"X-Own": "yes"}) == 200
    assert fetcher().post(f"{here}/gone", b"", {}) == 404
    assert fetcher().post(f"{here}/moved", b"", {}) == 307  # not followed
    assert fetcher().post(f"{here}/endless", b"", {}) == 200  # not read
    path, headers, body = server.posted[0]  # type: ignore[attr-defined]
    assert (path, headers["X-Own"], body) == ("/photo", "yes", b'{"a": 1}')
    with pytest.raises(Unreachable, check=has_code("url_timed_out", seconds=0.3)):
        fetcher(0.3).post(f"{here}/slow-head", b"", {})


def test_proxies_of_this_machine_take_no_part(
    here: str, monkeypatch: pytest.MonkeyPatch, server: ThreadingHTTPServer
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert fetcher().photo(f"{here}/photo") == b"photo"
