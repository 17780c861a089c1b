"""What the page says: events, videos and the state of the engine, in words a visitor reads.

Functions that return HTML escape what they are given.
"""

from html import escape

from svd_core.engine import EngineStatus
from svd_core.events import Event, Failed, Progress, Stage, Stopped, Video
from svd_core.models import DEMO

TITLE = "Stable Video Diffusion"
TAGLINE = "Turn a photo into a short video."
HINT = "Choose a photo, say how much should move, and press Generate."

STAGES = {
    Stage.FETCHING: "Fetching the photo",
    Stage.LOADING: "Loading the model",
    Stage.ENCODING: "Looking at the photo",
    Stage.DENOISING: "Imagining the motion",
    Stage.DECODING: "Drawing the frames",
    Stage.WRITING: "Writing the video",
}

STATES = {"loading": " · loading", "ready": "", "failed": " · cannot be loaded"}


def progress_text(progress: Progress) -> str:
    """One line: stage, step of total, time left. E.g. `Imagining the motion · step 3 of 25`."""
    if progress.stage is Stage.QUEUED:
        return _queued(progress.step)
    parts = [STAGES[progress.stage]]
    if progress.total:
        parts.append(_counted(progress))
    if progress.remaining_s is not None and progress.remaining_s >= 0.5:
        parts.append(f"about {duration(progress.remaining_s)} left")
    return " · ".join(parts)


def event_html(event: Event) -> str:
    """The line above the video, for a screen reader too. Small: it is sent at every step."""
    if isinstance(event, Progress):
        note = f'<p class="svd-note">{escape(event.note)}</p>' if event.note else ""
        return f'<p role="status">{escape(progress_text(event))}</p>{_bar(event)}{note}'
    if isinstance(event, Failed):
        return error_html(str(event.error))
    if isinstance(event, Stopped):
        return '<p role="status">Stopped, as you asked.</p>'
    return f'<p role="status">Done in {duration(event.video.elapsed_s)}.</p>'


def error_html(sentence: str) -> str:
    return f'<p role="alert" class="svd-error">{escape(sentence)}</p>'


def example_html(name: str) -> str:
    return f'<p role="status">An example: {escape(name)}.</p>'


def summary(video: Video) -> str:
    """One line about a finished video, and its notes as further sentences."""
    line = (
        f"{video.num_frames} frames, {video.width} × {video.height} pixels, {video.fps} fps, "
        f"{video.duration_s:.1f} s long; made by {video.model} in {duration(video.elapsed_s)}."
    )
    return " ".join((line, *video.notes))


def summary_html(video: Video) -> str:
    return f"<p>{escape(summary(video))}</p>"


def device_html(status: EngineStatus) -> str:
    """Which model runs where, what it is, and under which licence."""
    model = status.checkpoint
    where = f" on {escape(status.device)}" if status.device else ""
    state = STATES[status.state]
    if model.name == DEMO:
        about = "A small demonstration model; the real ones need a GPU."
    else:
        about = f"{escape(model.summary)}. Licence: {_link(model.licence, model.licence_url)}."
    return (
        f'<p class="svd-model svd-{status.state}"><b>{escape(model.name)}</b>{where}{state}</p>'
        f'<p class="svd-about">{about}</p>'
    )


def notice_html(status: EngineStatus) -> str:
    return f'<p role="status">{escape(status.notice)}</p>' if status.notice else ""


def duration(seconds: float) -> str:
    """E.g. `0.4 s`, `12 s`, `2 min 5 s`, `1 h 3 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _queued(ahead: int) -> str:
    if ahead == 0:
        return "Starting"
    return f"Waiting · {ahead} video{'s' if ahead > 1 else ''} before yours"


def _counted(progress: Progress) -> str:
    if progress.stage is Stage.LOADING:
        unit, size = ("GB", 1e9) if progress.total >= 1e9 else ("MB", 1e6)
        return f"{progress.step / size:.1f} of {progress.total / size:.1f} {unit}"
    unit = "frame" if progress.stage is Stage.DECODING else "step"
    return f"{unit} {progress.step} of {progress.total}"


def _bar(progress: Progress) -> str:
    """A bar that fills up, or wanders where nothing says how far the work is."""
    value = "" if progress.share is None else f' value="{progress.share:.3f}"'
    return f'<progress aria-label="Progress"{value}></progress>'


def _link(name: str, url: str) -> str:
    if not url.startswith("https://"):
        return escape(name)
    return f'<a href="{escape(url)}" target="_blank" rel="noopener">{escape(name)}</a>'
