"""Motion model: from noise, motion bucket and fps to the place each cell is fetched from.

SVD's motion is free; a small net that may choose freely answers with the blur of all choices. So
the choice is tied to the noise: means of noise channels over the clip say how the camera pans,
rolls and moves in, which way things drift and how much they sway. Photo, noise and settings then
determine the clip, seeds stay meaningful, and one sampling step is enough. Near things move more
than far ones, as they do before a real camera.

Somewhat long: the motion in plain words and what is written down of it are to be read together.
"""

import torch
from torch import Tensor

from svd_core.training import channel_layout, sway
from svd_core.training.architecture import NUM_FRAMES, Net
from svd_core.training.channel_layout import CODES, FRAME, OFFSET, UNIT, WAYS, channel
from svd_core.training.handwritten_layers import GegluBuilder, TokenChannels, fit

CELLS = 128 * 72
"""Of every size svd-nano makes: 512x288, 288x512, 384x384 pixels."""

PAN = (0.36, 0.14)
"""Cells a frame (x, y) at bucket 127 and 7 fps, for noise one deviation off, at middle depth."""
ZOOM_MEAN, ZOOM = 0.0045, 0.0035
"""Share by which the picture grows each frame. Mostly inwards: no edge has to be invented then."""
ROLL = 0.0008
"""Radians a frame."""
DRIFT = (0.15, 0.03)
"""Cells a frame of what drifts by itself, beside the camera's motion."""

FIRM, FREE = 0.22, 3.0
"""What is as free as `FIRM` still stands fast, and what is freer moves so many times as much: the
scene net is seldom sure."""

FAR, NEAR = 0.35, 1.65
"""What the camera's pan and zoom are multiplied by at depth 0 (the horizon) and 1 (close by)."""

MIDDLE = 64
"""Cell from which whole cells are counted."""

MARGIN = 48.0
"""Cells from an edge over which the picture is stretched rather than drawn in from beyond it."""
FARTHEST = 0.9 * MARGIN
"""Cells by which a place may move at most, so that nothing is turned round at an edge."""


def motion(noise: Tensor, motion_bucket_id: float, fps: float) -> dict[str, Tensor]:
    """The codes that `noise` (num_frames, channels, height, width) stands for, `WAYS` times the
    pace of each frame, by name: shape (num_frames,). The plain words for what `write` writes
    down."""
    frames = len(noise)
    pace = torch.arange(frames) * speed(motion_bucket_id, fps)
    means = noise[:, : len(CODES)].mean(dim=(0, 2, 3)) * (CELLS * NUM_FRAMES) ** 0.5
    codes = dict(zip(CODES, means, strict=True))
    ways = {way: codes[way] * pace for way in WAYS}
    return ways | {"pace": pace, "sway": codes["sway"].expand(frames)}


def speed(motion_bucket_id: float, fps: float) -> float:
    """1 at bucket 127 and 7 fps. The bucket is a speed: more frames a second move less each."""
    return motion_bucket_id / 127 * 7 / fps


def places(motion: dict[str, Tensor], near: Tensor, drift: Tensor) -> tuple[Tensor, Tensor]:
    """The place (x, y) in cells that the content of each cell comes from, each
    (num_frames, height, width); `near`, `drift`: (height, width) in 0..1."""
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
    swing = sway.AMPLITUDE * part["sway"] * sway.wave(x, y, part["pace"])
    go_x = go_x + (DRIFT[0] * part["drift_x"] + swing) * free
    go_y = go_y + DRIFT[1] * part["drift_y"] * free
    return _clamp(x, go_x, width - 1), _clamp(y, go_y, height - 1)


def _clamp(place: Tensor, go: Tensor, last: float) -> Tensor:
    """Nothing may come from beyond the edges: what moves away from one is held by it."""
    early, late = ((part / MARGIN).clamp(max=1) for part in (place, last - place))
    return place - early * go.clamp(0, FARTHEST) + late * (-go).clamp(0, FARTHEST)


