"""Webhook delivery: posts the outcome of a job to an address, signed."""

from typing import Any

from svd_core.errors import InvalidUrl, Unreachable
from svd_core.jobs import Job, Undeliverable
from svd_core.web.fal.dependencies import ApiContext
from svd_core.web.fal.job_status import outcome_response
from svd_core.web.fal.responses import ApiResponse, as_json
from svd_core.web.job_metadata import read_memo

ANONYMOUS = "local-user"
"""The user of jobs that came without a key."""


class DeliveryFailed(Exception):  # noqa: N818 - named after what happened
    """The receiver did not take it this time."""


class Webhooks:
    """`send` is what a queue calls when a job with a webhook has ended."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context

    def send(self, job: Job, url: str) -> None:
        """Raises `Undeliverable` where another try makes no sense, anything else where it does."""
        base = read_memo(job).get("base", "")
        body = as_json(payload(job.id, outcome_response(job, self._context.urls, base)))
        user = job.options.owner or ANONYMOUS
        headers = {"Content-Type": "application/json"}
        headers |= self._context.signer.headers(job.id, user, body)
        try:
            status = self._context.fetcher.post(url, body, headers)
        except Unreachable as error:
            raise DeliveryFailed(error.message) from None
        except InvalidUrl as error:
            raise Undeliverable(error.message) from None
        if 300 <= status < 400:
            raise Undeliverable(f"The receiver answered {status}; redirects are not followed.")
        if not 200 <= status < 300:
            raise DeliveryFailed(f"The receiver answered {status}.")


def payload(job_id: str, response: ApiResponse) -> dict[str, Any]:
    told: dict[str, Any] = {"request_id": job_id, "gateway_request_id": job_id}
    if response.status < 400:
        return told | {"status": "OK", "payload": response.body}
    error = f"Invalid status code: {response.status}"
    return told | {"status": "ERROR", "error": error, "payload": response.body}
