"""API keys from the `Authorization` header, compared in constant time."""

import hashlib
import hmac
from collections.abc import Sequence
from contextlib import suppress

from svd_core.web.fal.responses import ApiError, request_error

CLOSED = (
    "This server has no API keys yet, so its API is closed: whoever runs it sets SVD_API_KEYS to "
    "id:secret (several with commas between) and starts it again."
)
ABSENT = "Authentication is required: send the header 'Authorization: Key id:secret'."
MALFORMED = "The Authorization header is not of the form 'Key id:secret'."
UNKNOWN = "There is no such key, or its secret is another one."


class ApiKeys:
    """`keys`: id:secret, comma separated. `open_here`: whether everybody may call while there are
    none, which is right only where nobody but this machine's own users gets through.

    Secrets are kept as digests, and no method or `repr` shows them.
    """

    def __init__(self, keys: str, *, open_here: bool) -> None:
        pairs = [pair.strip() for pair in keys.split(",") if pair.strip()]
        self._digests: Sequence[tuple[str, bytes]] = [
            (pair.partition(":")[0], digest) for pair in pairs for digest in _digests(pair)
        ]
        self.open = open_here and not pairs

    def owner(self, authorization: str | None) -> str:
        """The id of the caller's key; empty where everybody may call. Raises `ApiError`, 401."""
        if self.open:
            return ""
        if not self._digests:
            raise _refusal(CLOSED)
        if not authorization:
            raise _refusal(ABSENT)
        scheme, _, given = authorization.partition(" ")
        if scheme.lower() not in ("key", "bearer") or ":" not in given:
            raise _refusal(MALFORMED)
        owner = self._known(given.strip())
        if owner is None:
            raise _refusal(UNKNOWN)
        return owner

    def _known(self, given: str) -> str | None:
        """Looks at every key, whether or not one fits: the time taken tells nothing."""
        try:
            digest = _digest(given.encode("latin-1"))  # gives back the bytes that were sent
        except UnicodeEncodeError:
            return None
        owner = None
        for key_id, expected in self._digests:
            if hmac.compare_digest(digest, expected):
                owner = key_id
        return owner


def _digests(key: str) -> list[bytes]:
    """One for each way in which clients send letters beyond ASCII: UTF-8, and latin-1."""
    forms = {key.encode("utf-8", "surrogateescape")}
    with suppress(UnicodeEncodeError):
        forms.add(key.encode("latin-1"))
    return [_digest(form) for form in forms]


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _refusal(detail: str) -> ApiError:
    headers = {"WWW-Authenticate": 'Key realm="fal"'}
    return ApiError(request_error(401, detail, "unauthorized", headers))
