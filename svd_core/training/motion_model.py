"""Motion model: the place each cell is fetched from, computed from noise, motion bucket and fps.

In SVD, motion is free. A small net that is free to choose learns a blur of all motions, so here the
noise decides. Means of noise channels over the clip give the pan, roll and zoom of the camera, and
the drift and sway of things. Photo, noise and settings then determine the clip, the seed still
matters, and one sampling step is enough. Near things move more than far ones, as with a camera.

`motion` and `places` are the model in plain tensor code, which renders the training clips.
`write_motion` writes the same function into the weights of the UNet. Keep both equal.
"""

from math import pi

import torch
from torch import Tensor

from svd_core.training.architecture import NUM_FRAMES, Net
from svd_core.training.handwritten_layers import (
    CELL_UNIT,
    CODES,
    FRAME_UNIT,
    LINEAR_CODES,
    OFFSET,
    GegluBuilder,
    TokenChannels,
    channel_index,
    fit_linear,
    set_carriers,
    undo_norm,
)

CELLS = 128 * 72
"""Cells of every size of svd-nano: 512x288, 288x512, 384x384 pixels."""

PAN = (0.36, 0.14)
"""Cells per frame (x, y) at bucket 127 and 7 fps, for noise one deviation off, at middle depth."""

ZOOM_MEAN, ZOOM = 0.0045, 0.0035
"""Share by which the picture grows per frame. Mostly inwards, since that uncovers no edges."""

ROLL = 0.0008
"""Radians per frame."""

DRIFT = (0.15, 0.03)
"""Cells per frame (x, y) of what drifts, beside the camera's motion."""

FIRM, FREE = 0.22, 3.0
"""Drift up to which a cell does not move, and factor of the drift above it. The depth net is
seldom sure."""

FAR, NEAR = 0.35, 1.65
"""Factors of the camera's pan and zoom at depth 0 (the horizon) and 1 (close to the camera)."""

MIDDLE = 64
"""Cell from which whole cells are counted."""

MARGIN = 48.0
"""Cells from an edge over which the picture is stretched, so that no place is beyond it."""

FARTHEST = 0.9 * MARGIN
"""Largest shift of a place in cells, so that nothing is mirrored at an edge."""

SWAY_AMPLITUDE = 0.4
"""Cells to either side at drift 1, for noise one deviation off."""

GUST_FRAMES = 10.0
"""Frames from one gust to the next at bucket 127 and 7 fps."""

GUST_CELLS = 48.0
"""Cells from one gust to the next, to the right; twice as many downwards."""

GUST_KNOTS = 12
"""Line segments per period of the sine, which make it exact to 0.04."""

MAX_GUSTS, MAX_FIRST_GUSTS = 18, 4
"""Periods for which the sine is written: for places at later frames, and at frame 0. No cell gets
further in 50 frames at bucket 255 and 5 fps."""


def motion(noise: Tensor, motion_bucket_id: float, fps: float) -> dict[str, Tensor]:
    """Codes of `noise` (num_frames, channels, height, width) by name, each of shape (num_frames,).

    `LINEAR_CODES` are multiplied by the pace of each frame.
    """
    frames = len(noise)
    pace = torch.arange(frames) * speed(motion_bucket_id, fps)
    means = noise[:, : len(CODES)].mean(dim=(0, 2, 3)) * (CELLS * NUM_FRAMES) ** 0.5
    codes = dict(zip(CODES, means, strict=True))
    linear = {code: codes[code] * pace for code in LINEAR_CODES}
    return linear | {"pace": pace, "sway": codes["sway"].expand(frames)}


def speed(motion_bucket_id: float, fps: float) -> float:
    """Relative speed, 1 at bucket 127 and 7 fps. At a higher fps each frame moves less."""
    return motion_bucket_id / 127 * 7 / fps


