"""Progress bar: one line on stderr with stage and time left; silent without a terminal."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from svd_core.events import OnProgress, Progress, Stage


class RemainingTimeColumn(ProgressColumn):
    """Counts down between two reports, which may be minutes apart on a slow machine."""

    def render(self, task: Task) -> Text:
        ends_at = task.fields["ends_at"]
        if ends_at is None:
            return Text("")
        left = max(0, round(ends_at - time.monotonic()))
        return Text(f"{left // 60}:{left % 60:02d} left", style="progress.remaining")


@contextmanager
def progress_bar(title: str, console: Console | None = None) -> Iterator[OnProgress]:
    """Show what is reported while the block runs; the line is gone afterwards."""
    console = Console(stderr=True) if console is None else console
    # stdout stays as it is: results go there, perhaps into another program.
    with Bar(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[stage]}", markup=False),
        RemainingTimeColumn(),
        console=console,
        transient=True,
        redirect_stdout=False,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(title, total=None, stage="starting", ends_at=None)

        def show(progress: Progress) -> None:
            left = progress.remaining_s
            ends_at = None if left is None else time.monotonic() + left
            share = progress.share
            bar.update(task, stage=progress_text(progress), ends_at=ends_at, completed=share or 0.0)
            # Task by task, since `update` reads a total of None as "leave it".
            bar.tasks[0].total = None if share is None else 1.0

        yield show


def progress_text(progress: Progress) -> str:
    """What to write beside the bar, e.g. `denoising 3/12` or `loading 1.2/4.2 GB`."""
    if progress.note is not None:
        return progress.note
    if not progress.total or progress.stage is Stage.QUEUED:
        return progress.stage
    if progress.stage is Stage.LOADING:
        unit, size = ("GB", 1e9) if progress.total >= 1e9 else ("MB", 1e6)
        return f"{progress.stage} {progress.step / size:.1f}/{progress.total / size:.1f} {unit}"
    return f"{progress.stage} {progress.step}/{progress.total}"
