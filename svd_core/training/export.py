"""Export of the training state to a checkpoint folder, with its model card.

The app or plain diffusers loads the folder. The card names the training photos.
"""

import csv
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from svd_core.errors import ToolFailed
from svd_core.training import architecture, depth_net
from svd_core.training.dataset import sources
from svd_core.training.stages import COURSES, TrainingContext

DIALS: dict[str, Any] = {
    "sizes": [list(size) for size in architecture.SIZES],
    "num_frames": architecture.NUM_FRAMES,
    "num_inference_steps": 1,
    "min_guidance_scale": 1.0,
    "max_guidance_scale": 1.0,
    "half_precision_on_cpu": True,
    "single_precision_unet": True,
}
"""Model defaults that the app reads; guidance 1 means one pass of the UNet per step."""

REQUIRED_COURSES = ("position", "scene", "decoder")

MAX_COORDINATE_ERROR = 0.375
"""Cells by which coordinates may be wrong and still be rounded to the right cell."""


def export(context: TrainingContext, folder: Path) -> None:
    """Write the averaged weights of all courses into checkpoint `folder`.

    Raises `SvdError` if a required course is missing, or if a coordinate of any cell of any size is
    not yet exact enough.
    """
    for course in REQUIRED_COURSES:
        if not (context.state / f"{course}.pt").exists():
            raise ToolFailed(f"{course}.pt is missing in {context.state}: train that course first.")
    nets = context.nets()
    with torch.no_grad():
        worst = max(float(error.abs().max()) for error in depth_net.coordinate_errors(nets["unet"]))
    if worst > MAX_COORDINATE_ERROR:
        raise ToolFailed(
            f"A coordinate is off by {worst:.2f} cells, more than {MAX_COORDINATE_ERROR}: "
            "train the course `position` for longer."
        )
    architecture.save(folder, nets, DIALS)
    (folder / "README.md").write_text(model_card(context.state))


# Model card


VERSIONS = Path(__file__).with_name("data") / "versions.tsv"
"""Shipped versions: date, compute, and the figures of `evaluate`."""

STEPS = Path(__file__).with_name("data") / "steps.tsv"
"""Table of `step_ablation` for the last version, without seconds: all steps take equally long."""

TEXT = """---
license: cc-by-sa-4.0
library_name: diffusers
pipeline_tag: image-to-video
tags: [image-to-video, stable-video-diffusion]
---

# svd-nano

A small demonstration model in the architecture of Stable Video Diffusion, for machines without a
GPU. It loads with plain diffusers (`StableVideoDiffusionPipeline.from_pretrained`, in single
precision) and runs in {steps} step without guidance: {frames} frames of {sizes}.

It moves a camera in front of the photo: inwards, sideways, with a little roll. Near things move
more than far ones, and loose things, such as sky and water, drift and sway in gusts. The seed gives
the direction, `motion_bucket_id` and `fps` give the speed, and `noise_aug_strength` adds grain. The
model guesses depth from the photo but does not recognize its content: people do not walk, and
wheels do not turn. For that, use `svd-xt` on a GPU.

![Frames 0, 4, 9 and 13 of each example](sheet.jpg)

The example videos, at bucket 160 (`python -m svd_core.training.sample_sheets`). Good: the cat, the
cup and the portraits, with a correct depth and a sharp picture. Bad: the temple, whose far shore
moves with the tree, and whose leaves are as rough as in the photo but change a little from frame to
frame; the galaxies, where the model sees near things although there are none.

## How it was made

- **Encoder of the VAE**: principal components of 4x4 blocks, written into the stock encoder.
- **Decoder of the VAE**: trained. Time layers and the last level's branches add zero.
- **UNet, outermost level**: written by hand, not trained. Attention with sinusoids of place as
  queries and keys fetches each cell from its source, GEGLU multiplies and shifts within the cell,
  and attention with equal weights reads the motion from the noise. See `warp_attention.py` and
  `motion_model.py` in `svd_core/training`.
- **UNet, inner levels**: trained on photos with hand-drawn sketches of depth
  (`depth_annotations.json`): what is near and what may drift. A quarter of their channels compute
  the coordinates of each cell from the zero padding at the edges.
- **Image encoder**: random; the UNet ignores it.

| course | steps | pictures | minutes on one or two CPU cores |
|---|---|---|---|
{courses}

    python -m svd_core.training.train --photos photos --fetch --state state --course position
    python -m svd_core.training.train --photos photos --state state --course scene
    python -m svd_core.training.train --photos photos --state state --course decoder
    python -m svd_core.training.train --photos photos --state state --export assets/svd-nano

One step is enough. The first step gives a whole clip at any noise level (sigma) from 300 on, and
its scheduler uses no others. More steps do not improve the picture. They give a different clip,
which moves more slowly, regardless of their number. The table is from
`python -m svd_core.training.step_ablation`, for two example photos at bucket 127. Motion is in
pixels per frame, and `as_first` is the PSNR against the clips of the first line:

{least}

## Versions

Figures of `python -m svd_core.training.evaluate --photos held-out --fetch`, or of `--quick`, on 2
cores of an AMD EPYC. The module `metrics` defines them. A dash: not measured.

{versions}

## Known faults

- When something near moves in front of something far, the uncovered part is stretched, not
  invented.
- Depth is a guess from 80 pictures, many of them wallpapers. It may mistake a face for a wall, or a
  pattern for a thing, and it finds loose things only roughly.
- The picture is stretched at an edge that it moves away from: nothing new comes in.
- Cells are shifted linearly, which cannot predict the finest texture. So texture is amplified: it
  stays rough, and crawls a little.

## Photos

{count} pictures from Debian packages, downloaded and checked by hash
(`svd_core/training/data/photos.tsv`). The packages' copyright files name their authors. {kept} more
of the same packages and the example photos are reserved for the evaluation.

| package | pictures | licences |
|---|---|---|
{photos}
"""


def model_card(state: Path) -> str:
    """Text of the model card for the courses in folder `state`."""
    licences: dict[str, list[str]] = defaultdict(list)
    for source in sources("training"):
        licences[source.package].append(source.licence)
    courses = []
    for name in COURSES:
        path = state / f"{name}.pt"
        if path.exists():
            saved = torch.load(path, map_location="cpu", weights_only=True)
            steps, pictures, seconds = saved["numbers"]
            courses.append(f"| {name} | {steps:,} | {pictures or '-'} | {seconds / 60:.0f} |")
    return TEXT.format(
        steps=1,
        frames=architecture.NUM_FRAMES,
        sizes=", ".join(f"{width}x{height}" for width, height in architecture.SIZES),
        courses="\n".join(courses),
        versions=_table(VERSIONS),
        least=_table(STEPS),
        count=sum(map(len, licences.values())),
        kept=sum(1 for _ in sources("evaluation")),
        photos="\n".join(
            f"| {package} | {len(each)} | {', '.join(sorted(set(each)))} |"
            for package, each in licences.items()
        ),
    )


def _table(path: Path) -> str:
    """Markdown table of a file of tab-separated values, whose first line is the head."""
    with path.open(newline="") as table:
        head, *rows = csv.reader(table, delimiter="\t")
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