def places(motion: dict[str, Tensor], near: Tensor, drift: Tensor) -> tuple[Tensor, Tensor]:
    """Place (x, y) in cells that the content of each cell comes from, each (num_frames, height,
    width). `near`, `drift`: (height, width) in 0..1."""
    height, width = near.shape
    y, x = torch.arange(height)[:, None].float(), torch.arange(width)[None, :].float()
    across, down = x - (width - 1) / 2, y - (height - 1) / 2
    depth = FAR + (NEAR - FAR) * near.clamp(0, 1)
    part = {name: value[:, None, None] for name, value in motion.items()}
    zoom = ZOOM * part["zoom"] + ZOOM_MEAN * part["pace"]
    roll = ROLL * part["roll"]
    go_x = (PAN[0] * part["pan_x"] + zoom * across) * depth - roll * down
    go_y = (PAN[1] * part["pan_y"] + zoom * down) * depth + roll * across
    free = (FREE * (drift - FIRM)).clamp(min=0)
    swing = SWAY_AMPLITUDE * part["sway"] * sway_wave(x, y, part["pace"])
    go_x = go_x + (DRIFT[0] * part["drift_x"] + swing) * free
    go_y = go_y + DRIFT[1] * part["drift_y"] * free
    return _clamp(x, go_x, width - 1), _clamp(y, go_y, height - 1)


def sway_wave(x: Tensor, y: Tensor, pace: Tensor) -> Tensor:
    """Sway of each cell since frame 0, -2..2, for the pace of its frame: gusts that pass over the
    picture."""
    gusts = (x + y / 2) / GUST_CELLS
    return (2 * pi * (gusts + pace / GUST_FRAMES)).sin() - (2 * pi * gusts).sin()


def _clamp(place: Tensor, go: Tensor, last: float) -> Tensor:
    """Clamp a shift near the edges, since no place may be beyond them."""
    early, late = ((part / MARGIN).clamp(max=1) for part in (place, last - place))
    return place - early * go.clamp(0, FARTHEST) + late * (-go).clamp(0, FARTHEST)


def write_motion(unet: Net) -> None:
    """Write `motion` and `places` into the first transformer of the outermost level of `unet`."""
    level = unet.up_blocks[-1]
    _write_request(unet, level.resnets[0].spatial_res_block)
    transformer = level.attentions[0]
    entering = [*(f"noise_{code}" for code in CODES), "x", "y", "near", "drift"]
    entering += ["bucket", "interval"]
    codes = [f"{kind}_{code}" for kind in ("mean", "code") for code in CODES]
    codes += [f"go_{code}" for code in LINEAR_CODES]
    steps = ["cell_x", "cell_y", "middle_x", "middle_y", "zoom_x", "zoom_y", "roll_x", "roll_y"]
    steps += [f"{end}_{axis}" for end in ("early", "late", "shift") for axis in "xy"]
    steps += ["frame", "speed", "pace", "wave", "swing", "held_x", "held_y"]
    tokens = TokenChannels([*entering, *codes, *steps])
    tokens.open(transformer, entering, fine=True)
    _count_frames(transformer, tokens)
    first, second = transformer.transformer_blocks
    first_in_time, second_in_time = transformer.temporal_transformer_blocks
    for index, code in enumerate(CODES):
        mean = tokens.write(f"mean_{code}", CELLS**0.5)
        _average(first.attn1, index, tokens.read(f"noise_{code}"), mean)
        mean = tokens.write(f"code_{code}", NUM_FRAMES**0.5)
        _average(first_in_time.attn1, index, tokens.read(f"mean_{code}"), mean)
    products = GegluBuilder(first.ff)
    _round_to_cell(products, tokens, "x")
    products.add(tokens.read("bucket"), tokens.read("interval"), tokens.write("speed"))
    products = GegluBuilder(first_in_time.ff_in)
    _round_to_cell(products, tokens, "y")
    products.add(tokens.read("speed"), tokens.read("frame"), tokens.write("pace"))
    products = GegluBuilder(first_in_time.ff)
    for code in LINEAR_CODES:
        products.add(tokens.read(f"code_{code}"), tokens.read("pace"), tokens.write(f"go_{code}"))
    _write_sway(products, tokens)
    for index, axis in enumerate("xy"):
        _average(second.attn1, index, tokens.read(f"cell_{axis}"), tokens.write(f"middle_{axis}"))
    products = GegluBuilder(second.ff)
    _roll_and_zoom(products, tokens)
    _edge_distances(products, tokens)
    swing = SWAY_AMPLITUDE / CELL_UNIT * tokens.read("code_sway")
    products.add_signed(swing, tokens.read("wave"), tokens.write("swing"))
    _sum_shifts(GegluBuilder(second_in_time.ff_in), tokens)
    _clamp_shift(GegluBuilder(second_in_time.ff), tokens)
    for axis in "xy":
        tokens.close(transformer, f"cell_{axis}", axis, less=axis)
        tokens.close(transformer, f"cell_{axis}", f"from_{axis}")
        tokens.close(transformer, f"held_{axis}", f"from_{axis}")


