"""What the page asked a job for besides its settings, kept with the job."""

import json
from collections.abc import Mapping
from typing import Any

from svd_core.jobs import Job


def note(**values: object) -> str:
    """A memo, for `memo` to read: what a job was asked for besides its settings."""
    return json.dumps(values)


def memo(job: Job) -> Mapping[str, Any]:
    try:
        found = json.loads(job.options.memo or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def is_draft(job: Job) -> bool:
    return "sheet" in memo(job)
