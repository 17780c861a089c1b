"""Events, videos and the state of the engine, in words a visitor reads.

Functions that return HTML escape what they are given.
"""

from html import escape

from svd_core.engine import EngineStatus
from svd_core.errors import SvdError
from svd_core.events import Event, Failed, Progress, Stage, Stopped, Video
from svd_core.models import DEMO
from svd_core.web.page.core_texts import core, core_part
from svd_core.web.page.texts import Texts

LEVELS = ("still", "gentle", "lively", "unstable")


def progress_text(progress: Progress, say: Texts) -> str:
    """One line, e.g. `Imagining the motion · step 3 of 25 · 12 s so far · about 42 s left`."""
    return " · ".join(filter(None, (stage_text(progress, say), time_text(progress, say))))


def stage_text(progress: Progress, say: Texts) -> str:
    """What is being done, and how much of it is done."""
    if progress.stage is Stage.QUEUED:
        return _queued(progress.step, say)
    stage = say(f"stage_{progress.stage}")
    return f"{stage} · {_counted(progress, say)}" if progress.total else stage


def time_text(progress: Progress, say: Texts) -> str:
    """Time so far and time left, as far as they are known; empty while a job waits."""
    if progress.stage is Stage.QUEUED:
        return ""
    parts = []
    if progress.elapsed_s >= 1:
        parts.append(say("elapsed", elapsed=duration(round(progress.elapsed_s), say, 0)))
    if progress.remaining_s is not None and progress.remaining_s >= 0.5:
        parts.append(say("left", left=duration(round(progress.remaining_s), say, 0)))
    return " · ".join(parts)


def event_html(event: Event, say: Texts, last: Progress | None = None) -> str:
    """The line below the video. Small, since it is sent at every step.

    `last`: how far a job had come that was stopped.
    """
    if isinstance(event, Progress):
        note = f'<p class="svd-note">{escape(core(event.note, say))}</p>' if event.note else ""
        return progress_html(stage_text(event, say), event, say) + note
    if isinstance(event, Failed):
        return refused_html(event.error, say)
    if isinstance(event, Stopped):
        if last is None or last.stage is not Stage.DENOISING:
            return status_html(say("stopped"))
        return status_html(say("stopped_at", step=last.step, total=last.total))
    return status_html(say("done", elapsed=duration(event.video.elapsed_s, say)))


def progress_html(sentence: str, progress: Progress, say: Texts) -> str:
    """`sentence` with the time beside it, and a bar below, which moves if nothing is known."""
    share = progress.share
    value = "" if share is None else f' value="{share:.3f}"'
    bar = f'<progress aria-label="{escape(say("progress"))}"{value}></progress>'
    line = f"{status_html(sentence)}{_clock_html(progress, say)}"
    return f'<div class="svd-progress">{line}{bar}</div>'


def _clock_html(progress: Progress, say: Texts) -> str:
    """Time so far and left, which static/clock.js counts on."""
    if progress.stage is Stage.QUEUED:
        return ""
    left = "" if progress.remaining_s is None else f"{progress.remaining_s:.1f}"
    return (
        f'<p class="svd-clock" data-elapsed="{progress.elapsed_s:.1f}" data-remaining="{left}">'
        f"{escape(time_text(progress, say))}</p>"
    )


def status_html(sentence: str) -> str:
    return f'<p role="status">{escape(sentence)}</p>'


def error_html(sentence: str) -> str:
    return f'<p role="alert" class="svd-error">{escape(sentence)}</p>'


def refused_html(error: SvdError, say: Texts) -> str:
    return error_html(core(error.message, say))


def summary(video: Video, say: Texts) -> str:
    """One line about a finished video, and its notes as further sentences."""
    line = say(
        "summary",
        frames=video.num_frames,
        width=video.width,
        height=video.height,
        fps=video.fps,
        length=say.number(video.duration_s),
        model=video.model,
    )
    more = []
    if video.peak_memory is not None:
        more.append(say("memory", size=say.number(video.peak_memory / 1e9)))
    return " ".join((line, *more, *(core(note, say) for note in video.notes)))


def summary_html(video: Video, say: Texts) -> str:
    text = f"<p>{escape(summary(video, say))}</p>"
    return f'<div class="svd-summary">{text}{meter_html(video, say)}</div>'


def meter_html(video: Video, say: Texts) -> str:
    """How much moves, measured: a scale of words, the one that holds marked."""
    if video.motion not in LEVELS:
        return ""
    marked = {video.motion: ' aria-current="true"'}
    scale = "".join(f"<li{marked.get(level, '')}>{say(f'level_{level}')}</li>" for level in LEVELS)
    return f'<div class="svd-meter"><span>{say("meter")}</span><ol>{scale}</ol></div>'


def device_html(status: EngineStatus, say: Texts) -> str:
    """Which model runs where, what it is, and under which licence."""
    model = status.checkpoint
    name = f"<b>{escape(model.name)}</b>"
    where = escape(core_part("device", status.device, say))
    what = say("model_where", model=name, device=where) if where else name
    state = "" if status.state == "ready" else f" · {say(f'model_{status.state}')}"
    if model.name == DEMO:
        about = say("model_demo")
    else:
        licence = say("model_licence", licence=_link(model.licence, model.licence_url))
        about = f"{escape(core_part('summary', model.summary, say))}. {licence}"
    return (
        f'<p class="svd-model svd-{status.state}">{what}{state}</p><p class="svd-about">{about}</p>'
    )


def notice_html(status: EngineStatus, say: Texts) -> str:
    return status_html(core(status.notice, say)) if status.notice else ""


def duration(seconds: float, say: Texts, digits: int = 1) -> str:
    """E.g. `0.4 s`, `12 s`, `2 min 5 s`, `1 h 3 min`; `digits`: of less than ten seconds."""
    if seconds < 9.95:
        return say("seconds", seconds=say.number(seconds, digits))
    whole = round(seconds)
    if whole < 60:
        return say("seconds", seconds=whole)
    if whole < 3600:
        return say("minutes", minutes=whole // 60, seconds=whole % 60)
    return say("hours", hours=whole // 3600, minutes=whole % 3600 // 60)


def size_text(count: int, say: Texts) -> str:
    """E.g. `38 kB`, `1.2 MB`."""
    return f"{count / 1e3:.0f} kB" if count < 1e6 else f"{say.number(count / 1e6)} MB"


def _queued(ahead: int, say: Texts) -> str:
    if ahead == 0:
        return say("starting")
    return say("waiting_one") if ahead == 1 else say("waiting_many", ahead=ahead)


def _counted(progress: Progress, say: Texts) -> str:
    if progress.stage is Stage.LOADING:
        unit, size = ("GB", 1e9) if progress.total >= 1e9 else ("MB", 1e6)
        step, total = (say.number(count / size) for count in (progress.step, progress.total))
        return say("size_of", step=step, total=total, unit=unit)
    key = "frame_of" if progress.stage is Stage.DECODING else "step_of"
    return say(key, step=progress.step, total=progress.total)


def _link(name: str, url: str) -> str:
    if not url.startswith("https://"):
        return escape(name)
    return f'<a href="{escape(url)}" target="_blank" rel="noopener">{escape(name)}</a>'
