"""A model hub on loopback that speaks as much of the hub's language as its client needs."""

import hashlib
import json
import re
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import SHUT_RDWR, socket
from ssl import SSLContext
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.fakes.hub_spaces import FakeSpaces

OPEN = "someone/tiny-svd"
SVD_XT = "stabilityai/stable-video-diffusion-img2vid-xt"
GATED = "stabilityai/stable-video-diffusion-img2vid-xt-1-1"
TOKEN = "hf_of_somebody_who_accepted"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
EXTRA = {".gitattributes": b"*", "README.md": b"# card", "svd_xt.safetensors": b"all in one"}
"""Files of published repositories that no pipeline needs."""


class FakeHub:
    """Serves `folder` as OPEN and SVD_XT, and as GATED to those who send TOKEN.

    `served`: (method, file, Range header) of every request for a file. `break_off`: how often the
    connection is cut in the middle of a file, by file name. `status`: answer everything with it,
    and with `headers`. Like the hub it refuses tokens that it does not know, for open models too.
    `context`: of TLS.
    """

    def __init__(self, folder: Path, context: SSLContext | None = None) -> None:
        files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
        self.files: dict[str, bytes] = {name: path.read_bytes() for name, path in files.items()}
        self.files |= EXTRA
        self.served: list[tuple[str, str, str | None]] = []
        self.break_off: dict[str, int] = {}
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.spaces = FakeSpaces({"ann": TOKEN, "bob": "hf_of_bob"})
        self.connections: list[socket] = []
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        scheme = "http" if context is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "FakeHub":
        Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Close the port; connections are refused from now on."""
        self._server.shutdown()
        self._server.server_close()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(SHUT_RDWR)

    def downloaded(self) -> list[str]:
        """Files sent, whole or in part."""
        return [file for method, file, _ in self.served if method == "GET"]


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.hub.connections.append(self.connection)

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer_space()

    def do_PUT(self) -> None:
        self._answer_space()

    def _answer_space(self) -> None:
        """A request about a Space."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        path = unquote(urlsplit(self.path).path)
        body = self._read_body()
        status, content = self.hub.spaces.answer(self.command, path, token, body, self.hub.url)
        self._send_json(content, status)

    def _read_body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        info = re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/(.+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        found = info or file
        repo = found[1] if found else None
        token = self.headers.get("Authorization")
        if path.startswith("/api/spaces/"):
            self._answer_space()
        elif self.hub.status is not None:
            self._send(self.hub.status, self.hub.headers)
        elif token not in (None, f"Bearer {TOKEN}"):
            self._send(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif repo == GATED and token is None:
            self._send(403, {"X-Error-Code": "GatedRepo"})
        elif repo not in (OPEN, SVD_XT, GATED):
            self._send(404, {"X-Error-Code": "RepoNotFound"})
        elif info and info[3] not in (None, "main", COMMIT):
            self._send(404, {"X-Error-Code": "RevisionNotFound"})
        elif info:
            self._send_json(self._info(info[1]))
        else:
            assert file is not None
            self._send_file(file[3])

    def _info(self, repo: str) -> dict[str, Any]:
        listed = [{"rfilename": name, "size": len(d)} for name, d in self.hub.files.items()]
        return {"id": repo, "modelId": repo, "sha": COMMIT, "siblings": listed, "tags": []}

    def _send_file(self, name: str) -> None:
        wanted = self.headers.get("Range")
        self.hub.served.append((self.command, name, wanted))
        data = self.hub.files.get(name)
        if data is None:
            return self._send(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted else 0  # type: ignore[index]
        headers = {
            "ETag": f'"{hashlib.sha1(data, usedforsecurity=False).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
        }
        if wanted:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if self.command == "GET" and self.hub.break_off.get(name, 0):
            self.hub.break_off[name] -= 1
            middle = start + (len(data) - start) // 2
            self._send(206 if wanted else 200, headers, data[start:], sent=middle - start)
            self.close_connection = True
            return None
        return self._send(206 if wanted else 200, headers, data[start:])

    def _send_json(self, content: object, status: int = 200) -> None:
        self._send(status, {"Content-Type": "application/json"}, json.dumps(content).encode())

    def _send(
        self,
        status: int,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        sent: int | None = None,
    ) -> None:
        """`sent`: how many bytes of `body` really leave, though all are announced."""
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:sent])

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""
