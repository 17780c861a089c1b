"""Compare speed and output with stock diffusers: `python -m svd_core.benchmarks contest`.

All variants make the same clip in turn, in one process, from the same weights and noise: stock
diffusers and our default path, each also compiled, stock's as its documentation says, the speed
`fast`, and with `--each` every rewrite alone. The table is printed only if every UNet is right:
within `ROUNDING` of stock, or about as near to stock in the next wider precision as stock itself
is. The UNet of `fast` may differ; its error is in the table. Ends in one line of JSON.

The times of each clip go to stderr as a line of JSON when the clip is made. A variant that fails
drops out with its error, and the others go on. Exit code 1: a wrong UNet, or a variant failed; with
`--check` also if ours is not clearly faster than stock, or needs more memory.

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
from typing import Any

import torch
from PIL import Image

from svd_core.benchmarks.random_models import contest_checkpoint, open_stock
from svd_core.benchmarks.server_process import example_photo
from svd_core.benchmarks.targets import make_parser, print_json
from svd_core.benchmarks.vs_diffusers.parity import Parity, check_parity
from svd_core.benchmarks.vs_diffusers.report import result, show
from svd_core.benchmarks.vs_diffusers.timing import ClipTiming, time_clip
from svd_core.benchmarks.vs_diffusers.variants import STOCK, Variant, make_variants, prepare_stock
from svd_core.checkpoints.defaults import with_defaults
from svd_core.checkpoints.memory_plan import plan_memory
from svd_core.engine.pipeline_loader import find_device, model_sizes
from svd_core.media.image import frame_photo
from svd_core.params import Speed, VideoParams

MIN_SPEEDUP = 1.5
"""What counts as clearly faster with `--check`."""


class NoSpeedsError(Exception):
    """The reason why no table may be printed."""


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
        return [name for name, made in self.shots.items() if len(made) < 2]

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


def main(argv: Sequence[str] | None = None) -> int:
    options = make_contest_parser().parse_args(argv)
    try:
        result = run_contest(options, print_shot)
    except NoSpeedsError as error:
        print(f"No speeds: {error}", file=sys.stderr)
        return 1
    return int(bool(result["failed"]) or (options.check and not clearly_better(result)))


def make_contest_parser() -> argparse.ArgumentParser:
    parser = make_parser("contest", __doc__)
    parser.add_argument("--model", default="svd-nano", help="svd-nano, tiny, svd-xt or a folder")
    parser.add_argument("--random-weights", action="store_true", help="for svd-xt at full size")
    parser.add_argument(
        "--rounds", type=int, default=3, help="clips of each after a warm-up, as far as time allows"
    )
    parser.add_argument(
        "--budget", type=float, default=540.0, help="seconds after which no clip is begun"
    )
    parser.add_argument("--steps", type=int, help="denoising steps; the model's if left out")
    parser.add_argument("--frames", type=int, help="frames; the model's if left out")
    parser.add_argument("--each", action="store_true", help="every rewrite alone as well")
    parser.add_argument("--no-compile", action="store_true", help="leave out compiled variants")
    return parser


def print_shot(name: str, timing: ClipTiming) -> None:
    """Print one line of JSON on stderr at once."""
    print(json.dumps({"contestant": name, **timing.figures()}), file=sys.stderr, flush=True)


def run_contest(options: argparse.Namespace, on_shot: OnTiming) -> dict[str, Any]:
    """Run the contest and print its table. `on_shot`: receives every clip when it is made.

    Raises `NoSpeedsError` without a table, and `ToolFailed` if there are no weights.
    """
    rounds = Rounds(options.rounds, options.budget, on_shot)
    device = find_device()
    checkpoint = contest_checkpoint(options.model, options.random_weights, device.kind == "cuda")
    stock = open_stock(checkpoint, options.random_weights, device.kind)
    plan = plan_memory(device, checkpoint, model_sizes(stock), "none")
    if not plan.single_unet and plan.device == "cpu":
        plan = replace(plan, dtype="float32")
    steps = options.steps or checkpoint.num_inference_steps
    checkpoint = replace(checkpoint, num_inference_steps=steps)
    params = VideoParams(seed=0, num_frames=options.frames)

    def at(speed: Speed) -> VideoParams:
        return with_defaults(replace(params, speed=speed), checkpoint, plan.decode_chunk_size)

    photo = Image.open(example_photo()).convert("RGB")
    image = frame_photo(photo, checkpoint.sizes, params).image
    prepare_stock(stock, plan)
    variants, absent = make_variants(stock, plan, options.each, not options.no_compile)
    for compiled in (False, True):  # compiled variants last: compiling takes minutes
        rounds.play(
            [one for one in variants if one.compiled == compiled],
            lambda one: _time_variant(one, image, at(one.speed), plan.device),
        )
    for sentence in (*absent, *rounds.sentences()):
        print(sentence)
    timings = rounds.complete()
    verdict = _verdict(stock, timings, [one for one in variants if one.speed == "exact"])
    report = result(checkpoint.name, device.name, timings, verdict, stock, at("exact"))
    report |= {"failed": rounds.failed, "unfinished": rounds.unfinished()}
    show(report)
    print_json(report)
    return report


def clearly_better(report: Mapping[str, Any]) -> bool:
    """Whether ours is faster than stock by `MIN_SPEEDUP`, and takes no more memory if known."""
    peak, stock_peak = report["peak_memory_mb"], report["peak_memory_mb_stock"]
    lean = peak is None or stock_peak is None or peak <= stock_peak
    return (report["speedup_vs_stock"] or 0) > MIN_SPEEDUP and lean


def _verdict(stock: Any, timings: dict[str, list[ClipTiming]], exact: Sequence[Variant]) -> Parity:
    if STOCK not in timings:
        raise NoSpeedsError("stock made no clip to compare with.")
    try:
        verdict = check_parity(stock, timings, [one for one in exact if one.name in timings])
    except Exception as error:
        raise NoSpeedsError(f"the comparison failed: {last_line(error)}") from error
    if verdict.wrong:
        raise NoSpeedsError(verdict.sentence())
    return verdict


def _time_variant(one: Variant, image: Image.Image, params: VideoParams, device: str) -> ClipTiming:
    pipeline = one.prepare()
    return time_clip(pipeline, one.our_decoding, image, params, device)
