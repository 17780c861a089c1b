"""`python -m svd_core.nano.steps`: what more denoising steps bring svd-nano. A table.

The same two photos and one seed at bucket 127, made with each number of steps; `figures` says what
is measured. `speed` is in pixels per frame; `against 1 step` the PSNR between the clips, in dB.
"""

import sys
from statistics import fmean

import numpy as np

from svd_core.clip import Frames
from svd_core.engine import SvdEngine
from svd_core.errors import SvdError
from svd_core.models import DEMO
from svd_core.nano.flow import OpticalFlow
from svd_core.nano.heldout import HeldOut, examples, spread
from svd_core.nano.reading import psnr, read_clip
from svd_core.nano.subjects import Model, Take
from svd_core.params import VideoParams

STEPS = (1, 4, 6, 8, 12, 25)
HEAD = ("steps", "first frame (dB)", "sharpness", "sharpness_min", "consistency (dB)", "speed",
        "against 1 step (dB)", "seconds per clip")  # fmt: skip


def main() -> int:
    try:
        photos = spread(examples(), 2)
        model = Model(SvdEngine(DEMO, fall_back=False))
        print(f"{', '.join(photo.name for photo in photos)}\n\n| {' | '.join(HEAD)} |")
        print(f"|{'---|' * len(HEAD)}")
        least = [_film(model, photo, STEPS[0]).frames for photo in photos]
        for steps in STEPS:
            takes = [_film(model, photo, steps) for photo in photos]
            print(_row(steps, takes, least), flush=True)
    except SvdError as error:
        print(error.message, file=sys.stderr)
        return 1
    return 0


def _film(model: Model, photo: HeldOut, steps: int) -> Take:
    return model.film(photo.opened(), VideoParams(seed=1, num_inference_steps=steps))


def _row(steps: int, takes: list[Take], least: list[Frames]) -> str:
    flow = OpticalFlow()
    readings = [read_clip(take.photo, take.frames, flow) for take in takes]
    sharpness = [value for reading in readings for value in reading.sharpness]
    pairs = zip(takes, least, strict=True)
    same = [psnr(np.concatenate(take.frames), np.concatenate(first)) for take, first in pairs]
    values = (
        fmean(r.first_frame_psnr for r in readings), fmean(sharpness), min(sharpness),
        fmean(r.consistency for r in readings), fmean(r.speed for r in readings), fmean(same),
        fmean(take.seconds for take in takes),
    )  # fmt: skip
    return f"| {steps} | {' | '.join(f'{value:.2f}' for value in values)} |"


if __name__ == "__main__":
    sys.exit(main())
