"""The shape of svd-nano: stock diffusers classes with small numbers, saved to one folder."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

Net = Any
"""A torch module of diffusers or transformers; their layers are invisible to type checkers."""

NUM_FRAMES = 14
SIZES = ((512, 288), (288, 512), (384, 384))
"""(width, height) in pixels, all with the same number of pixels."""

LATENT_CHANNELS = 16
PATCH = 8
"""Pixels of a photo along one side of a latent cell."""

UNET_WIDTH = 192
"""One level at the resolution of the latents: 32 norm groups of six, as `warping` needs."""

VAE_CHANNELS = (96, 64, 96, 96)
"""Full resolution first. Three channels a group where the decoder ends: with fewer, GroupNorm
removes the brightness of a picture and nothing after it can bring that back."""

CLIP_WIDTH = 32
SIGMA_MIN, SIGMA_MAX = 300.0, 700.0


def unet() -> Net:
    """One level only: what a shift needs is neighbours and gates, not a pyramid."""
    return UNetSpatioTemporalConditionModel(  # type: ignore[no-untyped-call]
        sample_size=64,
        in_channels=2 * LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("CrossAttnDownBlockSpatioTemporal",),
        up_block_types=("CrossAttnUpBlockSpatioTemporal",),
        block_out_channels=(UNET_WIDTH,),
        layers_per_block=1,
        cross_attention_dim=CLIP_WIDTH,
        num_attention_heads=4,
        addition_time_embed_dim=64,
        projection_class_embeddings_input_dim=192,
        num_frames=NUM_FRAMES,
    )


def vae() -> Net:
    """Latents enter the UNet as they are (`scaling_factor` 1), with a mean variance of about 1."""
    return AutoencoderKLTemporalDecoder(  # type: ignore[no-untyped-call]
        down_block_types=("DownEncoderBlock2D",) * 4,
        block_out_channels=VAE_CHANNELS,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        sample_size=512,
        scaling_factor=1.0,
        force_upcast=False,
    )


def image_encoder() -> Net:
    config = CLIPVisionConfig(
        hidden_size=CLIP_WIDTH,
        intermediate_size=4 * CLIP_WIDTH,
        projection_dim=CLIP_WIDTH,
        num_hidden_layers=1,
        num_attention_heads=4,
        image_size=224,
        patch_size=32,
    )
    return CLIPVisionModelWithProjection(config)


def scheduler() -> Net:
    """SVD's own sampler, over the noise levels (sigma) this checkpoint was trained for."""
    return EulerDiscreteScheduler(  # type: ignore[no-untyped-call]
        prediction_type="v_prediction",
        timestep_type="continuous",
        use_karras_sigmas=True,
        sigma_min=SIGMA_MIN,
        sigma_max=SIGMA_MAX,
        timestep_spacing="leading",
        steps_offset=1,
    )


def save(folder: Path, parts: dict[str, Any], dials: dict[str, Any]) -> None:
    """Write a checkpoint folder in half precision, and `svd.json` with the dials the app reads.

    `parts`: `unet`, `vae` and `image_encoder` by name; each is copied, not changed.
    """
    half: dict[str, Any] = {}
    for name, make in (("unet", unet), ("vae", vae), ("image_encoder", image_encoder)):
        module = make()
        module.load_state_dict(parts[name].state_dict())
        half[name] = module.to(torch.float16)
    pipeline: Any = StableVideoDiffusionPipeline(  # type: ignore[no-untyped-call]
        **half, scheduler=scheduler(), feature_extractor=CLIPImageProcessorPil()
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    (folder / "svd.json").write_text(json.dumps(dials, indent=2) + "\n")
