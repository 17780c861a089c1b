"""Outcome of a job as a response: for the result call, the sync call and the webhook."""

from svd_core.errors import Cancelled
from svd_core.events import Failed, Progress, Stopped, Succeeded, Video
from svd_core.jobs import Job
from svd_core.web.fal.job_memo import JobMetadata
from svd_core.web.fal.responses import NOT_FOUND, ApiResponse, error_response, input_error
from svd_core.web.fal.urls import UrlBuilder

UNFINISHED = ApiResponse(400, {"detail": "Request is still in progress"})
CANCELLED = Cancelled("The request was cancelled.")


def outcome_response(job: Job, urls: UrlBuilder, base: str) -> ApiResponse:
    """`base`: of the addresses in it."""
    match job.last:
        case Progress():
            return UNFINISHED
        case Succeeded(video):
            return _video_response(job, video, urls, base)
        case Failed(error):
            metadata = JobMetadata.from_options(job.options)
            return (
                input_error(metadata.details)
                if metadata and metadata.details
                else error_response(error)
            )
        case Stopped():
            return error_response(CANCELLED)


def _video_response(job: Job, video: Video, urls: UrlBuilder, base: str) -> ApiResponse:
    try:
        size = video.path.stat().st_size
    except OSError:  # its time was over
        return NOT_FOUND
    file = {
        "url": urls.video(base, job.id),
        "content_type": "video/mp4",
        "file_name": f"{job.id}.mp4",
        "file_size": size,
    }
    return ApiResponse(200, {"video": file, "seed": video.seed})
