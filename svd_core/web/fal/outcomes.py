"""What became of a job, as the answer that its result call, its sync call and its webhook give."""

from svd_core.errors import Cancelled
from svd_core.events import Failed, Progress, Stopped, Succeeded, Video
from svd_core.jobs import Job
from svd_core.web.fal.job_memo import Memo
from svd_core.web.fal.responses import NOT_FOUND, Answer, input_error, of
from svd_core.web.fal.urls import Links

UNFINISHED = Answer(400, {"detail": "Request is still in progress"})
CANCELLED = Cancelled("The request was cancelled.")


def ending_of(job: Job, links: Links, base: str) -> Answer:
    """`base`: of the addresses in it."""
    match job.last:
        case Progress():
            return UNFINISHED
        case Succeeded(video):
            return _finished(job, video, links, base)
        case Failed(error):
            memo = Memo.of(job.options)
            return input_error(memo.details) if memo and memo.details else of(error)
        case Stopped():
            return of(CANCELLED)


def _finished(job: Job, video: Video, links: Links, base: str) -> Answer:
    try:
        size = video.path.stat().st_size
    except OSError:  # its time was over
        return NOT_FOUND
    file = {
        "url": links.video(base, job.id),
        "content_type": "video/mp4",
        "file_name": f"{job.id}.mp4",
        "file_size": size,
    }
    return Answer(200, {"video": file, "seed": video.seed})
