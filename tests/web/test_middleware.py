"""The guard in front of page and API: foreign web pages, odd requests, bodies, and logins."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import httpx
import pytest
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from svd_core.settings import Settings
from svd_core.web.middleware import (
    MAX_BODY,
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    MAX_LOGIN_BODY,
    MAX_OTHER_BODY,
    MAX_PATH,
    GuardMiddleware,
)
from svd_core.web.origins import OriginPolicy, is_loopback, origin_netloc
from svd_core.web.rate_limits import (
    BURST,
    MAX_ADDRESSES,
    REFILL_S,
    LoginThrottle,
    client_address,
    network_of,
)
from svd_core.web.request_body import BodyReader
from tests.api.test_shared_server import page_and_api
from tests.fakes.engines import Served, photo, serve
from tests.fakes.fal_server import KEYS
from tests.fakes.work import FakeWork

LOCAL = OriginPolicy(local=True)
OPEN = OriginPolicy(local=False)


def policy(local: bool = True, **settings: Any) -> OriginPolicy:
    return OriginPolicy.from_settings(Settings(**settings), local=local)


def passes(policy: OriginPolicy, **headers: str) -> bool:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return policy.refusal(Headers(named)) is None


# Host and Origin.


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1:7860", "[::1]:7860", "LOCALHOST:1", "127.8.9.1", "localhost."]
)
def test_a_local_server_is_called_by_names_of_its_machine(host: str) -> None:
    assert passes(LOCAL, host=host)
    assert passes(LOCAL, host=host, origin=f"http://{host}")


FOREIGN_HOSTS = (
    "evil.example", "evil.example:7860", "localhost.evil.example", "127.0.0.1.nip.io",
    "localhost:80@evil", "0.0.0.0", "192.168.0.7", "", "a b", "127.0.0.1, evil", "studio",
    "evil.local", "1.2.3.4.5", "[::2]", "[::1]evil", "2130706433",
)  # fmt: skip


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
def test_a_local_server_has_no_other_name(host: str) -> None:
    assert not passes(LOCAL, host=host)
    assert not passes(LOCAL, host=host, origin=f"http://{host}", x_forwarded_host=host)


def test_one_host_is_enough() -> None:
    pairs = [(b"host", b"localhost"), (b"host", b"evil.example")]
    assert LOCAL.refusal(Headers(raw=pairs)) is not None
    assert LOCAL.refusal(Headers(raw=[])) is None  # HTTP/1.0; browsers always send one


FOREIGN_ORIGINS = ("https://evil.example", "http://evil.example:7860", "null", "", "file://",
                   "http://localhost.evil.example", "https://http://localhost", "http://",
                   "http://localhost@evil.example", "http://evil.example/localhost",
                   "ftp://localhost", "localhost", "http://127.0.0.1.nip.io")  # fmt: skip


@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
@pytest.mark.parametrize("policy", [LOCAL, OPEN, OriginPolicy(local=True, login=True)])
def test_pages_of_others_are_refused(policy: OriginPolicy, origin: str) -> None:
    host = "127.0.0.1:7860" if policy.local else "studio.example"
    assert not passes(policy, host=host, origin=origin)
    assert passes(policy, host=host)


def test_a_page_on_another_port_counts_as_foreign_where_there_is_a_login() -> None:
    near = {"host": "127.0.0.1:7860", "origin": "http://127.0.0.1:3000"}
    assert passes(LOCAL, **near)
    assert not passes(OriginPolicy(local=True, login=True), **near)
    assert not passes(OPEN, **near)


@pytest.mark.parametrize("host", ["studio.example", "studio.example:443", "STUDIO.example:80"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_its_own_pages_may_call_it_by_whatever_name(host: str, scheme: str) -> None:
    assert passes(OPEN, host=host, origin=f"{scheme}://studio.example")
    proxied = {"host": "10.0.0.1:7860", "x_forwarded_host": f"{host}, inner"}
    assert passes(OPEN, origin=f"{scheme}://studio.example", **proxied)
    assert not passes(OPEN, origin=f"{scheme}://studio.example:8443", **proxied)


@pytest.mark.parametrize(
    "said",
    [
        {"x_forwarded_host": "studio.example", "x_forwarded_port": "8443"},
        {"x_forwarded_host": "studio.example:8443"},
        {"forwarded": 'for="a,b";proto=https;host="studio.example:8443"'},
    ],
)
def test_its_own_pages_may_call_it_through_any_proxy(said: dict[str, str]) -> None:
    assert passes(OPEN, host="10.0.0.1", origin="https://studio.example:8443", **said)
    assert not passes(OPEN, host="10.0.0.1", origin="https://studio.example", **said)


def test_a_public_address_is_a_name_of_the_server() -> None:
    for local in (True, False):
        behind = policy(local, public_url="https://svd.example/studio")
        for host in ("svd.example", "127.0.0.1:7860"):
            assert passes(behind, host=host, origin="https://svd.example")
            assert not passes(behind, host=host, origin="https://evil.example")
        assert not passes(behind, host="evil.example")
    assert passes(behind, host="10.0.0.3:7860")
    assert passes(behind, host="studio:7860")
    assert passes(behind, host="studio.default.svc.cluster.local")


def test_a_space_serves_any_page_until_it_has_a_login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACE_HOST", "ann-studio.hf.space")
    public, closed = policy(False), policy(False, page_auth="ada:secret")
    own = {"host": "ann-studio.hf.space"}
    for origin in ("https://ann-studio.hf.space", "https://huggingface.co", "https://a.example"):
        assert passes(public, **own, origin=origin)
    assert passes(closed, **own, origin="https://ann-studio.hf.space")
    assert not passes(closed, **own, origin="https://huggingface.co")
    assert passes(policy(True), **own, origin="https://ann-studio.hf.space")
    assert passes(public, host="10.20.30.40:7860")
    limited = policy(False, allowed_origins="https://a.example")
    assert passes(limited, **own, origin="https://a.example")
    assert not passes(limited, **own, origin="https://b.example")


def test_origins_may_be_allowed() -> None:
    some = policy(allowed_origins="https://a.example, http://b.example:8000")
    for origin in ("https://a.example", "http://b.example:8000"):
        assert passes(some, host="localhost", origin=origin)
    for origin in ("https://a.example:8000", "https://b.example", "https://c.example"):
        assert not passes(some, host="localhost", origin=origin)
    every = policy(allowed_origins="*")
    assert passes(every, host="localhost", origin="https://evil.example")
    assert not passes(every, host="evil.example", origin="https://evil.example")


def test_long_headers_are_read_in_linear_time() -> None:
    for text in ("a" * 60_000, "a." * 30_000, "[" * 60_000, "1." * 30_000, "http://" * 9_000):
        assert not is_loopback(text)
        assert origin_netloc(text) is None
        assert not passes(LOCAL, host=text, origin=text)


# The page, as it is served.


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("guarded")
    with serve(folder, FakeWork(folder)) as served:
        yield served


@pytest.fixture
def page(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=30) as found:
        yield found


UPLOADED = f"{uuid4().hex}.png"
JOIN = {"data": [], "fn_index": 0, "session_hash": "abc"}
MCP = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
CALLS: list[tuple[str, str, dict[str, Any]]] = [
    ("GET", "/", {}),
    ("GET", "/config", {}),
    ("GET", "/gradio_api/info", {}),
    ("GET", "/gradio_api/queue/data?session_hash=x", {}),
    ("POST", "/gradio_api/upload", {"files": {"files": (UPLOADED, b"0" * 1000)}}),
    ("POST", "/gradio_api/queue/join", {"json": JOIN}),
    ("POST", "/gradio_api/call/generate", {"json": {"data": []}}),
    ("POST", "/gradio_api/mcp/", {"json": MCP}),
    ("POST", "/login", {"data": {"username": "a", "password": "b"}}),
]


@pytest.mark.parametrize(("method", "path", "content"), CALLS)
@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example:7860"},
        {"Host": "evil.example", "Origin": "http://evil.example"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
)
def test_a_foreign_page_reaches_nothing_of_a_local_studio(
    served: Served, page: httpx.Client, method: str, path: str, content: Any,
    headers: dict[str, str],
) -> None:  # fmt: skip
    answer = page.request(method, path, headers=headers, **content)
    assert answer.status_code == 403
    assert "SVD_PUBLIC_URL" in answer.text
    assert "access-control-allow-origin" not in answer.headers
    assert not [*Path(served.page.GRADIO_CACHE).rglob(UPLOADED)]


def test_a_preflight_of_a_foreign_page_fails(page: httpx.Client) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-a"}
    answer = page.options("/gradio_api/queue/join", headers={"Origin": "https://a.b"} | asked)
    assert answer.status_code == 403
    own = page.options("/gradio_api/queue/join", headers={"Origin": "http://localhost:1"} | asked)
    assert own.status_code == 200


def test_the_page_may_be_framed_and_calls_itself(served: Served, page: httpx.Client) -> None:
    framed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "iframe", "Referer": "https://a.b/"}
    answer = page.get("/", headers=framed)
    assert answer.status_code == 200
    assert "x-frame-options" not in answer.headers
    own = {"Origin": served.url}
    upload = page.post("/gradio_api/upload", files={"files": ("x.png", b"1")}, headers=own)
    assert upload.status_code == 200
    assert page.get("/config", headers=own).status_code == 200


def test_requests_are_what_the_server_takes(page: httpx.Client) -> None:
    many = {f"x-{n}": "1" for n in range(MAX_HEADERS)}
    assert page.get("/config", headers=many).status_code == 431
    assert page.get("/config", headers={"x": "1" * MAX_HEADER_BYTES}).status_code == 431
    assert page.get("/" + "a" * MAX_PATH).status_code == 414
    assert page.get("/config", headers={"x": "1" * (MAX_HEADER_BYTES // 2)}).status_code == 200


@pytest.mark.parametrize(
    "path",
    ["custom_component/x/client/component/%0aINJECTED", "custom_component/x/client/component/x",
     "custom_component/a%0ab/c", "file=a%0ab", "file=a%0d", "file=%00", "file=%E2%80%A8"],
)  # fmt: skip
def test_no_caller_writes_a_line_of_the_log(
    page: httpx.Client, capfd: pytest.CaptureFixture[str], path: str
) -> None:
    assert page.get(f"/gradio_api/{path}").status_code == 404
    assert capfd.readouterr() == ("", "")


def test_headers_of_a_request_do_not_come_back(
    served: Served, page: httpx.Client, tmp_path: Path
) -> None:
    file = {"files": ("x.png", photo(tmp_path / "x.png").read_bytes())}
    (path,) = page.post("/gradio_api/upload", files=file).json()
    asked = {
        "Cookie": "a=b", "Authorization": "Key secret:abc", "X-Evil": "1", "Range": "bytes=0-3",
        "Access-Control-Expose-Headers": "cookie", "Access-Control-Allow-Credentials": "true",
        "Set-Cookie": "c=d", "Content-Type": "text/html", "Content-Disposition": "inline",
        "Content-Security-Policy": "none", "Location": "https://evil.example",
    }  # fmt: skip
    answer = page.get(f"/gradio_api/file={path}", headers=asked)
    assert (answer.status_code, answer.content) == (206, b"\x89PNG")
    assert answer.headers["content-range"].startswith("bytes 0-3/")
    assert answer.headers["content-type"] == "image/png"
    plain = page.get(f"/gradio_api/file={path}")
    assert set(answer.headers) - set(plain.headers) <= {"content-range"}
    for value in ("a=b", "secret", "text/html", "evil"):
        assert value not in str(answer.headers)


PREDICT = '{"data": [X], "fn_index": 0, "session_hash": "abc"}'
STRANGE = {
    "lists": ",".join(["[]"] * 1_000_000),
    "deep": "[" * 1000 + "]" * 1000,
    "deeper": "[" * 40_000,
    "large": "1e999",
    "long": "9" * 5000,
    "nan": "NaN",
    "open": '"',
}


@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.parametrize("path", ["queue/join", "run/predict", "call/generate", "mcp/"])
def test_json_beyond_the_limits_is_refused_before_gradio_reads_it(
    page: httpx.Client, capfd: pytest.CaptureFixture[str], path: str, kind: str
) -> None:
    body = PREDICT.replace("X", STRANGE[kind])
    answer = page.post(
        f"/gradio_api/{path}", content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 422
    assert answer.text.startswith("This server cannot read the JSON")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("/login", MAX_LOGIN_BODY),
        ("/gradio_api/component_server", MAX_OTHER_BODY),
        ("/gradio_api/cancel", MAX_OTHER_BODY),
        ("/gradio_api/queue/join", MAX_BODY),
        ("/gradio_api/upload", MAX_BODY),
    ],
)
def test_bodies_are_as_large_as_their_address_needs(
    page: httpx.Client, path: str, limit: int
) -> None:
    answer = page.post(path, content=b"0" * (limit + 1))
    assert answer.status_code == 413
    assert answer.headers["connection"] == "close"


def test_a_body_of_unsaid_length_is_cut_off() -> None:
    read = dict.fromkeys(("/gradio_api/upload", "/gradio_api/queue/join"), 0)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive())["type"] == "http.request":
            read[scope["path"]] += len(message["body"])

    async def receive() -> Message:
        return {"type": "http.request", "body": b"0" * 2**20, "more_body": True}

    async def scenario() -> list[int]:
        told: list[int] = []

        async def send(message: Message) -> None:
            told.append(message.get("status", 0))

        for path in read:
            scope = {"type": "http", "method": "POST", "path": path, "headers": []}
            await GuardMiddleware(app, None, LOCAL, BodyReader())(scope, receive, send)
        return told

    assert anyio.run(scenario)[0] == 413
    assert read == {"/gradio_api/upload": MAX_BODY, "/gradio_api/queue/join": 0}


def test_an_upload_that_stalls_ends() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(3):
            seen.append((await receive())["type"])

    async def receive() -> Message:
        if not seen:
            return {"type": "http.request", "body": b"0", "more_body": True}
        return await anyio.sleep_forever()  # type: ignore[func-returns-value,no-any-return]

    async def send(_: Message) -> None:
        pass

    async def scenario() -> None:
        guard = GuardMiddleware(app, None, LOCAL, BodyReader(stall_s=0.01))
        scope = {"type": "http", "method": "POST", "path": "/gradio_api/upload", "headers": []}
        await guard(scope, receive, send)

    anyio.run(scenario)
    assert seen == ["http.request", "http.disconnect", "http.disconnect"]


def test_what_comes_after_a_body_is_heard() -> None:
    """Gradio learns by it that the client has gone."""
    seen: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend([await receive(), await receive()])
        seen.append({"type": client_address.get()})

    async def scenario(path: str) -> None:
        coming: list[Message] = [
            {"type": "http.request", "body": b'{"a"', "more_body": True},
            {"type": "http.request", "body": b": 1}", "more_body": False},
            {"type": "http.disconnect"},
        ]

        async def receive() -> Message:
            return coming.pop(0)

        async def send(_: Message) -> None:
            pass

        scope = {"type": "http", "method": "POST", "path": path, "headers": [],
                 "client": ("192.0.2.7", 1)}  # fmt: skip
        await GuardMiddleware(app, None, LOCAL, BodyReader())(scope, receive, send)

    anyio.run(scenario, "/gradio_api/queue/join")
    assert seen == [
        {"type": "http.request", "body": b'{"a": 1}', "more_body": False},
        {"type": "http.disconnect"},
        {"type": "192.0.2.7"},
    ]


def test_a_websocket_is_closed() -> None:
    told: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError(scope)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        told.append(message)

    async def scenario() -> None:
        scope = {"type": "websocket", "path": "/", "headers": [(b"origin", b"http://evil.example")]}
        await GuardMiddleware(app, None, LOCAL, BodyReader())(scope, receive, send)

    anyio.run(scenario)
    assert [message["type"] for message in told] == ["websocket.close"]


# A login.


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("locked")
    settings = Settings(data_dir=folder, page_auth="ada:secret")
    with serve(folder, FakeWork(folder), settings=settings) as served:
        yield served


def test_where_there_is_a_login_no_neighbour_may_use_it(locked: Served) -> None:
    with httpx.Client(base_url=locked.url) as ada:
        form = {"username": "ada", "password": "secret"}
        cookies = dict(ada.post("/login", data=form, headers={"Origin": locked.url}).cookies)
        named = {"Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}
        assert ada.get("/config", headers=named).status_code == 200
        for origin in ("http://127.0.0.1:1", "https://evil.example", "null"):
            answer = ada.get("/config", headers=named | {"Origin": origin})
            assert answer.status_code == 403
            assert "access-control-allow-credentials" not in answer.headers
        large = json.dumps({"data": ["a" * MAX_LOGIN_BODY]})
        kind = {"Content-Type": "application/json"}
        ada.cookies.clear()
        for path in ("/gradio_api/queue/join", "/gradio_api/upload", "/gradio_api/mcp/"):
            for headers in ({}, {"Cookie": "access-token-unsecure-x=y"}):
                answer = ada.post(path, content=large, headers=kind | headers)
                assert answer.status_code == 413, path
        known = ada.post("/gradio_api/queue/join", content=large, headers=kind | named)
        assert known.status_code not in (401, 403, 413)


def test_passwords_cannot_be_tried_quickly(locked: Served) -> None:
    wrong = {"username": "ada", "password": "guess"}
    right = {"username": "ada", "password": "secret"}
    with httpx.Client(base_url=locked.url) as client:
        assert client.post("/login", data=right).status_code == 200
        told = [client.post("/login", data=wrong).status_code for _ in range(BURST + 5)]
        assert told[: BURST - 1] == [400] * (BURST - 1)
        assert told[-1] == 429
        late = client.post("/login", data=right)
        assert late.status_code == 429
        assert "wait" in late.text
        assert int(late.headers["retry-after"]) > 0


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_throttle_fills_up_again() -> None:
    clock = Clock()
    throttle = LoginThrottle(clock)
    assert [throttle.admit("a") for _ in range(BURST + 2)] == [True] * BURST + [False] * 2
    assert throttle.admit("b")
    clock.now += REFILL_S
    assert [throttle.admit("a") for _ in range(2)] == [True, False]
    throttle.refund("a")
    assert [throttle.admit("a") for _ in range(2)] == [True, False]
    clock.now += 1000 * REFILL_S
    assert [throttle.admit("a") for _ in range(BURST + 1)] == [True] * BURST + [False]


def test_the_throttle_knows_only_so_many_addresses() -> None:
    throttle = LoginThrottle(Clock())
    for number in range(MAX_ADDRESSES + 10):
        assert throttle.admit(str(number))
    assert len(throttle._full_at) <= MAX_ADDRESSES
    throttle.refund("gone long ago")


@pytest.mark.parametrize(
    ("address", "network"),
    [("192.0.2.7", "192.0.2.7"), ("2001:db8::1:2", "2001:db8::/64"), ("testclient", "testclient"),
     ("::ffff:192.0.2.7", "192.0.2.7"), ("", "")],
)  # fmt: skip
def test_what_counts_as_one_address(address: str, network: str) -> None:
    assert network_of(address) == network


# The API beside it.


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with page_and_api(Settings(data_dir=tmp_path_factory.mktemp("both"), api_keys=KEYS)) as found:
        yield found[0]


def test_answers_of_the_api_carry_its_own_headers_only(both: str) -> None:
    """So that a browser anywhere may call it with a key, and nowhere with a cookie."""
    origin = {"Origin": "https://app.example"}
    asked = {"Access-Control-Request-Method": "POST",
             "Access-Control-Request-Headers": "authorization"}  # fmt: skip
    for answer in (
        httpx.get(f"{both}/fal/health", headers=origin),
        httpx.post(f"{both}/fal/queue/fal-ai/stable-video", headers=origin),
        httpx.options(f"{both}/fal/queue/fal-ai/stable-video", headers=origin | asked),
    ):
        assert "access-control-allow-credentials" not in answer.headers
        assert answer.headers["access-control-allow-origin"] in ("*", "https://app.example")


def test_the_api_refuses_oversized_requests_in_json(both: str) -> None:
    answer = httpx.get(f"{both}/fal/health", headers={"x": "1" * MAX_HEADER_BYTES})
    assert (answer.status_code, answer.headers["content-type"]) == (431, "application/json")
    assert answer.json()["detail"]


def test_the_credentials_header_goes_to_the_page_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(data_dir=tmp_path, allowed_origins="*", public_url="http://svd.example")
    with serve(tmp_path, FakeWork(tmp_path), settings=settings) as served:
        for origin, own in (("http://svd.example", True), ("https://other.example", False)):
            headers = {"Host": "svd.example", "Origin": origin}
            answer = httpx.get(f"{served.url}/config", headers=headers)
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == origin
            assert ("access-control-allow-credentials" in answer.headers) is own
