"""Job memo of the page: what was asked for besides the settings, as JSON."""

import json
from collections.abc import Mapping
from typing import Any

from svd_core.jobs import Job


def to_memo(**values: object) -> str:
    """The memo of a job, for `read_memo`."""
    return json.dumps(values)


def read_memo(job: Job) -> Mapping[str, Any]:
    try:
        found = json.loads(job.options.memo or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def is_draft(job: Job) -> bool:
    return "sheet" in read_memo(job)
