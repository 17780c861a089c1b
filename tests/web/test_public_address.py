"""The public URL: one fact for page, API, links and Gradio, however a proxy passes requests on."""

import json
import re
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from gradio_client import Client
from starlette.types import Scope

from svd_core.errors import InvalidSettings
from svd_core.settings import Settings
from svd_core.web.public_address import (
    ADDRESS_KEY,
    PublicAddress,
    PublicAddressMiddleware,
    configured_url,
    route_path,
)
from tests.api.test_shared_server import page_and_api
from tests.fakes.engines import examples
from tests.fakes.fal_server import KEYS

PROXY, STRANGER = "127.0.0.1", "192.0.2.7"


def scope(path: str = "/config", peer: str = PROXY, **headers: str) -> Scope:
    named = {"host": "10.0.0.1:7860"} | headers
    return {
        "type": "http",
        "scheme": "http",
        "path": path,
        "server": ("127.0.0.1", 7860),
        "client": (peer, 5),
        "headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in named.items()],
    }


@pytest.mark.parametrize("peer", [PROXY, STRANGER])
def test_the_configured_address_holds_whatever_a_request_says(peer: str) -> None:
    address = PublicAddress("https://svd.example/svd/")
    claims = {"x_forwarded_host": "evil.example", "x_forwarded_prefix": "/evil"}
    for headers in ({}, {"host": "127.0.0.1"}, {"host": ""}, claims):
        assert address.resolve(scope(peer=peer, **headers)) == "https://svd.example/svd"


@pytest.mark.parametrize(
    ("headers", "url"),
    [
        ({}, "http://10.0.0.1:7860"),
        ({"host": "svd.example"}, "http://svd.example"),
        ({"x_forwarded_proto": "https"}, "https://10.0.0.1:7860"),
        ({"x_forwarded_scheme": "https", "host": "a.example"}, "https://a.example"),
        ({"x_forwarded_proto": "https, http", "x_forwarded_host": "a.example, b"},
         "https://a.example"),
        ({"x_forwarded_host": "a.example:8443", "x_forwarded_port": "9"}, "http://a.example:8443"),
        ({"x_forwarded_host": "a.example", "x_forwarded_port": "8080"}, "http://a.example:8080"),
        ({"x_forwarded_host": "a.example", "x_forwarded_port": "443"}, "http://a.example"),
        ({"x_forwarded_host": "[::1]", "x_forwarded_port": "8080"}, "http://[::1]:8080"),
        ({"x_forwarded_prefix": "/svd/"}, "http://10.0.0.1:7860/svd"),
        ({"x_forwarded_prefix": "/a/b"}, "http://10.0.0.1:7860/a/b"),
        ({"forwarded": 'for=1.2.3.4;proto=https;host="a.example:8"'}, "https://a.example:8"),
        ({"forwarded": "host=a.example;proto=https, for=5.6.7.8"}, "https://a.example"),
        ({"x_forwarded_proto": "javascript"}, "http://10.0.0.1:7860"),
        ({"x_forwarded_host": "a b"}, "http://10.0.0.1:7860"),
        ({"x_forwarded_host": "a.example/x"}, "http://10.0.0.1:7860"),
        ({"x_forwarded_prefix": "//evil.example"}, "http://10.0.0.1:7860"),
        ({"x_forwarded_prefix": '/"><script>'}, "http://10.0.0.1:7860"),
        ({"x_gradio_server": "http://evil.example"}, "http://10.0.0.1:7860"),
        ({"origin": "https://evil.example"}, "http://10.0.0.1:7860"),
        ({"host": 'a"b'}, "http://127.0.0.1:7860"),
        ({"x_forwarded_proto": "HTTPS"}, "https://10.0.0.1:7860"),
        ({"x_forwarded_ssl": "on"}, "https://10.0.0.1:7860"),
        ({"x_forwarded_protocol": "ssl", "x_forwarded_proto": "http"}, "http://10.0.0.1:7860"),
        ({"x_forwarded_proto": "https", "x_forwarded_host": "A.Example:443"}, "https://a.example"),
        ({"x_forwarded_host": "2001:db8::1"}, "http://[2001:db8::1]"),
        ({"x_forwarded_host": "a.example", "x_forwarded_port": "8443, 80"},
         "http://a.example:8443"),
        ({"x_forwarded_host": "a.example", "x_forwarded_port": "99999"}, "http://10.0.0.1:7860"),
        ({"x_forwarded_host": "a.example:99999"}, "http://10.0.0.1:7860"),
        ({"x_forwarded_prefix": "svd"}, "http://10.0.0.1:7860/svd"),
        ({"x_forwarded_prefix": "/a//, /b"}, "http://10.0.0.1:7860/a"),
        ({"x_forwarded_prefix": "/a/../b/."}, "http://10.0.0.1:7860/b"),
        ({"x_forwarded_prefix": "/"}, "http://10.0.0.1:7860"),
        ({"x_forwarded_prefix": "/fal"}, "http://10.0.0.1:7860"),
        ({"forwarded": 'For=1.2.3.4; Proto=HTTPS ; Host = "a.example"'}, "https://a.example"),
        ({"forwarded": 'for="[2001:db8::1]:80";host="[2001:db8::2]:8"'}, "http://[2001:db8::2]:8"),
        ({"forwarded": 'for="a,b";host=a.example'}, "http://a.example"),
        ({"forwarded": 'host=a.example;for="x;host=evil.example"'}, "http://a.example"),
        ({"forwarded": r'host="a\.example"'}, "http://a.example"),
        ({"forwarded": "xhost=evil.example;host=a.example"}, "http://a.example"),
        ({"forwarded": 'host="a.example'}, "http://10.0.0.1:7860"),
    ],
)  # fmt: skip
def test_a_trusted_proxy_is_believed(headers: dict[str, str], url: str) -> None:
    assert PublicAddress("").resolve(scope(**headers)) == url


