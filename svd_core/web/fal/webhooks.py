"""Webhook delivery: posts the outcome of a job to a URL, signed with Ed25519.

Receivers verify the signature with the published key set (JWKS).
"""

import base64
import hashlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from svd_core.errors import InvalidUrl, Unreachable
from svd_core.jobs import Job, Undeliverable
from svd_core.web.fal.job_status import outcome_response
from svd_core.web.fal.responses import ApiResponse, as_json
from svd_core.web.fal.signed_tokens import UrlBuilder
from svd_core.web.job_metadata import read_memo
from svd_core.web.safe_http import Fetcher

ANONYMOUS = "local-user"
"""User of jobs that were submitted without a key."""


class Signer:
    """Ed25519 signatures. `seed`: the private key, 32 bytes. `clock`: seconds since 1970."""

    def __init__(self, seed: bytes, clock: Callable[[], float] = time.time) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self._clock = clock

    def headers(self, request_id: str, user_id: str, body: bytes) -> Mapping[str, str]:
        """Headers that sign `body` now: receivers reject signatures that are minutes old."""
        timestamp = str(int(self._clock()))
        digest = hashlib.sha256(body).hexdigest()
        message = "\n".join((request_id, user_id, timestamp, digest)).encode()
        return {
            "X-Fal-Webhook-Request-Id": request_id,
            "X-Fal-Webhook-User-Id": user_id,
            "X-Fal-Webhook-Timestamp": timestamp,
            "X-Fal-Webhook-Signature": self._key.sign(message).hex(),
        }

    def key_set(self) -> dict[str, list[dict[str, str]]]:
        """The public key as a JSON Web Key Set (RFC 8037)."""
        raw = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        x = base64.urlsafe_b64encode(raw).decode().rstrip("=")
        kid = hashlib.sha256(raw).hexdigest()[:16]
        return {"keys": [{"kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": kid, "x": x}]}


def send_webhook(job: Job, url: str, urls: UrlBuilder, signer: Signer, fetcher: Fetcher) -> None:
    """Post the outcome of `job` to `url`.

    Raises `Undeliverable` if a retry would be useless, and any other error otherwise.
    """
    base = read_memo(job).get("base", "")
    body = as_json(payload(job.id, outcome_response(job, urls, base)))
    headers = {"Content-Type": "application/json"}
    headers |= signer.headers(job.id, job.options.owner or ANONYMOUS, body)
    try:
        status = fetcher.post(url, body, headers)
    except Unreachable:
        raise
    except InvalidUrl as error:
        raise Undeliverable(error.message) from None
    if 300 <= status < 400:
        raise Undeliverable(f"The receiver responded with {status}, a redirect.")
    if not 200 <= status < 300:
        raise ConnectionError(f"The receiver responded with {status}.")


def payload(job_id: str, response: ApiResponse) -> dict[str, Any]:
    """The body of a webhook, as fal's clients read it."""
    values: dict[str, Any] = {"request_id": job_id, "gateway_request_id": job_id}
    if response.status < 400:
        return values | {"status": "OK", "payload": response.body}
    error = f"Invalid status code: {response.status}"
    return values | {"status": "ERROR", "error": error, "payload": response.body}
