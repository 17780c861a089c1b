"""Job metadata of page and API, stored as JSON in the memo of a job.

The queue never reads it. The table has jobs of earlier versions, so keys keep their meaning.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, Unpack

from svd_core.jobs import Job


class JobMetadata(TypedDict, total=False):
    """Keys of the JSON. Page and API each write only their own."""

    base: str
    """API: beginning of the URLs in its responses, as the submitter called the server."""

    image_url: str
    """API: beginning of the photo's address or data URI."""

    details: Sequence[Mapping[str, Any]]
    """API: entries of the 422 by which the job was rejected."""

    sheet: str
    """Page: id that the drafts of one seed grid share."""

    steps: int | None
    """Page: denoising steps that the visitor asked for; drafts take fewer."""

    continues: str
    """Page: id of the job whose video this one extends."""


def to_memo(**metadata: Unpack[JobMetadata]) -> str:
    """Encode the memo of a job."""
    return json.dumps(metadata)


def read_memo(job: Job) -> JobMetadata:
    """Decode the memo of a job; empty for a job without metadata."""
    try:
        metadata: JobMetadata = json.loads(job.options.memo or "{}")
    except ValueError:
        return {}
    return metadata if isinstance(metadata, dict) else {}


def is_draft(job: Job) -> bool:
    """Whether the job is a draft of a seed grid."""
    return "sheet" in read_memo(job)
