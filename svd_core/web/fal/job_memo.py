"""Job metadata of the API, stored as JSON in the memo of the job."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from svd_core.jobs import JobOptions
from svd_core.web.fal.responses import Detail


@dataclass(frozen=True, kw_only=True)
class JobMetadata:
    """`base`: of the addresses as the submitter called them. `image_url`: beginning of what was
    sent. `details`: entries of the 422 by which the job was rejected."""

    base: str
    image_url: str = ""
    details: Sequence[Detail] = ()

    @classmethod
    def from_options(cls, options: JobOptions) -> "JobMetadata | None":
        """None for a job that did not come by the API."""
        return cls(**json.loads(options.memo)) if options.memo else None

    def to_options(self, options: JobOptions) -> JobOptions:
        return replace(options, memo=json.dumps(asdict(self)))
