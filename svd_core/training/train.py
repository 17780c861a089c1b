"""`python -m svd_core.training.train`: make svd-nano from a folder of photos, on a CPU or on CUDA.

Each course keeps its state in `--state` and resumes from there, also after a kill: `position`
(coordinates), `scene` (what is near, what drifts), `decoder` (latents back to pixels) and `clips`
(the whole UNet on whole clips). `scene` needs `position`; `decoder` can run beside both. `--export`
writes the checkpoint folder from the state of all courses.
"""

import argparse
import logging
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import torch

from svd_core.errors import SvdError
from svd_core.training.dataset import fetch_photos, load_photos
from svd_core.training.export import export
from svd_core.training.sample_sheets import draw_sample
from svd_core.training.stages import COURSES, TRAINING_SIZES, TrainingContext
from svd_core.training.trainer import TrainingRun

SAVE_EVERY = 100
REPORT_EVERY = 50
SAMPLE_EVERY = 500


def reporter(
    context: TrainingContext, name: str, run: TrainingRun, seconds: float
) -> Callable[[TrainingRun, float], None]:
    """Callback of a course that prints a line, saves the state and draws a sample at intervals."""
    recent: deque[float] = deque(maxlen=REPORT_EVERY)
    end = run.seconds + seconds

    def on_step(course: TrainingRun, loss: float) -> None:
        recent.append(loss)
        if course.step % REPORT_EVERY == 0:
            print(
                f"{name}: step {course.step}  loss {fmean(recent):.4f}  seen {course.clips}  "
                f"trained {course.seconds / 60:.0f} min  "
                f"left {max(0.0, end - course.seconds) / 60:.0f} min",
                flush=True,
            )
        if course.step % SAVE_EVERY == 0:
            course.save()
        if course.step % SAMPLE_EVERY == 0:
            draw_sample(context, context.state / f"{name}-{course.step}.png")

    return on_step


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m svd_core.training.train", description=__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photos to learn from")
    parser.add_argument("--fetch", action="store_true", help="fill it from Debian packages first")
    parser.add_argument("--state", type=Path, required=True, help="folder for the training state")
    parser.add_argument("--course", choices=COURSES, help="what to train")
    parser.add_argument(
        "--dial", choices=sorted(TRAINING_SIZES), default="cpu", help="size of the work"
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="how long to train")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 takes all")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--export", type=Path, help="write the checkpoint folder at the end")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if options.threads:
        torch.set_num_threads(options.threads)
    options.state.mkdir(parents=True, exist_ok=True)
    try:
        if options.fetch:
            fetch_photos(options.photos)
        photos = load_photos(options.photos)
        context = TrainingContext(
            options.state, photos, TRAINING_SIZES[options.dial], options.device
        )
        if options.course:
            course = getattr(context, options.course)()
            seconds = options.minutes * 60
            course.train(seconds, reporter(context, options.course, course, seconds))
            course.save()
        if options.export:
            export(context, options.export)
    except SvdError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