def test_only_a_trusted_proxy_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    claims = {
        "x_forwarded_host": "evil.example", "x_forwarded_proto": "https",
        "x_forwarded_prefix": "/evil", "forwarded": "host=evil.example", "x_forwarded_port": "9",
    }  # fmt: skip
    assert PublicAddress("").resolve(scope(peer=STRANGER, **claims)) == "http://10.0.0.1:7860"
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "192.0.2.0/24")
    assert PublicAddress("").resolve(scope(peer=STRANGER, **claims)).startswith("https://evil")
    assert PublicAddress("").resolve(scope(peer=PROXY, **claims)) == "http://10.0.0.1:7860"
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    assert PublicAddress("").resolve(scope(peer="::2", **claims)).startswith("https://evil")


@pytest.mark.parametrize(
    ("value", "peers"),
    [
        ("", {"127.0.0.1", "::1", "::ffff:127.0.0.1"}),
        (" * ", {"127.0.0.1", "::1", "10.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1"}),
        ("10.0.0.1, *", {"127.0.0.1", "::1", "10.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1"}),
        ("10.0.0.9/8", {"10.0.0.1", "::ffff:10.0.0.1"}),
        ("10.0.0.0/255.0.0.0", {"10.0.0.1", "::ffff:10.0.0.1"}),
        ("::ffff:10.0.0.1", {"10.0.0.1", "::ffff:10.0.0.1"}),
        ("localhost;192.0.2.1", {"127.0.0.1", "::1", "::ffff:127.0.0.1"}),
        ("[::1] 10.0.0.1,", {"::1", "10.0.0.1", "::ffff:10.0.0.1"}),
    ],
)
def test_trusted_proxies_in_each_of_their_forms(
    monkeypatch: pytest.MonkeyPatch, value: str, peers: set[str]
) -> None:
    """A socket for both kinds of addresses shows IPv4 as IPv6."""
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", value)
    address = PublicAddress("")
    others = ("127.0.0.1", "::1", "10.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1")
    believed = {
        peer
        for peer in others
        if address.resolve(scope(peer=peer, x_forwarded_proto="https")).startswith("https")
    }
    assert believed == peers


