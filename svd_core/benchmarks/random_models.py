"""Pipelines for comparisons: stock diffusers models from a folder or with random weights.

`tiny` has SVD-XT's structure with few channels. `svd-xt` with random weights has its full size, for
a GPU without the published weights. Default initialization keeps numbers near 1: times are real,
pictures are not.
"""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

from svd_core.checkpoints.table import CHECKPOINTS, Checkpoint, find_checkpoint
from svd_core.engine.optimizations.device_transfers import SvdPipeline
from svd_core.engine.pipeline_loader import open_folder, silence_library_logging
from svd_core.errors import ToolFailed

TINY = replace(
    CHECKPOINTS["svd-xt"], name="tiny", source="random weights", sizes=((256, 128),), num_frames=6,
    num_inference_steps=2,
)  # fmt: skip

PARTS = ("unet", "vae", "image_encoder")


def contest_checkpoint(name: str, random_weights: bool, cuda: bool) -> Checkpoint:
    """Checkpoint that `--model` names. Raises `ToolFailed`."""
    if name == TINY.name:
        return TINY
    if random_weights and name != "svd-xt":
        raise ToolFailed("--random-weights is for --model svd-xt; tiny has no others.")
    return CHECKPOINTS[name] if random_weights else find_checkpoint(name, cuda)


def open_stock(checkpoint: Checkpoint, random_weights: bool, device: str) -> Any:
    """Open a stock pipeline, in half precision for a GPU.

    Random weights are made on `device`, others are read onto the CPU. Raises `ToolFailed` if
    the weights are not on this machine.
    """
    if checkpoint is TINY or random_weights:
        return _random(checkpoint is TINY, device)
    folder = checkpoint.folder
    if folder is None:
        raise ToolFailed(
            f"A contest takes a folder's weights or random ones, not those of {checkpoint.source}: "
            "download it first, or add --random-weights."
        )
    ours = open_folder(folder, device == "cuda", lambda _had, _total: None)
    ours.unet.forward = ours.unet.forward.forward  # without our split guidance
    return _load_stock(**ours.components)


def full_size() -> tuple[Any, Any]:
    """SVD-XT's UNet and VAE in half precision, without numbers."""
    silence_library_logging()
    unet, vae = (random_part(part, False, "meta", torch.float16) for part in ("unet", "vae"))
    return unet, vae


def twin(stock: Any) -> Any:
    """Our pipeline of the same weights, which can be changed while `stock` stays."""
    return _silence(SvdPipeline(**deepcopy(stock.components)))


def random_part(part: str, tiny: bool, device: str, dtype: torch.dtype) -> Any:
    """`unet`, `vae` or `image_encoder` with default initialization, made on `device`.

    A CPU takes half a minute for SVD-XT's UNet.
    """
    silence_library_logging()
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(PARTS.index(part))
        made = {"unet": _unet, "vae": _vae, "image_encoder": _image_encoder}[part](tiny)
    return made.to(device, dtype).eval()  # mix factors are made on the CPU in any context


def _random(tiny: bool, device: str) -> Any:
    dtype = torch.float16 if device == "cuda" else torch.float32
    return _load_stock(
        **{part: random_part(part, tiny, device, dtype) for part in PARTS},
        scheduler=scheduler(),
        feature_extractor=CLIPImageProcessorPil(),
    )


def _load_stock(**parts: Any) -> Any:
    return _silence(StableVideoDiffusionPipeline(**parts))  # type: ignore[no-untyped-call]


def _silence(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _unet(tiny: bool) -> Any:
    """The defaults of the class are SVD-XT's, except for `sample_size`."""
    sizes: dict[str, Any] = {
        "block_out_channels": (32, 64, 96, 128),
        "layers_per_block": 1,
        "cross_attention_dim": 64,
        "num_attention_heads": (2, 4, 6, 8),
        "addition_time_embed_dim": 32,
        "projection_class_embeddings_input_dim": 96,
        "num_frames": TINY.num_frames,
        "sample_size": 32,
    }
    return UNetSpatioTemporalConditionModel(**(sizes if tiny else {"sample_size": 96}))  # type: ignore[no-untyped-call]


def _vae(tiny: bool) -> Any:
    return AutoencoderKLTemporalDecoder(  # type: ignore[no-untyped-call]
        down_block_types=("DownEncoderBlock2D",) * 4,
        block_out_channels=(32, 32, 32, 32) if tiny else (128, 256, 512, 512),
        layers_per_block=1 if tiny else 2,
        sample_size=768,
    )


def _image_encoder(tiny: bool) -> Any:
    """CLIP ViT-H/14, or two small layers."""
    names = ("hidden_size", "intermediate_size", "projection_dim", "num_hidden_layers",
             "num_attention_heads", "patch_size")  # fmt: skip
    sizes = (64, 256, 64, 2, 2, 32) if tiny else (1280, 5120, 1024, 32, 16, 14)
    config: dict[str, Any] = dict(zip(names, sizes, strict=True))
    return CLIPVisionModelWithProjection(CLIPVisionConfig(hidden_act="gelu", **config))


def scheduler(sigma_min: float = 0.002, sigma_max: float = 700.0) -> Any:
    """SVD-XT's scheduler, by default over its noise levels."""
    return EulerDiscreteScheduler(  # type: ignore[no-untyped-call]
        prediction_type="v_prediction",
        timestep_type="continuous",
        use_karras_sigmas=True,
        sigma_min=sigma_min,
        sigma_max=sigma_max,
        timestep_spacing="leading",
        steps_offset=1,
    )
