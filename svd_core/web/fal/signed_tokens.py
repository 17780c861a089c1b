"""Signed tokens and URLs (HMAC), and the secrets of this server that sign them.

A token permits one action for a limited time, without an API key.
"""

import base64
import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from starlette.requests import Request

from svd_core.errors import InvalidSettings
from svd_core.web.public_address import PublicAddress
from svd_core.web.snippets import MOUNT

SECRET_BYTES = 32


class SignedTokens:
    """Signer of tokens. `secret`: known to this server only. `clock`: seconds since 1970."""

    def __init__(self, secret: bytes, clock: Callable[[], float] = time.time) -> None:
        self._secret = secret
        self._clock = clock

    def issue(self, purpose: str, lasting_s: float, claims: Mapping[str, Any]) -> str:
        """Make a token of URL-safe characters."""
        content = {**claims, "for": purpose, "exp": self._clock() + lasting_s}
        text = _encoded(json.dumps(content, separators=(",", ":")).encode())
        return f"{text}.{self._signature(text)}"

    def read(self, purpose: str, token: str) -> dict[str, Any] | None:
        """The claims of a token; None if its signature, its purpose or its age is wrong."""
        text, _, signature = token.partition(".")
        if not hmac.compare_digest(
            self._signature(text).encode(), signature.encode("utf-8", "surrogatepass")
        ):
            return None
        content: dict[str, Any] = json.loads(_decoded(text))
        if content.pop("for") != purpose or content.pop("exp") < self._clock():
            return None
        return content

    def sign_short(self, text: str) -> str:
        """Signature of `text` that never expires: 32 hexadecimal digits."""
        return hmac.new(self._secret, b"mark:" + text.encode(), hashlib.sha256).hexdigest()[:32]

    def _signature(self, text: str) -> str:
        message = text.encode("utf-8", "surrogatepass")
        return _encoded(hmac.new(self._secret, message, hashlib.sha256).digest())


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class UrlBuilder:
    """Builder of URLs. `public_url`: of this server; empty: as each request says."""

    def __init__(self, public_url: str, tokens: SignedTokens) -> None:
        self._address = PublicAddress(public_url)
        self._tokens = tokens

    def base(self, request: Request) -> str:
        """Beginning of all URLs of the API, without a slash at its end."""
        return f"{self._address.resolve(request.scope)}{MOUNT}"

    def video(self, base: str, job_id: str) -> str:
        """Signed URL of a finished video, which everyone who has it can open."""
        return f"{base}/cdn/videos/{self._tokens.sign_short(f'video:{job_id}')}/{job_id}.mp4"

    def is_video(self, signature: str, job_id: str) -> bool:
        """Whether the signature in the URL of a video is right."""
        expected = self._tokens.sign_short(f"video:{job_id}")
        return hmac.compare_digest(signature.encode("utf-8", "surrogatepass"), expected.encode())


def load_secret(path: Path) -> bytes:
    """Load the 32 bytes in `path` (hexadecimal, readable by its owner only), or generate them.

    Servers that start at once on one folder all get the same secret. Raises `InvalidSettings` if
    the file is damaged or cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _generate(path)
        secret = bytes.fromhex(path.read_text(encoding="ascii"))
    except ValueError:
        raise InvalidSettings("secret_damaged", path=str(path)) from None
    except OSError as error:
        raise InvalidSettings("secret_unavailable", path=str(path), reason=str(error)) from error
    if len(secret) != SECRET_BYTES:
        raise InvalidSettings("secret_damaged", path=str(path))
    return secret


def _generate(path: Path) -> None:
    """Write a new secret under a temporary name first, so that no reader sees half of it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(SECRET_BYTES))
        file.flush()
        os.fsync(file.fileno())
    try:
        with suppress(FileExistsError):
            os.link(draft, path)  # unlike a rename it never replaces the file of another server
    finally:
        draft.unlink()
