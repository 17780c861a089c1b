"""Formatting of events, videos and the engine's state as text and HTML.

Invariant: functions that return HTML escape their arguments.
"""

from html import escape

from svd_core.checkpoints.table import DEMO_MODEL
from svd_core.engine.engine import EngineStatus
from svd_core.errors import SvdError
from svd_core.events import Event, Failed, Progress, Stage, Stopped, Succeeded, Video
from svd_core.web.page.i18n import Texts

LEVELS = ("still", "gentle", "lively", "unstable")


def progress_text(progress: Progress, t: Texts) -> str:
    """Progress in one line.

    E.g. `Imagining the motion · step 3 of 25 · 12 s so far · about 42 s left`.
    """
    return " · ".join(filter(None, (stage_text(progress, t), time_text(progress, t))))


def stage_text(progress: Progress, t: Texts) -> str:
    """Stage of the work, and how much of it is done."""
    stage, step, total = progress.stage, progress.step, progress.total
    if stage is Stage.QUEUED:
        if step == 0:
            return t("starting")
        return t("waiting_one") if step == 1 else t("waiting_many", ahead=step)
    name = t(f"stage_{stage}")
    if total <= (stage is Stage.DENOISING):  # the count of a single step says nothing
        return name
    if stage is Stage.LOADING:
        unit, size = ("GB", 1e9) if total >= 1e9 else ("MB", 1e6)
        done = t("size_of", step=t.number(step / size), total=t.number(total / size), unit=unit)
    else:
        done = t("frame_of" if stage is Stage.DECODING else "step_of", step=step, total=total)
    return f"{name} · {done}"


def time_text(progress: Progress, t: Texts) -> str:
    """Elapsed and remaining time, if known; empty while a job waits."""
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
    match event:
        case Progress():
            note = f'<p class="svd-note">{escape(t.message(event.note))}</p>' if event.note else ""
            return progress_html(stage_text(event, t), event, t) + note
        case Failed(error):
            return refused_html(error, t)
        case Stopped() if last is not None and last.stage is Stage.DENOISING:
            return status_html(t("stopped_at", step=last.step, total=last.total))
        case Stopped():
            return status_html(t("stopped"))
        case Succeeded(video):
            return status_html(t("done", elapsed=duration(video.elapsed_s, t)))


def progress_html(sentence: str, progress: Progress, t: Texts) -> str:
    """`sentence` with the time beside it and a bar below, indeterminate if the share is unknown.

    static/clock.js keeps counting the time.
    """
    clock, share, remaining_s = "", progress.share, progress.remaining_s
    if progress.stage is not Stage.QUEUED:
        left = "" if remaining_s is None else f"{remaining_s:.1f}"
        data = f'data-elapsed="{progress.elapsed_s:.1f}" data-remaining="{left}"'
        clock = f'<p class="svd-clock" {data}>{escape(time_text(progress, t))}</p>'
    value = "" if share is None else f' value="{share:.3f}"'
    bar = f'<progress aria-label="{escape(t("progress"))}"{value}></progress>'
    return f'<div class="svd-progress">{status_html(sentence)}{clock}{bar}</div>'


def status_html(sentence: str) -> str:
    """Sentence that screen readers announce."""
    return f'<p role="status">{escape(sentence)}</p>'


def error_html(sentence: str) -> str:
    """Sentence that screen readers announce at once, in the colour of errors."""
    return f'<p role="alert" class="svd-error">{escape(sentence)}</p>'


def refused_html(error: SvdError, t: Texts) -> str:
    """The sentence of an error, in the visitor's language."""
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
    notes = [t.message(note) for note in video.notes]
    if video.peak_memory is not None:
        notes.insert(0, t("memory", size=t.number(video.peak_memory / 1e9)))
    return " ".join([line, *notes])


def summary_html(video: Video, t: Texts) -> str:
    """Summary of a finished video, and its motion meter: a scale with the measured level marked."""
    meter = ""
    if video.motion in LEVELS:
        marks = {video.motion: ' aria-current="true"'}
        scale = "".join(f"<li{marks.get(level, '')}>{t(f'level_{level}')}</li>" for level in LEVELS)
        meter = f'<div class="svd-meter"><span>{t("meter")}</span><ol>{scale}</ol></div>'
    return f'<div class="svd-summary"><p>{escape(summary(video, t))}</p>{meter}</div>'


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


def _link(name: str, url: str) -> str:
    if not url.startswith("https://"):
        return escape(name)
    return f'<a href="{escape(url)}" target="_blank" rel="noopener">{escape(name)}</a>'
