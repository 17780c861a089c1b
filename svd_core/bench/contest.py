"""Whether we are faster than stock, and still right: `python -m svd_core.bench contest`.

Stock diffusers and our default path, each also compiled, stock's as its documentation says, the
speed `fast`, and on request each rewrite alone make the same clip in turn, in one process, from the
same weights and noise. Speeds are printed only if everybody's UNet is right: within `ROUNDING` of
stock, or as near to stock in the next wider precision as stock itself is. `fast` need not be; how
far off it is stands in the table. Ends in one line of JSON.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from PIL import Image

from svd_core.bench.contestants import Contestant, contestants, settle
from svd_core.bench.fidelity import judge
from svd_core.bench.scoreboard import result, show
from svd_core.bench.shot import Shot, shoot
from svd_core.bench.weights import contest_checkpoint, open_stock
from svd_core.errors import SvdError
from svd_core.image import frame_photo
from svd_core.loading import find_device, parts_of
from svd_core.memory import plan
from svd_core.models import ASSETS
from svd_core.params import Speed, VideoParams
from svd_core.resolved import filled


def main(argv: Sequence[str] | None = None) -> int:
    asked = parser().parse_args(argv)
    try:
        return _hold(asked)
    except SvdError as error:
        print(error.message, file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="python -m svd_core.bench contest", description=__doc__)
    found.add_argument("--model", default="svd-nano", help="svd-nano, tiny, svd-xt or a folder")
    found.add_argument("--random-weights", action="store_true", help="for svd-xt at full size")
    found.add_argument("--rounds", type=int, default=3, help="clips of each contestant, after one")
    found.add_argument("--steps", type=int, help="denoising steps; the model's if left out")
    found.add_argument("--frames", type=int, help="frames; the model's if left out")
    found.add_argument("--each", action="store_true", help="every rewrite alone as well")
    found.add_argument("--no-compile", action="store_true", help="leave out who is compiled")
    return found


def _hold(asked: argparse.Namespace) -> int:
    device = find_device()
    checkpoint = contest_checkpoint(asked.model, asked.random_weights, device.kind == "cuda")
    stock = open_stock(checkpoint, asked.random_weights, device.kind == "cuda")
    chosen = plan(device, checkpoint, parts_of(stock), "none")
    if not chosen.single_unet and chosen.device == "cpu":
        chosen = replace(chosen, dtype="float32")
    steps = asked.steps or checkpoint.num_inference_steps
    checkpoint = replace(checkpoint, num_inference_steps=steps)
    params = VideoParams(seed=0, num_frames=asked.frames)

    def at(speed: Speed) -> VideoParams:
        return filled(replace(params, speed=speed), checkpoint, chosen.decode_chunk_size)

    image = _photo(checkpoint.sizes, params)
    settle(stock, chosen)
    taking_part, absent = contestants(stock, chosen, asked.each, not asked.no_compile)
    shots: dict[str, list[Shot]] = {one.name: [] for one in taking_part}
    for _ in range(1 + max(1, asked.rounds)):
        for one in taking_part:
            shots[one.name].append(_shoot(one, image, at(one.speed), chosen.device))
    for sentence in absent:
        print(sentence)
    verdict = judge(stock, shots, [one for one in taking_part if one.speed == "exact"])
    if verdict.wrong:
        print(verdict.sentence(), file=sys.stderr)
        return 1
    found = result(checkpoint.name, device.name, shots, verdict, stock, at("exact"))
    show(found)
    print(json.dumps(found))
    return 0


def _photo(sizes: Any, params: VideoParams) -> Image.Image:
    found = min((p for p in (ASSETS / "examples").glob("*.jpg")), default=None)
    photo = Image.open(found) if found else Image.effect_mandelbrot((1024, 576), (-2, -1, 1, 1), 50)
    return frame_photo(photo.convert("RGB"), sizes, params).image


def _shoot(one: Contestant, image: Image.Image, params: VideoParams, device: str) -> Shot:
    pipeline = one.prepare()
    return shoot(pipeline, one.our_decoding, image, params, device)
