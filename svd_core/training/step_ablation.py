"""`python -m svd_core.training.step_ablation`: effect of more denoising steps on svd-nano. A table.

Two photos with one seed at bucket 127, made with each number of steps, and at the speed `fast`;
`metrics` defines the figures. `motion` is in pixels per frame; `as_first` is the PSNR against the
clips of the first line, in dB, 60 if they are equal.
"""

import sys
from statistics import fmean

import numpy as np

from svd_core.checkpoints.table import DEMO_MODEL
from svd_core.engine.engine import SvdEngine
from svd_core.errors import SvdError
from svd_core.params import Speed, VideoParams
from svd_core.training.baselines import Baseline, Sample, checkpoint_model
from svd_core.training.clip_metrics import OpticalFlow, measure_clip, psnr
from svd_core.training.dataset import EvalPhoto, evenly_spaced, example_photos
from svd_core.types import Frames

RUNS: tuple[tuple[Speed, int], ...] = (
    *(("exact", steps) for steps in (1, 4, 6, 8, 12, 25)),
    *(("fast", steps) for steps in (1, 14)),
)
HEAD = ("speed", "steps", "first_frame_psnr", "sharpness", "sharpness_min", "consistency", "motion",
        "as_first", "seconds_per_clip")  # fmt: skip


def main() -> int:
    try:
        photos = evenly_spaced(example_photos(), 2)
        model = checkpoint_model(SvdEngine(DEMO_MODEL, fallback=False))
        print(f"{', '.join(photo.name for photo in photos)}\n\n| {' | '.join(HEAD)} |")
        print(f"|{'---|' * len(HEAD)}")
        first = [_generate(model, photo, *RUNS[0]).frames for photo in photos]
        for speed, steps in RUNS:
            samples = [_generate(model, photo, speed, steps) for photo in photos]
            print(f"| {speed} | {steps} | {_cells(samples, first)} |", flush=True)
    except SvdError as error:
        print(error.message, file=sys.stderr)
        return 1
    return 0


def _generate(model: Baseline, photo: EvalPhoto, speed: Speed, steps: int) -> Sample:
    return model(photo.opened(), VideoParams(seed=1, num_inference_steps=steps, speed=speed))


def _cells(samples: list[Sample], first: list[Frames]) -> str:
    flow = OpticalFlow()
    readings = [measure_clip(sample.photo, sample.frames, flow) for sample in samples]
    sharpness = [value for reading in readings for value in reading.sharpness]
    pairs = zip(samples, first, strict=True)
    same = [psnr(np.concatenate(s.frames), np.concatenate(frames)) for s, frames in pairs]
    values = (
        fmean(r.first_frame_psnr for r in readings), fmean(sharpness), min(sharpness),
        fmean(r.consistency for r in readings), fmean(r.speed for r in readings), fmean(same),
        fmean(sample.seconds for sample in samples),
    )  # fmt: skip
    return " | ".join(f"{value:.2f}" for value in values)


if __name__ == "__main__":
    sys.exit(main())
