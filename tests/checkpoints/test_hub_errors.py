"""Each reason why a checkpoint cannot be downloaded has a sentence with its own remedy."""

import errno
import logging
import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session

from svd_core.checkpoints.hub import fetch
from svd_core.checkpoints.hub_errors import explain
from svd_core.checkpoints.table import CHECKPOINTS, find_checkpoint
from svd_core.errors import ModelBroken, ModelGated, ModelUnavailable, ModelUnreachable, SvdError
from tests.fakes.errors import has_code
from tests.fakes.fal_tls import certificates
from tests.fakes.hub_server import OPEN, TOKEN, FakeHub

ROOT = Path(__file__).parents[2]
TINY = find_checkpoint(OPEN, cuda=False)
PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def _fresh_client(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The client reads proxies and certificates once, and waits between its tries."""
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    close_session()
    yield
    close_session()


def reason(name: str = OPEN) -> ModelUnavailable:
    with pytest.raises(ModelUnavailable) as caught:
        fetch(find_checkpoint(name, cuda=False), half=True, on_bytes=lambda had, total: None)
    assert caught.value.message.endswith(".")
    assert "\n" not in caught.value.message
    return caught.value


# -- this machine -------------------------------------------------------------------------------


def test_a_cache_that_cannot_be_made_is_named(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    error = reason()
    assert isinstance(error, ModelUnreachable)
    assert has_code("model_folder_unusable", variable="HF_HOME")(error)
    assert str(tmp_path / "file") in error.message


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv")
@pytest.mark.parametrize("closed", ["home", "home/token"])
def test_a_cache_that_is_closed_to_this_user_is_named(
    hub: FakeHub, tmp_path: Path, closed: str
) -> None:
    code = (
        "from svd_core.checkpoints.hub import fetch\n"
        "from svd_core.checkpoints.table import CHECKPOINTS\n"
        "from svd_core.errors import SvdError\n"
        "try: fetch(CHECKPOINTS['svd-xt'], True, lambda had, total: None)\n"
        "except SvdError as error: print(error)\n"
    )
    home = tmp_path / "home"
    home.mkdir()
    if closed == "home/token":
        (home / "token").write_text("hf_of_another_user")
    (tmp_path / closed).chmod(0o555 if closed == "home" else 0)
    # For root, permissions count only without this privilege.
    without_privilege = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    command = [*(without_privilege if os.geteuid() == 0 else []), sys.executable, "-c", code]
    environ = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(home)}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert str(home) in done.stdout
    assert "Permission denied" in done.stdout
    assert "HF_HOME" in done.stdout


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOLCK])
def test_a_folder_that_cannot_be_written_is_named(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), "/models/blobs/x.lock")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", refuse)
    words = os.strerror(number)
    assert has_code("model_folder_unusable", path="/models/blobs/x.lock", reason=words)(reason())


def test_the_setting_that_names_the_cache_is_named(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", "/models")
    error = explain(OPEN, PermissionError(errno.EACCES, "", "/models/x"))
    assert has_code("model_folder_unusable", variable="HF_HUB_CACHE")(error)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Data processing error: I/O error: No space left on device (os error 28)",
         "model_disk_full"),
        ("I/O error: Permission denied (os error 13)", "model_folder_unusable"),
        ("I/O error: Read-only file system (os error 30)", "model_folder_unusable"),
        ("error sending request: invalid peer certificate: UnknownIssuer", "certificate_untrusted"),
        ("error sending request for url", "hub_unreachable"),
    ],
)  # fmt: skip
def test_the_xet_downloader_says_it_in_words(text: str, code: str) -> None:
    assert explain(OPEN, RuntimeError(text)).code == code


def test_offline_mode_is_named(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "1")
    assert has_code("model_offline", variable="TRANSFORMERS_OFFLINE")(reason())
    assert hub.served == []


@pytest.mark.parametrize("address", ["hf-mirror.example", "ftp://127.0.0.1/", "http://"])
def test_an_endpoint_that_is_no_address_is_named(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", address)
    assert has_code("hub_address_invalid", value=repr(address))(reason())


# -- what the hub answers -----------------------------------------------------------------------


def test_an_expired_token_is_named_though_the_model_is_open(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    error = reason()
    assert isinstance(error, ModelGated)
    assert has_code("model_token_refused", place="HF_TOKEN")(error)
    assert "hf_expired" not in error.message


def test_an_expired_token_of_a_login_is_named_by_its_file(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("hf_expired")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    assert has_code("model_token_refused", place=str(tmp_path / "token"))(reason())


@pytest.mark.parametrize("token", ["hf_\u00e4bc", "\u200bhf_abc", "\u201chf_abc\u201d"])
def test_a_token_that_cannot_be_sent_is_named(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    error = reason()
    assert isinstance(error, ModelGated)
    assert "HF_TOKEN" in error.message
    assert "abc" not in error.message


def test_a_gated_model_stays_a_matter_of_its_licence(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert reason(CHECKPOINTS["svd-xt-1.1"].source).code == "model_licence_required"
    hub.status, hub.headers = 403, {"X-Error-Code": "GatedRepo"}
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert reason().code == "model_licence_required"


ANSWERS = [
    (401, {"X-Error-Code": "RepoNotFound"}, ModelGated, "model_not_public"),
    (403, {}, ModelGated, "model_forbidden"),
    (403, {"X-Error-Message": "Access to this resource is disabled."}, ModelBroken,
     "model_withdrawn"),
    (404, {"X-Error-Code": "RepoNotFound"}, ModelBroken, "model_not_found"),
    (404, {"X-Error-Code": "RevisionNotFound"}, ModelBroken, "model_not_found"),
    (429, {}, ModelUnreachable, "hub_rate_limited"),
    (429, {"Retry-After": "300"}, ModelUnreachable, "hub_rate_limited"),
    (500, {}, ModelUnreachable, "hub_failing"),
    (502, {}, ModelUnreachable, "hub_failing"),
    (200, {}, ModelUnreachable, "hub_not_a_hub"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "headers", "kind", "code"), ANSWERS)
def test_answers_of_the_hub(
    hub: FakeHub, status: int, headers: dict[str, str], kind: type[SvdError], code: str
) -> None:
    hub.status, hub.headers = status, headers
    values = {"status": status} if code == "hub_failing" else {"model": TINY.source}
    with pytest.raises(kind, check=has_code(code, **values)):
        fetch(TINY, half=True, on_bytes=lambda had, total: None)


@pytest.mark.parametrize("name", ["some--one/x", "someone/x..y", f"someone/{'x' * 100}"])
def test_a_name_that_no_model_can_have(hub: FakeHub, name: str) -> None:
    assert has_code("model_not_found", model=name)(reason(name))


# -- the way to it ------------------------------------------------------------------------------


def test_an_unknown_certificate_is_named(
    tiny_checkpoint: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A company's proxy that reads along signs with its own authority."""
    files = certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.chain, files.key)
    with FakeHub(tiny_checkpoint, context) as secure:
        monkeypatch.setattr(constants, "ENDPOINT", secure.url)
        error = reason()
    assert has_code("certificate_untrusted", address=secure.url)(error)


