"""`python -m svd_core.training.evaluate`: quality of svd-nano. A table, then one line of JSON.

The shipped checkpoint, or `--model`, makes clips of the example photos and of six more that
training never sees; `metrics` defines the figures. The same figures are computed for bounds:
`vae_only`, clips of known motion through its VAE alone (upper bound), and the lower bounds `still`,
the photo repeated, and `untrained`, the same architecture with random weights.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median

import numpy as np
import torch

from svd_core.checkpoints.table import DEMO_MODEL, Checkpoint, find_checkpoint
from svd_core.engine.engine import SvdEngine
from svd_core.errors import SvdError, ToolFailed
from svd_core.media.image import frame_photo
from svd_core.params import VideoParams
from svd_core.training.baselines import (
    Baseline,
    Vae,
    checkpoint_model,
    still_image,
    untrained,
    vae_only,
)
from svd_core.training.clip_metrics import OpticalFlow, measure_clip, psnr
from svd_core.training.dataset import (
    EvalPhoto,
    evenly_spaced,
    example_photos,
    fetch_photos,
    listed_photos,
)
from svd_core.training.metrics import Figures, compute_metrics, format_report, settings
from svd_core.training.sample_sheets import ContactSheet

VAE_ONLY, STILL, UNTRAINED = "vae_only", "still", "untrained"
TIMED = (DEMO_MODEL, VAE_ONLY, UNTRAINED)
"""Subjects whose clips take long."""


class Evaluator:
    """Measures the clips of each subject, and reports its progress on stderr."""

    def __init__(self, quick: bool, folder: Path | None, sheet: ContactSheet | None) -> None:
        """`quick`: two photos and one seed. `folder`: with the photos of the list."""
        self._flow = OpticalFlow()
        self._sheet = sheet
        self.photos = (
            evenly_spaced(example_photos(), 2)
            if quick
            else example_photos() + listed_photos(folder)
        )
        self.settings = settings((1,) if quick else (1, 2))
        self._counts = {VAE_ONLY: 1 if quick else 3, UNTRAINED: 1}
        self._done = 0
        self._started = time.perf_counter()

    def photos_of(self, subject: str) -> list[EvalPhoto]:
        return evenly_spaced(self.photos, self._counts.get(subject, len(self.photos)))

    def clips_of(self, subject: str) -> int:
        return len(self.photos_of(subject)) * len(self.settings)

    def figures(self, name: str, generate: Baseline) -> Figures:
        """Figures of the clips of a baseline, and for a model the median seconds of a clip."""
        readings, seconds = {}, []
        for photo in self.photos_of(name):
            opened = photo.opened()
            for params in self.settings:
                sample = generate(opened, params)
                readings[photo.name, params] = measure_clip(sample.photo, sample.frames, self._flow)
                seconds.append(sample.seconds)
                if name != STILL:
                    self._report(name, photo, sample.seconds)
                if self._sheet and name == DEMO_MODEL and params in self.settings[:3]:
                    self._sheet.add(photo.name, params.motion_bucket_id, sample.frames)
        timed = name in (DEMO_MODEL, UNTRAINED)
        figures = compute_metrics(readings)
        figures |= {"seconds_per_clip": median(seconds[1:]) if timed else None}
        print(f"{name}: {json.dumps(figures)}", file=sys.stderr)  # in case a later subject fails
        return figures

    def vae_psnr(self, name: str, vae: Vae) -> float:
        """Mean PSNR of the photos of `name` through `vae`."""
        values = []
        for photo in self.photos_of(name):
            framed = frame_photo(photo.opened(), [vae.size], VideoParams(seed=0))
            pixels = np.asarray(framed.image)
            values.append(psnr(pixels, vae.reconstruct_photo(pixels)))
        return fmean(values)

    def _report(self, name: str, photo: EvalPhoto, seconds: float) -> None:
        self._done += 1
        elapsed = time.perf_counter() - self._started
        total = sum(map(self.clips_of, TIMED))
        left = elapsed / self._done * (total - self._done)
        print(
            f"clip {self._done} of {total}  {name}, {photo.name}: {seconds:.1f} s, "
            f"{left / 60:.0f} min left",
            file=sys.stderr,
            flush=True,
        )


def evaluate(checkpoint: Checkpoint, evaluator: Evaluator) -> dict[str, Figures]:
    """Evaluate every subject: figures by name, svd-nano's first."""
    assert checkpoint.folder is not None

    def run_model(name: str, folder: Path) -> Figures:
        return evaluator.figures(name, checkpoint_model(SvdEngine(str(folder), fallback=False)))

    figures = {DEMO_MODEL: run_model(DEMO_MODEL, checkpoint.folder)}
    figures[DEMO_MODEL] |= {"peak_memory_mb": _peak_memory_mb()}  # before other subjects use memory
    vae = Vae(checkpoint)
    figures[VAE_ONLY] = evaluator.figures(VAE_ONLY, vae_only(vae, checkpoint))
    figures[STILL] = evaluator.figures(STILL, still_image(checkpoint))
    for name in (DEMO_MODEL, VAE_ONLY):
        figures[name] |= {"vae_psnr": evaluator.vae_psnr(name, vae)}
    with tempfile.TemporaryDirectory() as scratch:
        folder = untrained(checkpoint.folder, Path(scratch) / UNTRAINED)
        figures[UNTRAINED] = run_model(UNTRAINED, folder)
        random_vae = Vae(find_checkpoint(str(folder), cuda=False))
        figures[UNTRAINED] |= {"vae_psnr": evaluator.vae_psnr(UNTRAINED, random_vae)}
    return figures


def _peak_memory_mb() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m svd_core.training.evaluate", description=__doc__
    )
    parser.add_argument("--model", default=DEMO_MODEL, help="folder; default: the shipped one")
    parser.add_argument("--photos", type=Path, help="folder with the six photos of the list")
    parser.add_argument("--fetch", action="store_true", help="download them there first")
    parser.add_argument("--quick", action="store_true", help="two photos, one seed: for trying out")
    parser.add_argument("--sheet", type=Path, help="contact sheet to write, a .png")
    options = parser.parse_args(argv)
    if options.fetch and options.photos is None:
        parser.error("--fetch needs --photos, the folder for the photos")
    try:
        sheet = None if options.sheet is None else ContactSheet(options.sheet)
        checkpoint = find_checkpoint(options.model, cuda=False)
        if checkpoint.folder is None:
            raise ToolFailed(f"{options.model} is not a checkpoint folder on this machine.")
        if options.fetch:
            fetch_photos(options.photos, "evaluation")
        evaluator = Evaluator(options.quick, options.photos, sheet)
        for photo in evaluator.photos:
            print(f"{photo.sha256}  {photo.name}")
        counts = ", ".join(f"{evaluator.clips_of(name)} of {name}" for name in TIMED)
        each = f"{len(evaluator.photos)} photos, {len(evaluator.settings)} clips of each"
        print(f"{each}: {counts}.", flush=True)
        figures = evaluate(checkpoint, evaluator)
        if sheet is not None:
            sheet.save()
    except SvdError as error:
        print(error.message, file=sys.stderr)
        return 1
    print(format_report(figures, {name: len(evaluator.photos_of(name)) for name in figures}))
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
