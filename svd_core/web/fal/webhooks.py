"""Tells a caller's address how a job ended, signed."""

from typing import Any

from svd_core.errors import InvalidUrl, Unreachable
from svd_core.jobs import Job, Undeliverable
from svd_core.web.fal.dependencies import Parts
from svd_core.web.fal.job_memo import Memo
from svd_core.web.fal.outcomes import ending_of
from svd_core.web.fal.responses import Answer, as_json

NOBODY = "local-user"
"""The user of jobs that came without a key."""


class Unanswered(Exception):  # noqa: N818 - named after what happened
    """The receiver did not take it this time."""


class Webhooks:
    """`send` is what a queue calls when a job with a webhook has ended."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def send(self, job: Job, url: str) -> None:
        """Raises `Undeliverable` where another try makes no sense, anything else where it does."""
        memo = Memo.of(job.options) or Memo(base="")
        body = as_json(payload(job.id, ending_of(job, self._parts.links, memo.base)))
        user = job.options.owner or NOBODY
        headers = {"Content-Type": "application/json"}
        headers |= self._parts.signer.headers(job.id, user, body)
        try:
            status = self._parts.fetcher.post(url, body, headers)
        except Unreachable as error:
            raise Unanswered(error.message) from None
        except InvalidUrl as error:
            raise Undeliverable(error.message) from None
        if 300 <= status < 400:
            raise Undeliverable(f"The receiver answered {status}; redirects are not followed.")
        if not 200 <= status < 300:
            raise Unanswered(f"The receiver answered {status}.")


def payload(job_id: str, answer: Answer) -> dict[str, Any]:
    told: dict[str, Any] = {"request_id": job_id, "gateway_request_id": job_id}
    if answer.status < 400:
        return told | {"status": "OK", "payload": answer.body}
    error = f"Invalid status code: {answer.status}"
    return told | {"status": "ERROR", "error": error, "payload": answer.body}
