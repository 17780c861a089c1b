"""Compare speed and output with stock diffusers: `python -m svd_core.benchmarks contest`.

Stock diffusers and our default path, each also compiled, stock's as its documentation says, the
speed `fast`, and on request each rewrite alone make the same clip in turn, in one process, from the
same weights and noise. The table is printed only if every contestant's UNet is right: within
`ROUNDING` of stock, or about as near to stock in the next wider precision as stock itself is.
`fast` need not be; its error is in the table. Ends in one line of JSON.

Each clip's times go to stderr as a line of JSON when the clip is made. A contestant that fails
drops out with its error, and the others go on. Exit code 1: a wrong UNet, or a contestant failed;
with `--check` also if ours is not clearly faster than stock, or needs more memory.

Variants take turns in rounds, within a budget of seconds. A clip is started only if one as long as
the last one of its variant would still fit.
"""

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TextIO

import torch
from PIL import Image

from svd_core.benchmarks.random_models import contest_checkpoint, open_stock
from svd_core.benchmarks.vs_diffusers.parity import Parity, check_parity
from svd_core.benchmarks.vs_diffusers.report import result, show
from svd_core.benchmarks.vs_diffusers.timing import ClipTiming, time_clip
from svd_core.benchmarks.vs_diffusers.variants import STOCK, Variant, make_variants, prepare_stock
from svd_core.checkpoints.defaults import with_defaults
from svd_core.checkpoints.memory_plan import plan_memory
from svd_core.checkpoints.table import ASSETS
from svd_core.engine.pipeline_loader import find_device, model_sizes
from svd_core.errors import SvdError
from svd_core.media.image import frame_photo
from svd_core.params import Speed, VideoParams

MIN_SPEEDUP = 1.5
"""What counts as clearly faster with `--check`."""

OnTiming = Callable[[str, ClipTiming], None]
"""Called with the name of a variant and the timing of its clip."""


