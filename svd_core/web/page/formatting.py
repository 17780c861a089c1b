"""Formatting of events, videos and the engine's state as text and HTML.

Invariant: functions that return HTML escape their arguments.
"""

from html import escape

from svd_core.checkpoints.table import DEMO_MODEL
from svd_core.engine.engine import EngineStatus
from svd_core.errors import SvdError
from svd_core.events import Event, Failed, Progress, Stage, Stopped, Video
from svd_core.web.page.i18n import Texts

LEVELS = ("still", "gentle", "lively", "unstable")


def progress_text(progress: Progress, t: Texts) -> str:
    """Progress in one line.

    E.g. `Imagining the motion · step 3 of 25 · 12 s so far · about 42 s left`.
    """
    return " · ".join(filter(None, (stage_text(progress, t), time_text(progress, t))))


def stage_text(progress: Progress, t: Texts) -> str:
    """Stage of the work, and how much of it is done."""
    if progress.stage is Stage.QUEUED:
        return _queued(progress.step, t)
    stage = t(f"stage_{progress.stage}")
    countable = progress.total > (progress.stage is Stage.DENOISING)  # a single step says nothing
    return f"{stage} · {_counted(progress, t)}" if countable else stage


def time_text(progress: Progress, t: Texts) -> str:
    """Elapsed and remaining time, as far as they are known; empty while a job waits."""
    if progress.stage is Stage.QUEUED:
        return ""
    parts = []
    if progress.elapsed_s >= 1:
        parts.append(t("elapsed", elapsed=duration(round(progress.elapsed_s), t, 0)))
    if progress.remaining_s is not None and progress.remaining_s >= 0.5:
        parts.append(t("left", left=duration(round(progress.remaining_s), t, 0)))
    return " · ".join(parts)


def event_html(event: Event, t: Texts, last: Progress | None = None) -> str:
    """The line below the video, kept small, since it is sent at every step.

    `last`: the last progress of a job that was stopped.
    """
    if isinstance(event, Progress):
        note = f'<p class="svd-note">{escape(t.message(event.note))}</p>' if event.note else ""
        return progress_html(stage_text(event, t), event, t) + note
    if isinstance(event, Failed):
        return refused_html(event.error, t)
    if isinstance(event, Stopped):
        if last is None or last.stage is not Stage.DENOISING:
            return status_html(t("stopped"))
        return status_html(t("stopped_at", step=last.step, total=last.total))
    return status_html(t("done", elapsed=duration(event.video.elapsed_s, t)))


def progress_html(sentence: str, progress: Progress, t: Texts) -> str:
    """`sentence` with the time beside it and a bar below, indeterminate if the share is unknown."""
    share = progress.share
    value = "" if share is None else f' value="{share:.3f}"'
    bar = f'<progress aria-label="{escape(t("progress"))}"{value}></progress>'
    line = f"{status_html(sentence)}{_clock_html(progress, t)}"
    return f'<div class="svd-progress">{line}{bar}</div>'


def _clock_html(progress: Progress, t: Texts) -> str:
    """Elapsed and remaining time, which static/clock.js keeps counting."""
    if progress.stage is Stage.QUEUED:
        return ""
    left = "" if progress.remaining_s is None else f"{progress.remaining_s:.1f}"
    return (
        f'<p class="svd-clock" data-elapsed="{progress.elapsed_s:.1f}" data-remaining="{left}">'
        f"{escape(time_text(progress, t))}</p>"
    )


def status_html(sentence: str) -> str:
    """Sentence that screen readers announce."""
    return f'<p role="status">{escape(sentence)}</p>'


def error_html(sentence: str) -> str:
    """Sentence that screen readers announce at once, in the colour of errors."""
    return f'<p role="alert" class="svd-error">{escape(sentence)}</p>'


def refused_html(error: SvdError, t: Texts) -> str:
    """The sentence of an error in the visitor's language."""
    return error_html(t.message(error.message))


