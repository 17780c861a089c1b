"""Signed tokens that permit one action for a limited time, without an API key.

Secrets of this server: generated once, kept in the data folder.
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

from svd_core.errors import InvalidSettings

BYTES = 32


def load_secret(path: Path) -> bytes:
    """The 32 bytes in `path` (hexadecimal, readable by its owner only), drawn if there are none.

    Of several servers that start at once on one folder, the first one's are everybody's. Raises
    `InvalidSettings` for a file that holds something else, or cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _generate(path)
        secret = bytes.fromhex(path.read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise InvalidSettings(f"The secret in {path} cannot be read or made: {error}") from error
    if len(secret) != BYTES:
        raise InvalidSettings(f"{path} is damaged; remove it, and a new secret will be drawn.")
    return secret


def _generate(path: Path) -> None:
    """Written whole under another name first, so that nobody ever reads half of it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(BYTES))
        file.flush()
        os.fsync(file.fileno())
    try:
        with suppress(FileExistsError):
            os.link(draft, path)  # unlike a rename it does not replace what another one has made
    finally:
        draft.unlink()


class SignedTokens:
    """`secret`: bytes that only this server knows. `clock`: seconds since 1970."""

    def __init__(self, secret: bytes, clock: Callable[[], float] = time.time) -> None:
        self._secret = secret
        self._clock = clock

    def issue(self, purpose: str, lasting_s: float, claims: Mapping[str, Any]) -> str:
        """A token of URL-safe characters."""
        content = {**claims, "for": purpose, "exp": self._clock() + lasting_s}
        text = _encoded(json.dumps(content, separators=(",", ":")).encode())
        return f"{text}.{self._signature(text)}"

    def read(self, purpose: str, token: str) -> dict[str, Any] | None:
        """The claims of a token; None if it is not ours, of another purpose, or too old."""
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
        """32 hexadecimal digits that only this server can tell of `text`, today and later."""
        return hmac.new(self._secret, b"mark:" + text.encode(), hashlib.sha256).hexdigest()[:32]

    def _signature(self, text: str) -> str:
        message = text.encode("utf-8", "surrogatepass")
        return _encoded(hmac.new(self._secret, message, hashlib.sha256).digest())


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
