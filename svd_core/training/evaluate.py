"""`python -m svd_core.training.evaluate`: how good svd-nano is. A table, then one line of JSON.

The committed checkpoint, or `--model`, makes clips of the example photos and of six more that
training never sees; `metrics` says what is measured. Beside it stand the same figures of what it
is held against: `vae_only`, clips of known motion through its VAE alone (upper bound), and the
lower bounds `still`, the photo repeated, and `untrained`, the same shape with random weights.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
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
    CheckpointModel,
    StillImage,
    Vae,
    VaeOnly,
    untrained,
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


@dataclass(frozen=True)
class EvaluationSize:
    """Photos and seeds of an evaluation. `vae_only`, `untrained`: number of photos for these."""

    photos: list[EvalPhoto]
    seeds: tuple[int, ...]
    vae_only: int
    untrained: int

    @classmethod
    def from_options(cls, quick: bool, folder: Path | None) -> "EvaluationSize":
        if quick:
            return cls(evenly_spaced(example_photos(), 2), seeds=(1,), vae_only=1, untrained=1)
        return cls(example_photos() + listed_photos(folder), seeds=(1, 2), vae_only=3, untrained=1)

    @property
    def settings(self) -> list[VideoParams]:
        return settings(self.seeds)

    def of(self, subject: str) -> list[EvalPhoto]:
        counts = {VAE_ONLY: self.vae_only, UNTRAINED: self.untrained}
        return evenly_spaced(self.photos, counts.get(subject, len(self.photos)))

    def clips(self, *subjects: str) -> int:
        """Number of clips for `subjects` together."""
        return sum(len(self.of(subject)) for subject in subjects) * len(self.settings)


class Evaluator:
    """Measures the clips of each subject, and reports its progress on stderr."""

    def __init__(self, extent: EvaluationSize, gallery: ContactSheet | None) -> None:
        self._extent = extent
        self._gallery = gallery
        self._flow = OpticalFlow()
        self._total = extent.clips(DEMO_MODEL, VAE_ONLY, UNTRAINED)
        self._done = 0
        self._started = time.perf_counter()

    def figures(self, name: str, subject: Baseline) -> Figures:
        """Figures of the clips of `subject`, and the median seconds of a clip of a model."""
        readings, seconds = {}, []
        for photo in self._extent.of(name):
            opened = photo.opened()
            for params in self._extent.settings:
                take = subject.generate(opened, params)
                readings[photo.name, params] = measure_clip(take.photo, take.frames, self._flow)
                seconds.append(take.seconds)
                if name != STILL:
                    self._report(name, photo, take.seconds)
                if self._gallery and name == DEMO_MODEL and params in self._extent.settings[:3]:
                    self._gallery.add(photo.name, params.motion_bucket_id, take.frames)
        timed = isinstance(subject, CheckpointModel)
        figures = compute_metrics(readings) | {
            "seconds_per_clip": median(seconds[1:]) if timed else None
        }
        print(
            f"{name}: {json.dumps(figures)}", file=sys.stderr
        )  # so that a later failure costs less
        return figures

    def vae_psnr(self, name: str, vae: Vae) -> float:
        """Mean PSNR of the photos of `name` through `vae`."""
        values = []
        for photo in self._extent.of(name):
            framed = frame_photo(photo.opened(), [vae.size], VideoParams(seed=0))
            pixels = np.asarray(framed.image)
            values.append(psnr(pixels, vae.reconstruct_photo(pixels)))
        return fmean(values)

    def _report(self, name: str, photo: EvalPhoto, seconds: float) -> None:
        self._done += 1
        gone = time.perf_counter() - self._started
        left = gone / self._done * (self._total - self._done)
        print(
            f"clip {self._done} of {self._total}  {name}, {photo.name}: {seconds:.1f} s, "
            f"{left / 60:.0f} min left",
            file=sys.stderr,
            flush=True,
        )


def evaluate(checkpoint: Checkpoint, judge: Evaluator) -> dict[str, Figures]:
    """Evaluate every subject: figures by name, svd-nano's first."""
    assert checkpoint.folder is not None
    figures = {
        DEMO_MODEL: judge.figures(
            DEMO_MODEL, CheckpointModel(SvdEngine(str(checkpoint.folder), fallback=False))
        )
    }
    figures[DEMO_MODEL] |= {"peak_memory_mb": _peak_memory_mb()}  # before other subjects use memory
    vae = Vae(checkpoint)
    figures[VAE_ONLY] = judge.figures(VAE_ONLY, VaeOnly(vae, checkpoint))
    figures[STILL] = judge.figures(STILL, StillImage(checkpoint))
    for name in (DEMO_MODEL, VAE_ONLY):
        figures[name] |= {"vae_psnr": judge.vae_psnr(name, vae)}
    with tempfile.TemporaryDirectory() as scratch:
        folder = untrained(checkpoint.folder, Path(scratch) / UNTRAINED)
        twin = find_checkpoint(str(folder), cuda=False)
        figures[UNTRAINED] = judge.figures(
            UNTRAINED, CheckpointModel(SvdEngine(str(folder), fallback=False))
        )
        figures[UNTRAINED] |= {"vae_psnr": judge.vae_psnr(UNTRAINED, Vae(twin))}
    return figures


def _peak_memory_mb() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m svd_core.training.evaluate", description=__doc__
    )
    parser.add_argument(
        "--model", default=DEMO_MODEL, help="checkpoint folder; default: the committed"
    )
    parser.add_argument("--photos", type=Path, help="folder with the six photos of the list")
    parser.add_argument(
        "--fetch", action="store_true", help="bring them there from Debian packages"
    )
    parser.add_argument("--quick", action="store_true", help="two photos, one seed: for trying out")
    parser.add_argument("--sheet", type=Path, help="contact sheet to write, a .png")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(argv)
    if options.fetch and options.photos is None:
        parser.error("--fetch needs --photos, the folder to bring the photos to")
    try:
        gallery = None if options.sheet is None else ContactSheet(options.sheet)
        checkpoint = _folder_of(options.model)
        if options.fetch:
            fetch_photos(options.photos, "evaluation")
        extent = EvaluationSize.from_options(options.quick, options.photos)
        judge = Evaluator(extent, gallery)
        _announce(extent)
        figures = evaluate(checkpoint, judge)
        if gallery is not None:
            gallery.save()
    except SvdError as error:
        print(error.message, file=sys.stderr)
        return 1
    print(format_report(figures, {name: len(extent.of(name)) for name in figures}))
    print(json.dumps(figures))
    return 0


def _folder_of(model: str) -> Checkpoint:
    checkpoint = find_checkpoint(model, cuda=False)
    if checkpoint.folder is None:
        raise ToolFailed(f"{model} is no checkpoint folder on this machine; only those are judged.")
    return checkpoint


def _announce(extent: EvaluationSize) -> None:
    for photo in extent.photos:
        print(f"{photo.sha256}  {photo.name}")
    counts = ", ".join(
        f"{extent.clips(name)} of {name}" for name in (DEMO_MODEL, VAE_ONLY, UNTRAINED)
    )
    print(
        f"{len(extent.photos)} photos, {len(extent.settings)} clips of each: {counts}.", flush=True
    )


if __name__ == "__main__":
    sys.exit(main())