def write(unet: Net) -> None:
    """Write the same down in the first transformer of the outermost level."""
    level = unet.up_blocks[-1]
    _write_request(unet, level.resnets[0].spatial_res_block)
    transformer = level.attentions[0]
    entering = [*(f"noise_{code}" for code in CODES), "x", "y", "near", "drift"]
    entering += ["bucket", "interval"]
    codes = [f"{kind}_{code}" for kind in ("mean", "code") for code in CODES]
    codes += [f"go_{code}" for code in WAYS]
    own = ["cell_x", "cell_y", "middle_x", "middle_y", "zoom_x", "zoom_y", "roll_x", "roll_y"]
    own += [f"{end}_{axis}" for end in ("early", "late", "shift") for axis in "xy"]
    own += ["frame", "speed", "pace", "wave", "swing", "held_x", "held_y"]
    tokens = TokenChannels([*entering, *codes, *own])
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
    _snap(products, tokens, "x")
    products.add(tokens.read("bucket"), tokens.read("interval"), tokens.write("speed"))
    products = GegluBuilder(first_in_time.ff_in)
    _snap(products, tokens, "y")
    products.add(tokens.read("speed"), tokens.read("frame"), tokens.write("pace"))
    products = GegluBuilder(first_in_time.ff)
    for code in WAYS:
        products.add(tokens.read(f"code_{code}"), tokens.read("pace"), tokens.write(f"go_{code}"))
    sway.write(products, tokens)
    for index, axis in enumerate("xy"):
        _average(second.attn1, index, tokens.read(f"cell_{axis}"), tokens.write(f"middle_{axis}"))
    products = GegluBuilder(second.ff)
    _turn_and_grow(products, tokens)
    _near_edges(products, tokens)
    swing = sway.AMPLITUDE / UNIT * tokens.read("code_sway")
    products.add_signed(swing, tokens.read("wave"), tokens.write("swing"))
    _go(GegluBuilder(second_in_time.ff_in), tokens)
    _hold(GegluBuilder(second_in_time.ff), tokens)
    for axis in "xy":
        tokens.close(transformer, f"cell_{axis}", axis, less=axis)
        tokens.close(transformer, f"cell_{axis}", f"from_{axis}")
        tokens.close(transformer, f"held_{axis}", f"from_{axis}")


def _write_request(unet: Net, block: Net) -> None:
    """Bucket and frame interval, by least squares over the sinusoids that SVD embeds them with."""
    embedding = unet.add_embedding
    generator = torch.Generator().manual_seed(0)
    count = 12_000
    bucket, fps, aug = (torch.rand(count, generator=generator) for _ in range(3))
    bucket, fps, aug = 1 + 254 * bucket, 5 + 25 * fps, 2 * aug**3
    ids = torch.stack([fps - 1, bucket, aug], dim=1)
    sinusoids = unet.add_time_proj(ids.flatten()).reshape(count, -1)
    features = torch.nn.functional.silu(embedding.linear_1(sinusoids))
    channel_layout.set_carriers(block.conv1.bias)
    channel_layout.undo(block.norm2)
    for index, (name, value) in enumerate((("bucket", bucket / 127), ("interval", 7 / fps))):
        column = torch.eye(len(embedding.linear_2.bias))[index]
        fit(embedding.linear_2, column, features, value + OFFSET)
        # Two groups of three hold the value and its negative, which tells what the norm took off:
        # a third of what is even everywhere.
        for place, sign in ((6 * index + 2, 1.0), (6 * index + 5, -1.0)):
            block.time_emb_proj.weight[place, index] = sign
            block.time_emb_proj.bias[place] = -sign * OFFSET
            block.norm2.bias[place] = OFFSET
            block.conv2.weight[channel(name), place, 1, 1] = sign * 0.75


def _count_frames(transformer: Net, tokens: TokenChannels) -> None:
    """Frame number 0..49 from its sinusoids, and 0 as exactly as can be: frame 0 is the photo."""
    frames = torch.arange(50)
    embed = transformer.time_pos_embed
    features = torch.nn.functional.silu(embed.linear_1(transformer.time_proj(frames)))
    weight = torch.ones(50)
    weight[:NUM_FRAMES] = 10.0
    weight[0] = 1e4
    fit(embed.linear_2, tokens.write("frame"), features, frames / FRAME, weight)