@pytest.mark.parametrize("value", ["nginx", "10.*", "300.1.1.1/8", "10.0.0.1/33", "10.0.0.1:80"])
def test_trusted_proxies_that_are_none_stop_the_start(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", value)
    with pytest.raises(InvalidSettings, match="FORWARDED_ALLOW_IPS") as caught:
        PublicAddress.from_settings(Settings())
    assert value in str(caught.value)


@pytest.mark.parametrize(
    ("peer", "headers", "visitor"),
    [
        (PROXY, {"forwarded": 'for="[2001:db8::1]:80";proto=https'}, "2001:db8::1"),
        (PROXY, {"forwarded": "for=192.0.2.1, For=127.0.0.1"}, "192.0.2.1"),
        (PROXY, {"forwarded": "for=192.0.2.1", "x_forwarded_for": "192.0.2.2"}, "192.0.2.2"),
        (PROXY, {"forwarded": "host=a.example"}, PROXY),
        ("::ffff:127.0.0.1", {"x_forwarded_for": "192.0.2.1"}, "192.0.2.1"),
        ("::ffff:192.0.2.7", {"x_forwarded_for": "192.0.2.1"}, STRANGER),
        (STRANGER, {"forwarded": "for=192.0.2.1"}, STRANGER),
    ],
)
def test_the_visitor_behind_a_proxy(peer: str, headers: dict[str, str], visitor: str) -> None:
    seen: list[Any] = []

    async def app(inner: Scope, *_: object) -> None:
        seen.append(inner["client"][0])

    middleware: Any = PublicAddressMiddleware(app, PublicAddress(""))
    anyio.run(middleware, scope(peer=peer, **headers), None, None)
    assert seen == [visitor]


@pytest.mark.parametrize("url", ["https://a.example/svd", "https://a.example/s%C3%B6hne/x"])
@pytest.mark.parametrize("path", ["/", "/config", "/fal/health", "/svdx", "/gradio_api/a%b"])
def test_a_path_may_be_removed_by_the_proxy_or_kept(url: str, path: str) -> None:
    address = PublicAddress(url)
    prefix = "/svd" if "svd" in url else "/söhne/x"
    for sent in (path, prefix + path):
        found = address.locate(scope(sent))
        assert (found["root_path"], found["path"]) == (prefix, prefix + path)
        assert route_path(found) == path
        assert found[ADDRESS_KEY] == url
    assert route_path(PublicAddress("").locate(scope(path))) == path


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({"SPACE_HOST": "ann-studio.hf.space"}, "https://ann-studio.hf.space"),
        ({"GRADIO_ROOT_PATH": "https://a.example/svd/"}, "https://a.example/svd"),
        ({"GRADIO_ROOT_PATH": "/svd"}, ""),
        ({}, ""),
    ],
)
def test_the_address_may_come_from_elsewhere(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], url: str
) -> None:
    monkeypatch.delenv("GRADIO_ROOT_PATH", raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert configured_url(Settings()) == url
    own = Settings(public_url="HTTPS://Own.example:443/x/")
    assert configured_url(own) == "https://own.example/x"


@pytest.mark.parametrize("value", ["/svd", "svd", "/svd//", " /svd/ ", "/a/../svd"])
def test_gradios_own_root_path_still_counts(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("GRADIO_ROOT_PATH", value)
    address = PublicAddress.from_settings(Settings())
    assert address.resolve(scope()) == "http://10.0.0.1:7860/svd"
    assert address.resolve(scope(x_forwarded_prefix="/x")) == "http://10.0.0.1:7860/x"


@pytest.mark.parametrize(
    "value", ["a.example/svd", "https://a b/svd", "//a.example", "localhost:80/x", "/svd?a=b"]
)
def test_a_root_path_that_is_none_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("GRADIO_ROOT_PATH", value)
    with pytest.raises(InvalidSettings, match="GRADIO_ROOT_PATH is wrong.*SVD_PUBLIC_URL"):
        PublicAddress.from_settings(Settings())


PLACES: list[tuple[dict[str, Any], dict[str, str], str]] = [
    ({"public_url": "https://svd.example/svd"}, {}, "https://svd.example/svd"),
    ({"public_url": "https://svd.example"}, {"Host": "127.0.0.1"}, "https://svd.example"),
    ({}, {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "127.0.0.1:8"}, "https://127.0.0.1:8"),
    ({}, {"X-Forwarded-Prefix": "/svd", "Host": "localhost"}, "http://localhost/svd"),
]


@pytest.mark.parametrize(("settings", "headers", "url"), PLACES)
def test_page_api_and_mcp_believe_in_one_address(
    tmp_path: Path, settings: dict[str, Any], headers: dict[str, str], url: str
) -> None:
    examples(tmp_path)
    path = httpx.URL(url).path.rstrip("/")
    with page_and_api(Settings(data_dir=tmp_path, api_keys=KEYS, **settings)) as (direct, _):
        for base in {direct, direct + path}:
            with httpx.Client(base_url=base, headers=headers) as client:
                assert client.get("/config").json()["root"] == url
                assert f'"root":"{url}"' in client.get("/").text.replace(" ", "")
                assert client.get("/fal/openapi.json").json()["servers"] == [{"url": f"{url}/fal"}]
                schema = client.get("/gradio_api/mcp", follow_redirects=False)
                assert schema.headers["location"] == f"{url}/gradio_api/mcp/"
                assert (
                    client.get("/fal/nothing", headers=AUTH)
                    .json()["detail"]
                    .endswith("/nothing not found")
                )
                assert shown_code(client).count(f"{url}/fal") >= 1
                assert client.get("/assets/nothing.js").status_code == 404
        if path:
            bare = httpx.get(f"{direct}{path}?seed=1", headers=headers)
            assert (bare.status_code, bare.headers["location"]) == (308, f"{url}/?seed=1")
        client = Client(direct, verbose=False, analytics_enabled=False)  # a program beside it
        assert client.view_api(return_format="dict")["named_endpoints"]


AUTH = {"Authorization": f"Key {KEYS.partition(',')[0]}"}


def shown_code(client: httpx.Client) -> str:
    """What the code panel shows."""
    config = client.get("/config").json()
    panel = next(c["id"] for c in config["components"] if c["props"].get("elem_id") == "snippets")
    call = next(d for d in config["dependencies"] if panel in d["outputs"] and not d["queue"])
    values = {c["id"]: c["props"].get("value") for c in config["components"]}
    body = {
        "data": [values[number] for number in call["inputs"]],
        "fn_index": call["id"],
        "session_hash": "abc",
    }
    answer = client.post("/gradio_api/run/predict", json=body)
    assert answer.status_code == 200, answer.text
    html = json.dumps(answer.json()["data"])
    link = re.search(r"https?://[^ <\"]+/\?", html)
    assert link, html
    return html