@dataclass
class Rounds:
    """Clips of all variants in turn. `rounds`: clips of each after its warm-up clip.

    `budget_s`: seconds from the start. `failed`: last line of the error, by variant.
    """

    rounds: int
    budget_s: float
    on_shot: OnTiming
    clock: Callable[[], float] = time.monotonic
    shots: dict[str, list[ClipTiming]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._begun = self.clock()
        self._last_s: dict[str, float] = {}

    def play(self, variants: Sequence[Variant], shoot: Callable[[Variant], ClipTiming]) -> None:
        """Make a warm-up clip and `rounds` clips of each variant, in turn."""
        for one in variants:
            self.shots[one.name] = []
        for _ in range(1 + max(1, self.rounds)):
            for one in variants:
                if one.name not in self.failed and self._fits(one.name):
                    self._run(one, shoot)

    def complete(self) -> dict[str, list[ClipTiming]]:
        """Clips of the variants with at least one after the warm-up."""
        return {name: made for name, made in self.shots.items() if len(made) > 1}

    def unfinished(self) -> list[str]:
        """Variants without time for a clip after the warm-up."""
        return [n for n, made in self.shots.items() if len(made) < 2 and n not in self.failed]

    def sentences(self) -> list[str]:
        failed = [f"{name} failed: {why}" for name, why in self.failed.items()]
        late = [f"{name} had too little time; raise --budget." for name in self.unfinished()]
        return failed + late

    def _fits(self, name: str) -> bool:
        return self.clock() - self._begun + self._last_s.get(name, 0.0) <= self.budget_s

    def _run(self, one: Variant, shoot: Callable[[Variant], ClipTiming]) -> None:
        begin = self.clock()
        try:
            timing = shoot(one)
        except Exception as error:  # noqa: BLE001  # compilers and kernels raise anything
            self.failed[one.name] = last_line(error)
            del self.shots[one.name]
        else:
            self.shots[one.name].append(timing)
            self._last_s[one.name] = self.clock() - begin
            self.on_shot(one.name, timing)
        if one.name in self.failed:  # after the error, which references its tensors
            gc.collect()
            torch.cuda.empty_cache()


def last_line(error: BaseException) -> str:
    """Class and last line of the message, at most 300 characters."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[-1].strip()}"[:300]


def main(argv: Sequence[str] | None = None, on_shot: OnTiming | None = None) -> int:
    """Run the contest. `on_shot`: receives every clip when it is made, instead of stderr."""
    options = parser().parse_args(argv)
    try:
        return _run_contest(
            options, on_shot or (lambda name, timing: print_shot(name, timing, sys.stderr))
        )
    except SvdError as error:
        print(error.message, file=sys.stderr)
        return 2


def print_shot(name: str, timing: ClipTiming, file: TextIO) -> None:
    """One line of JSON, flushed at once."""
    print(json.dumps({"contestant": name, **timing.figures()}), file=file, flush=True)


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="python -m svd_core.benchmarks contest", description=__doc__
    )
    options.add_argument("--model", default="svd-nano", help="svd-nano, tiny, svd-xt or a folder")
    options.add_argument("--random-weights", action="store_true", help="for svd-xt at full size")
    options.add_argument(
        "--rounds", type=int, default=3, help="clips of each after a warm-up, as far as time allows"
    )
    options.add_argument(
        "--budget", type=float, default=540.0, help="seconds after which no clip is begun"
    )
    options.add_argument("--steps", type=int, help="denoising steps; the model's if left out")
    options.add_argument("--frames", type=int, help="frames; the model's if left out")
    options.add_argument("--each", action="store_true", help="every rewrite alone as well")
    options.add_argument("--no-compile", action="store_true", help="leave out who is compiled")
    options.add_argument("--check", action="store_true", help="exit by what was found")
    return options


def _run_contest(options: argparse.Namespace, on_shot: OnTiming) -> int:
    rounds = Rounds(options.rounds, options.budget, on_shot)
    device = find_device()
    checkpoint = contest_checkpoint(options.model, options.random_weights, device.kind == "cuda")
    stock = open_stock(checkpoint, options.random_weights, device.kind)
    chosen = plan_memory(device, checkpoint, model_sizes(stock), "none")
    if not chosen.single_unet and chosen.device == "cpu":
        chosen = replace(chosen, dtype="float32")
    steps = options.steps or checkpoint.num_inference_steps
    checkpoint = replace(checkpoint, num_inference_steps=steps)
    params = VideoParams(seed=0, num_frames=options.frames)

    def at(speed: Speed) -> VideoParams:
        return with_defaults(replace(params, speed=speed), checkpoint, chosen.decode_chunk_size)

    image = _photo(checkpoint.sizes, params)
    prepare_stock(stock, chosen)
    taking_part, absent = make_variants(stock, chosen, options.each, not options.no_compile)
    for compiled in (False, True):  # compiled variants last: compiling takes minutes
        rounds.play(
            [one for one in taking_part if one.compiled == compiled],
            lambda one: _time_variant(one, image, at(one.speed), chosen.device),
        )
    for sentence in (*absent, *rounds.sentences()):
        print(sentence)
    timings = rounds.complete()
    verdict = _verdict(stock, timings, [one for one in taking_part if one.speed == "exact"])
    if verdict is None:
        return 1
    report = result(checkpoint.name, device.name, timings, verdict, stock, at("exact"))
    show(report)
    print(json.dumps(report | {"failed": rounds.failed, "unfinished": rounds.unfinished()}))
    return int(bool(rounds.failed) or (options.check and not clearly_better(report)))


def clearly_better(report: Mapping[str, Any]) -> bool:
    """Whether ours is faster than stock by `MIN_SPEEDUP`, and takes no more memory if known."""
    peak, stock_peak = report["peak_memory_mb"], report["peak_memory_mb_stock"]
    lean = peak is None or stock_peak is None or peak <= stock_peak
    return (report["speedup_vs_stock"] or 0) > MIN_SPEEDUP and lean


def _verdict(
    stock: Any, timings: dict[str, list[ClipTiming]], exact: Sequence[Variant]
) -> Parity | None:
    """Parity of the variants; None, with the reason on stderr, if no table may be printed."""
    if STOCK not in timings:
        print("No speeds: stock made no clip to compare with.", file=sys.stderr)
        return None
    try:
        verdict = check_parity(stock, timings, [one for one in exact if one.name in timings])
    except Exception as error:  # noqa: BLE001  # of any kind: the clips made so far stand
        print(f"No speeds: the comparison failed: {last_line(error)}", file=sys.stderr)
        return None
    if verdict.wrong:
        print(verdict.sentence(), file=sys.stderr)
        return None
    return verdict


def _photo(sizes: Any, params: VideoParams) -> Image.Image:
    path = min((p for p in (ASSETS / "examples").glob("*.jpg")), default=None)
    photo = Image.open(path) if path else Image.effect_mandelbrot((1024, 576), (-2, -1, 1, 1), 50)
    return frame_photo(photo.convert("RGB"), sizes, params).image


def _time_variant(one: Variant, image: Image.Image, params: VideoParams, device: str) -> ClipTiming:
    pipeline = one.prepare()
    return time_clip(pipeline, one.our_decoding, image, params, device)
