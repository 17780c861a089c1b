"""A receiver of webhooks on this machine, which checks signatures as strangers would."""

import base64
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


@dataclass(frozen=True)
class Hook:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def told(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found

    def check(self, key_set: dict[str, Any]) -> None:
        """As a receiver does it that knows nothing but the published keys."""
        own = {name.lower(): value for name, value in self.headers.items()}
        assert abs(int(own["x-fal-webhook-timestamp"]) - time.time()) < 300
        names = ("request-id", "user-id", "timestamp")
        parts = [own[f"x-fal-webhook-{name}"] for name in names]
        message = "\n".join([*parts, hashlib.sha256(self.body).hexdigest()]).encode()
        signature = bytes.fromhex(own["x-fal-webhook-signature"])
        (key,) = key_set["keys"]
        assert (key["kty"], key["crv"]) == ("OKP", "Ed25519")
        raw = base64.urlsafe_b64decode(key["x"] + "=")
        Ed25519PublicKey.from_public_bytes(raw).verify(signature, message)


@dataclass
class Receiver:
    """`answer` gives the status for the hook of that number, counted from 0."""

    url: str = ""
    hooks: list[Hook] = field(default_factory=list)
    answer: Callable[[int], int] = lambda _: 200

    def wait_for(self, count: int) -> list[Hook]:
        for _ in range(400):
            if len(self.hooks) >= count:
                return self.hooks
            time.sleep(0.02)
        raise AssertionError(f"{len(self.hooks)} hooks")


@contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = receiver.answer(len(receiver.hooks))
            receiver.hooks.append(Hook(self.path, dict(self.headers), body))
            self.send_response(status)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.url = f"http://127.0.0.1:{server.server_port}/hook?secret=1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
