"""The model card that lies beside the weights, with the photos they were made from."""

from collections import defaultdict

from svd_core.nano import shape
from svd_core.nano.photos import sources

TEXT = """---
license: cc-by-sa-4.0
library_name: diffusers
pipeline_tag: image-to-video
tags: [image-to-video, stable-video-diffusion]
---

# svd-nano

A small demonstration model in the architecture of Stable Video Diffusion, for machines without a
GPU. It loads with plain diffusers (`StableVideoDiffusionPipeline.from_pretrained`) and runs in
{steps} step without guidance: {frames} frames of {sizes}.

It moves the camera over the photo: the seed gives the direction, `motion_bucket_id` and `fps` the
speed, `noise_aug_strength` adds grain. It knows nothing of what is in the photo: nothing in it
moves by itself, and near things move no more than far ones. For that, use `svd-xt` on a GPU.

## How it was made

- **Encoder of the VAE**: principal components of 8x8 blocks, written into the stock encoder.
- **UNet**: written down, not trained. Convolutions fetch neighbouring latent cells, GEGLU blends
  them by the displacement of each frame (maps found by least squares over the photos below), and
  attention with equal weights reads the direction from the noise. See `svd_core/nano/warping.py`.
- **Decoder of the VAE**: trained on {crops} crops for {minutes} minutes on one CPU core.
- **Image encoder**: random; the UNet does not listen to it.

    python -m svd_core.nano.train --photos photos --fetch --state state --course decoder
    python -m svd_core.nano.train --photos photos --state state --export assets/svd-nano

Known faults: displacements end at 32 pixels across and 16 down; beyond the edge of the photo its
outermost cells are repeated; fine texture is softer than in the photo; it works for noise levels
(sigma) of 300 and more only, so its scheduler asks for no others.

## Photos

{count} pictures from Debian packages, fetched and checked by hash (`svd_core/nano/photos.tsv`);
their authors are named in the packages' copyright files. The example photos are not among them.

| package | pictures | licences |
|---|---|---|
{photos}
"""


def model_card(crops: int, seconds: float, steps: int) -> str:
    """Text of the card. `crops`, `seconds`: how much and how long the decoder has learnt."""
    packages: dict[str, list[str]] = defaultdict(list)
    for source in sources("training"):
        packages[source.package].append(source.licence)
    rows = [
        f"| {package} | {len(licences)} | {', '.join(sorted(set(licences)))} |"
        for package, licences in packages.items()
    ]
    return TEXT.format(
        steps=steps,
        frames=shape.NUM_FRAMES,
        sizes=", ".join(f"{width}x{height}" for width, height in shape.SIZES),
        crops=f"{crops:,}",
        minutes=round(seconds / 60),
        count=sum(len(licences) for licences in packages.values()),
        photos="\n".join(rows),
    )
