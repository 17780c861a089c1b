"""Session ids: unguessable, signed by the server, kept in the browser.

Only numbers that this server drew count, so that nobody makes up visitors. Jobs carry a hash of
theirs, so that the table tells nobody how to be that visitor.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable

from svd_core.web.page.components import BrowserState

SIGNED = re.compile(r"[0-9a-f]{64}")
"""128 random bits, and as many of their signature."""

UNSIGNED = re.compile(r"[0-9a-f]{32}")
"""What earlier versions drew."""

PREFIX = "page:"
"""No key of the API can be called so: their ids have no colon."""


def session_state() -> BrowserState:
    return BrowserState(None, storage_key="svd-visitor", secret="svd-visitor")  # noqa: S106


class SessionIds:
    """`secret`: what numbers are signed with; drawn if left out, and then no number outlives it.
    `has_jobs`: whether an owner has jobs; an unsigned number of an earlier version counts if so.
    """

    def __init__(
        self, secret: bytes | None = None, has_jobs: Callable[[str], bool] = lambda _: False
    ) -> None:
        self._secret = secret or secrets.token_bytes(32)
        self._has_jobs = has_jobs

    def ensure_id(self, session: object) -> str:
        """What a browser sent, if it is a number from here, else a new one."""
        if self._is_valid(session):
            return str(session)
        number = secrets.token_hex(16)
        return number + self._signature(number)

    def owner(self, session: object) -> str:
        """Owner of this visitor's jobs; empty (nobody) for what is no visitor's number."""
        return _owner(session) if self._is_valid(session) else ""

    def _is_valid(self, session: object) -> bool:
        if not isinstance(session, str):
            return False
        if UNSIGNED.fullmatch(session):
            return self._has_jobs(_owner(session))
        if not SIGNED.fullmatch(session):
            return False
        return hmac.compare_digest(session[32:], self._signature(session[:32]))

    def _signature(self, number: str) -> str:
        message = f"visitor:{number}".encode()
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest()[:32]


def _owner(session: object) -> str:
    return PREFIX + hashlib.sha256(str(session).encode()).hexdigest()[:32]