def test_a_missing_file_of_certificates_is_named(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    monkeypatch.setattr(constants, "ENDPOINT", "https://127.0.0.1:9")
    assert has_code("certificate_file_unreadable", path="/nowhere/ca.pem")(reason())


@pytest.mark.parametrize("content", [b"", b"no certificate", None], ids=["empty", "text", "folder"])
def test_a_file_without_certificates_is_named(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "ca.pem"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    monkeypatch.setattr(constants, "ENDPOINT", "https://127.0.0.1:9")
    assert f"The file {path} in SSL_CERT_FILE cannot be read" in reason().message


class Refusing(BaseHTTPRequestHandler):
    """A proxy that lets no one through."""

    def do_CONNECT(self) -> None:
        self.send_error(int(self.server.status))  # type: ignore[attr-defined]

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def proxy() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("status", [403, 407, 502])
def test_a_proxy_that_refuses_is_named(
    hub: FakeHub, proxy: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    proxy.status = status  # type: ignore[attr-defined]
    port = proxy.server_port
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:p@secret@127.0.0.1:{port}")
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.example")
    error = reason()
    assert has_code("proxy_refused", proxy=f"http://127.0.0.1:{port}")(error)
    assert str(status) in error.message
    assert "secret" not in error.message


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_a_proxy_that_is_down_is_named(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.example")
    assert has_code("proxy_unreachable", proxy="http://127.0.0.1:9")(reason())


def test_no_proxy_is_blamed_where_none_is_used(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    hub.stop()
    assert reason().code == "hub_unreachable"


def test_a_socks_proxy_without_its_package_is_named(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.example")
    assert has_code("proxy_needs_socksio", proxy="socks5://127.0.0.1:1080")(reason())


@pytest.mark.parametrize("proxy", ["socks4://127.0.0.1:1080", "ftp://127.0.0.1:21"])
def test_a_kind_of_proxy_that_is_not_known_is_named(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.example")
    assert has_code("proxy_unsupported", proxy=proxy)(reason())


def test_a_cache_that_is_whole_needs_none_of_it(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fetch(TINY, half=True, on_bytes=lambda had, total: None)
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    assert fetch(TINY, half=True, on_bytes=lambda had, total: None) == before
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    monkeypatch.setattr(constants, "ENDPOINT", "https://127.0.0.1:9")
    close_session()
    assert fetch(TINY, half=True, on_bytes=lambda had, total: None) == before
