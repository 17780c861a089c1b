"""Signed tokens that permit one action for a limited time, without an API key."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from typing import Any


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