def summary(video: Video, t: Texts) -> str:
    """Properties of a finished video in one line, with its notes as further sentences."""
    line = t(
        "summary",
        frames=video.num_frames,
        width=video.width,
        height=video.height,
        fps=video.fps,
        length=t.number(video.duration_s),
        model=video.model,
    )
    memory = []
    if video.peak_memory is not None:
        memory.append(t("memory", size=t.number(video.peak_memory / 1e9)))
    return " ".join((line, *memory, *map(t.message, video.notes)))


def summary_html(video: Video, t: Texts) -> str:
    """Summary and motion meter of a finished video."""
    text = f"<p>{escape(summary(video, t))}</p>"
    return f'<div class="svd-summary">{text}{motion_html(video, t)}</div>'


def motion_html(video: Video, t: Texts) -> str:
    """Motion meter: a scale of words with the measured level marked."""
    if video.motion not in LEVELS:
        return ""
    marks = {video.motion: ' aria-current="true"'}
    scale = "".join(f"<li{marks.get(level, '')}>{t(f'level_{level}')}</li>" for level in LEVELS)
    return f'<div class="svd-meter"><span>{t("meter")}</span><ol>{scale}</ol></div>'


def device_html(status: EngineStatus, t: Texts) -> str:
    """Checkpoint, device, state and licence."""
    model = status.checkpoint
    name = f"<b>{escape(model.name)}</b>"
    where = escape(t.message(status.device))
    what = t("model_where", model=name, device=where) if where else name
    key = "model_waiting" if status.waits_for_machine else f"model_{status.state}"
    state = "" if status.state == "ready" else f" · {t(key)}"
    if model.name == DEMO_MODEL:
        about = t("model_demo")
    else:
        licence = t("model_licence", licence=_link(model.licence, model.licence_url))
        about = f"{escape(t.message(model.summary))}. {licence}"
    return (
        f'<p class="svd-model svd-{status.state}">{what}{state}</p><p class="svd-about">{about}</p>'
    )


def notice_html(status: EngineStatus, t: Texts) -> str:
    """The engine's notice for the banner; empty without one."""
    return status_html(t.message(status.notice)) if status.notice else ""


def duration(seconds: float, t: Texts, digits: int = 1) -> str:
    """Duration as text: `0.4 s`, `12 s`, `2 min 5 s`, `1 h 3 min`.

    `digits`: decimals below ten seconds.
    """
    if seconds < 9.95:
        return t("seconds", seconds=t.number(seconds, digits))
    whole = round(seconds)
    if whole < 60:
        return t("seconds", seconds=whole)
    if whole < 3600:
        return t("minutes", minutes=whole // 60, seconds=whole % 60)
    return t("hours", hours=whole // 3600, minutes=whole % 3600 // 60)


def size_text(count: int, t: Texts) -> str:
    """Size of a file as text: `38 kB`, `1.2 MB`."""
    return f"{count / 1e3:.0f} kB" if count < 1e6 else f"{t.number(count / 1e6)} MB"


def _queued(ahead: int, t: Texts) -> str:
    if ahead == 0:
        return t("starting")
    return t("waiting_one") if ahead == 1 else t("waiting_many", ahead=ahead)


def _counted(progress: Progress, t: Texts) -> str:
    if progress.stage is Stage.LOADING:
        unit, size = ("GB", 1e9) if progress.total >= 1e9 else ("MB", 1e6)
        step, total = (t.number(count / size) for count in (progress.step, progress.total))
        return t("size_of", step=step, total=total, unit=unit)
    key = "frame_of" if progress.stage is Stage.DECODING else "step_of"
    return t(key, step=progress.step, total=progress.total)


def _link(name: str, url: str) -> str:
    if not url.startswith("https://"):
        return escape(name)
    return f'<a href="{escape(url)}" target="_blank" rel="noopener">{escape(name)}</a>'