def _average(attention: Net, index: int, row: Tensor, column: Tensor) -> None:
    """Attention that looks everywhere equally adds the mean of `row` to `column`."""
    attention.to_v.weight[index] = row
    attention.to_out[0].weight[:, index] = column


def _snap(products: GegluBuilder, tokens: TokenChannels, axis: str) -> None:
    """What the position net says, to the nearest whole cell: a staircase with steps so steep that
    coordinates may be wrong by 0.4 cells.

    It goes up and down from the middle, and the two ends of a step, which all but cancel, stand in
    the order of the Thue-Morse sequence: so every part of the sum stays small, however a processor
    divides it, and with it the rounding.
    """
    target, one = tokens.write(f"cell_{axis}"), tokens.one()
    products.add(tokens.one(MIDDLE / UNIT), one, target)
    for step in range(1, MIDDLE + 1):
        ends = [(step - 0.5625, 8.0), (step - 0.4375, -8.0)]
        for end, slope in ends if step.bit_count() % 2 else reversed(ends):
            for sign in (1.0, -1.0):
                beyond = sign * (tokens.read(axis) - tokens.one(MIDDLE / UNIT))
                gate = beyond - tokens.one(end / UNIT)
                products.add(one, gate, sign * slope * target, steepness=4096.0)


def _turn_and_grow(products: GegluBuilder, tokens: TokenChannels) -> None:
    zoom = FRAME * (ZOOM * tokens.read("go_zoom") + ZOOM_MEAN * tokens.read("pace"))
    roll = FRAME * ROLL * tokens.read("go_roll")
    across, down = (tokens.read(f"cell_{a}") - tokens.read(f"middle_{a}") for a in "xy")
    products.add_signed(zoom, across, tokens.write("zoom_x"))
    products.add_signed(zoom, down, tokens.write("zoom_y"))
    products.add_signed(-roll, down, tokens.write("roll_x"))
    products.add_signed(roll, across, tokens.write("roll_y"))


def _go(products: GegluBuilder, tokens: TokenChannels) -> None:
    near, one = tokens.read("near"), tokens.one()
    for axis, pan, drift in zip("xy", PAN, DRIFT, strict=True):
        target = tokens.write(f"shift_{axis}")
        pan, drift = FRAME * pan / UNIT, FRAME * drift / UNIT
        camera = pan * tokens.read(f"go_pan_{axis}") + tokens.read(f"zoom_{axis}")
        products.add(FAR * camera, one, target)
        products.add(tokens.read(f"roll_{axis}"), one, target)
        products.add((NEAR - FAR) * camera, near, target)
        products.add((FAR - NEAR) * camera, near - one, target)
        own = drift * tokens.read(f"go_drift_{axis}")
        if axis == "x":
            own = own + tokens.read("swing")
        products.add(FREE * own, tokens.read("drift") - FIRM * one, target)


def _near_edges(products: GegluBuilder, tokens: TokenChannels) -> None:
    """How far from each edge, 0..1 over `MARGIN`."""
    one = tokens.one()
    for axis in "xy":
        place, middle = tokens.read(f"cell_{axis}"), tokens.read(f"middle_{axis}")
        for end, inwards in (("early", place), ("late", 2 * middle - place)):
            far = UNIT / MARGIN * inwards
            products.add(one, far, tokens.write(f"{end}_{axis}"))
            products.add(-one, far - one, tokens.write(f"{end}_{axis}"))


def _hold(products: GegluBuilder, tokens: TokenChannels) -> None:
    """How far from itself each cell comes from, in plain words: `_clamp` less `place`."""
    for axis in "xy":
        shift, target = tokens.read(f"shift_{axis}"), tokens.write(f"held_{axis}")
        for end, away in (("early", shift), ("late", -shift)):
            held = tokens.read(f"{end}_{axis}") * (-1.0 if end == "early" else 1.0)
            products.add(held, away, target)
            products.add(-held, away - tokens.one(FARTHEST / UNIT), target)
