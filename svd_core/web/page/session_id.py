"""Session ids: random, signed with HMAC by the server, kept in the browser.

Invariant: only ids that this server issued are valid, so visitors cannot be forged. Jobs carry a
hash of their session id, so the job table is no help to take over a session.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable

from svd_core.web.page.components import BrowserState

SIGNED = re.compile(r"[0-9a-f]{64}")
"""128 random bits and 128 bits of their signature."""

UNSIGNED = re.compile(r"[0-9a-f]{32}")
"""Session id of an earlier version."""

PREFIX = "page:"
"""Prefix of owners that no API key can have, because ids of keys contain no colon."""


def session_state() -> BrowserState:
    """Session id in the browser's storage."""
    return BrowserState(None, storage_key="svd-visitor", secret="svd-visitor")  # noqa: S106


class SessionIds:
    """Issues and checks session ids.

    `secret`: the signing key. A random one is used if it is left out, and then session ids last
    only as long as this object. `has_jobs`: whether an owner has jobs, which makes an unsigned id
    of an earlier version valid.
    """

    def __init__(
        self, secret: bytes | None = None, has_jobs: Callable[[str], bool] = lambda _: False
    ) -> None:
        self._secret = secret or secrets.token_bytes(32)
        self._has_jobs = has_jobs

    def ensure_id(self, session: object) -> str:
        """The session id that a browser sent, if it is valid, else a new one."""
        if self._is_valid(session):
            return str(session)
        token = secrets.token_hex(16)
        return token + self._signature(token)

    def owner(self, session: object) -> str:
        """Owner of the jobs of a session id; empty for an invalid one."""
        return _owner(session) if self._is_valid(session) else ""

    def _is_valid(self, session: object) -> bool:
        if not isinstance(session, str):
            return False
        if UNSIGNED.fullmatch(session):
            return self._has_jobs(_owner(session))
        if not SIGNED.fullmatch(session):
            return False
        return hmac.compare_digest(session[32:], self._signature(session[:32]))

    def _signature(self, token: str) -> str:
        message = f"visitor:{token}".encode()
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest()[:32]


def _owner(session: object) -> str:
    return PREFIX + hashlib.sha256(str(session).encode()).hexdigest()[:32]