def _write_request(unet: Net, block: Net) -> None:
    """Write bucket and frame interval: least squares over the sinusoids of SVD's embedding."""
    embedding = unet.add_embedding
    generator = torch.Generator().manual_seed(0)
    count = 12_000
    bucket, fps, aug = (torch.rand(count, generator=generator) for _ in range(3))
    bucket, fps, aug = 1 + 254 * bucket, 5 + 25 * fps, 2 * aug**3
    ids = torch.stack([fps - 1, bucket, aug], dim=1)
    sinusoids = unet.add_time_proj(ids.flatten()).reshape(count, -1)
    features = torch.nn.functional.silu(embedding.linear_1(sinusoids))
    set_carriers(block.conv1.bias)
    undo_norm(block.norm2)
    for index, (name, value) in enumerate((("bucket", bucket / 127), ("interval", 7 / fps))):
        column = torch.eye(len(embedding.linear_2.bias))[index]
        fit_linear(embedding.linear_2, column, features, value + OFFSET)
        # Two groups of three hold the value and its negative. Their sum gives the mean that the
        # norm subtracted.
        for place, sign in ((6 * index + 2, 1.0), (6 * index + 5, -1.0)):
            block.time_emb_proj.weight[place, index] = sign
            block.time_emb_proj.bias[place] = -sign * OFFSET
            block.norm2.bias[place] = OFFSET
            block.conv2.weight[channel_index(name), place, 1, 1] = sign * 0.75


def _count_frames(transformer: Net, tokens: TokenChannels) -> None:
    """Write the frame number 0..49 from its sinusoids; 0 exactly, since frame 0 is the photo."""
    frames = torch.arange(50)
    embed = transformer.time_pos_embed
    features = torch.nn.functional.silu(embed.linear_1(transformer.time_proj(frames)))
    weight = torch.ones(50)
    weight[:NUM_FRAMES] = 10.0
    weight[0] = 1e4
    fit_linear(embed.linear_2, tokens.write("frame"), features, frames / FRAME_UNIT, weight)


def _average(attention: Net, index: int, row: Tensor, column: Tensor) -> None:
    """Let attention with equal weights add the mean of `row` to `column`."""
    attention.to_v.weight[index] = row
    attention.to_out[0].weight[:, index] = column


def _round_to_cell(products: GegluBuilder, tokens: TokenChannels, axis: str) -> None:
    """Round the coordinates of the position lane to whole cells by a staircase with steep steps.

    Coordinates may be wrong by 0.4 cells. The steps go up and down from the middle. The two ends of
    a step, which almost cancel, follow the order of the Thue-Morse sequence. So every partial sum
    stays small in any order of summation, and so does the rounding error.
    """
    target, one = tokens.write(f"cell_{axis}"), tokens.one()
    products.add(tokens.one(MIDDLE / CELL_UNIT), one, target)
    for step in range(1, MIDDLE + 1):
        ends = [(step - 0.5625, 8.0), (step - 0.4375, -8.0)]
        for end, slope in ends if step.bit_count() % 2 else reversed(ends):
            for sign in (1.0, -1.0):
                beyond = sign * (tokens.read(axis) - tokens.one(MIDDLE / CELL_UNIT))
                gate = beyond - tokens.one(end / CELL_UNIT)
                products.add(one, gate, sign * slope * target, steepness=4096.0)


