"""Proxy variables of every form: never for this machine, and never the end of an HTTP client."""

import os
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from svd_core import proxies
from svd_core.errors import InvalidSettings
from svd_core.proxies import prepare_proxies

HERE = ("http://127.0.0.1:7860/", "http://localhost:7860/", "http://[::1]:7860/")
HUB = "https://huggingface.co/"


@pytest.fixture(autouse=True)
def no_proxies_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(proxies, "getproxies", dict)
    monkeypatch.setattr(proxies, "find_spec", lambda name: object())


def prepared(environ: Mapping[str, str], host: str = "") -> dict[str, str]:
    found = dict(environ)
    prepare_proxies(found, host)
    return found


def way(url: str) -> str | None:
    """The proxy that an HTTP client uses for `url` now."""
    with httpx.Client() as client:
        transport: Any = client._transport_for_url(httpx.URL(url))
        proxy = getattr(transport._pool, "_proxy_url", None)
        return None if proxy is None else proxy.host.decode()


@pytest.mark.parametrize(
    "environ",
    [
        {"HTTP_PROXY": "http://proxy.example:3128", "HTTPS_PROXY": "http://proxy.example:3128"},
        {"http_proxy": "proxy.example:3128", "https_proxy": "proxy.example:3128"},
        {"ALL_PROXY": "http://proxy.example:3128"},
        {"ALL_PROXY": "HTTPS://user:p%40ss@proxy.example:3128/"},
        {"HTTPS_PROXY": "http://user:p@ss@proxy.example:3128", "NO_PROXY": "localhost,127.0.0.1"},
        {"HTTPS_PROXY": "http://proxy.example", "NO_PROXY": "[::1],fe80::/10,10.0.0.0/8,<local>"},
        {"HTTPS_PROXY": "http://proxy.example", "no_proxy": ".corp.example, *.a.example b.example"},
        {"HTTPS_PROXY": "http://proxy.example", "NO_PROXY": "a:b,http://x,é,..,:"},
        {"https_proxy": "http://proxy.example", "HTTPS_PROXY": "http://other.example"},
        {"HTTPS_PROXY": '"http://proxy.example:3128"', "NO_PROXY": "'a.example;b.example'"},
        {"Https_Proxy": "proxy.example", "http_Proxy": "other.example"},
    ],
)
def test_downloads_use_the_proxy_and_this_machine_does_not(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]
) -> None:
    for name, value in prepared(environ, host="studio.lan").items():
        monkeypatch.setenv(name, value)
    assert way(HUB) == "proxy.example"
    for url in (*HERE, "http://studio.lan:7860/"):
        assert way(url) is None


@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "SOCKS5", "socks"])
def test_socks_proxies_are_supported(scheme: str) -> None:
    found = prepared({"ALL_PROXY": f"{scheme}://user:pass@127.0.0.1:1080/"})
    assert found["ALL_PROXY"].partition("://")[0] in ("socks5", "socks5h")
    assert found["ALL_PROXY"] == found["all_proxy"]


def test_a_library_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxies, "find_spec", lambda name: None)
    assert prepared({"ALL_PROXY": "http://proxy.example"})
    with pytest.raises(InvalidSettings, match=r"^ALL_PROXY cannot be used: .*httpx\[socks\]"):
        prepared({"ALL_PROXY": "socks5://127.0.0.1:1080"})


@pytest.mark.parametrize(
    "proxy",
    [
        "socks4://s3cret:1080", "socks4a://u:s3cret@h:1080", "ftp://s3cret:21", "http://s3cret:port",
        "http://s3cret:99999", "http://s3cret:0", ":8080", "http://", "//s3cret:1", "::1:3128",
        "http:s3cret:1", "http://s3cret\x01:1", "http://s3cret :1", "http://[::1", "http://ü..s3cret",
        "http://u:s3cret#x@h:1", "http://\udcff:1", "{s3cret}",
    ],
)  # fmt: skip
def test_a_proxy_that_cannot_be_used_is_told_without_its_password(proxy: str) -> None:
    if proxy == "{s3cret}":  # a template that was never filled in is a name like any other
        assert prepared({"HTTPS_PROXY": proxy})
        return
    with pytest.raises(InvalidSettings, match="^HTTPS_PROXY cannot be used: ") as caught:
        prepared({"https_proxy": proxy})
    assert "s3cret" not in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    "environ",
    [
        {}, {"HTTP_PROXY": ""}, {"NO_PROXY": "x"}, {"FTP_PROXY": "ftp://x"},
        {"http_proxy": "", "HTTP_PROXY": "http://x"},
    ],
)  # fmt: skip
def test_without_a_proxy_nothing_changes(environ: dict[str, str]) -> None:
    assert prepared(environ) == environ


def test_proxies_of_the_system_are_no_way_to_this_machine_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On Windows and macOS they are not in the environment."""
    system = {"http": "http://proxy.example:1", "https": "http://proxy.example:1"}
    monkeypatch.setattr(proxies, "getproxies", lambda: dict(system))
    for name, value in prepared({}).items():
        monkeypatch.setenv(name, value)
    assert way(HUB) == "proxy.example"
    assert [way(url) for url in HERE] == [None] * 3


def test_a_proxy_for_nothing_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in prepared({"ALL_PROXY": "http://proxy.example", "NO_PROXY": "*"}).items():
        monkeypatch.setenv(name, value)
    assert way(HUB) is None