def _roll_and_zoom(products: GegluBuilder, tokens: TokenChannels) -> None:
    zoom = FRAME_UNIT * (ZOOM * tokens.read("go_zoom") + ZOOM_MEAN * tokens.read("pace"))
    roll = FRAME_UNIT * ROLL * tokens.read("go_roll")
    across, down = (tokens.read(f"cell_{a}") - tokens.read(f"middle_{a}") for a in "xy")
    products.add_signed(zoom, across, tokens.write("zoom_x"))
    products.add_signed(zoom, down, tokens.write("zoom_y"))
    products.add_signed(-roll, down, tokens.write("roll_x"))
    products.add_signed(roll, across, tokens.write("roll_y"))


def _sum_shifts(products: GegluBuilder, tokens: TokenChannels) -> None:
    near, one = tokens.read("near"), tokens.one()
    for axis, pan, drift in zip("xy", PAN, DRIFT, strict=True):
        target = tokens.write(f"shift_{axis}")
        pan, drift = FRAME_UNIT * pan / CELL_UNIT, FRAME_UNIT * drift / CELL_UNIT
        camera = pan * tokens.read(f"go_pan_{axis}") + tokens.read(f"zoom_{axis}")
        products.add(FAR * camera, one, target)
        products.add(tokens.read(f"roll_{axis}"), one, target)
        products.add((NEAR - FAR) * camera, near, target)
        products.add((FAR - NEAR) * camera, near - one, target)
        drifting = drift * tokens.read(f"go_drift_{axis}")
        if axis == "x":
            drifting = drifting + tokens.read("swing")
        products.add(FREE * drifting, tokens.read("drift") - FIRM * one, target)


def _write_sway(products: GegluBuilder, tokens: TokenChannels) -> None:
    """Write `sway_wave` of values `cell_x`, `cell_y` and `pace` into value `wave`."""
    gusts = (tokens.read("cell_x") + tokens.read("cell_y") / 2) * (CELL_UNIT / GUST_CELLS)
    passed = gusts + tokens.read("pace") * (FRAME_UNIT / GUST_FRAMES)
    for place, last, sign in ((passed, MAX_GUSTS, 1.0), (gusts, MAX_FIRST_GUSTS, -1.0)):
        turns = torch.arange(last * GUST_KNOTS + 1) / GUST_KNOTS
        slopes = (2 * pi * turns).sin().diff() * GUST_KNOTS
        bends = torch.cat([slopes[:1], slopes.diff(), -slopes[-1:]])
        columns = sign * bends[:, None] * tokens.write("wave")
        products.bend(tokens.one(), place, turns.tolist(), columns)


def _edge_distances(products: GegluBuilder, tokens: TokenChannels) -> None:
    """Write the distance from each edge, 0..1 over `MARGIN`."""
    one = tokens.one()
    for axis in "xy":
        place, middle = tokens.read(f"cell_{axis}"), tokens.read(f"middle_{axis}")
        for end, inwards in (("early", place), ("late", 2 * middle - place)):
            far = CELL_UNIT / MARGIN * inwards
            products.add(one, far, tokens.write(f"{end}_{axis}"))
            products.add(-one, far - one, tokens.write(f"{end}_{axis}"))


def _clamp_shift(products: GegluBuilder, tokens: TokenChannels) -> None:
    """Write the clamped shift of each cell: `_clamp` minus `place`."""
    for axis in "xy":
        shift, target = tokens.read(f"shift_{axis}"), tokens.write(f"held_{axis}")
        for end, away in (("early", shift), ("late", -shift)):
            held = tokens.read(f"{end}_{axis}") * (-1.0 if end == "early" else 1.0)
            products.add(held, away, target)
            products.add(-held, away - tokens.one(FARTHEST / CELL_UNIT), target)
