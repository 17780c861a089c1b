"""Pipeline loader: a checkpoint folder as a diffusers pipeline, placed on a device by a plan.

Only this module knows how a diffusers pipeline is put together.
"""

import gc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    UNetSpatioTemporalConditionModel,
)
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError, safe_open
from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection
from transformers.utils import logging as transformers_logging

from svd_core.checkpoints.hub import OnBytes, files_in, needed_files, weight_files
from svd_core.checkpoints.memory_plan import MemoryPlan, ModelSizes
from svd_core.engine.devices import find_device as find_device
from svd_core.engine.devices import first_line
from svd_core.engine.devices import is_out_of_memory as is_out_of_memory
from svd_core.engine.optimizations.guidance import Guidance
from svd_core.engine.optimizations.kernels import FOLDED, Kernels
from svd_core.engine.optimizations.patching import unpatch
from svd_core.engine.optimizations.registry import (
    apply_optimizations,
    check_diffusers,
    optimizations_for,
)
from svd_core.engine.optimizations.torch_compile import compile_pipeline, forget_blocks
from svd_core.errors import ModelBroken, OutOfMemory, SvdError

CLASSES: Mapping[str, Any] = {
    "image_encoder": CLIPVisionModelWithProjection,
    "unet": UNetSpatioTemporalConditionModel,
    "vae": AutoencoderKLTemporalDecoder,
}
"""Class of each part of a checkpoint that has weights."""

ALIGNMENT = 64
"""Alignment in bytes of memory that torch allocates on a CPU."""


def open_folder(folder: Path, half: bool, on_bytes: OnBytes) -> Any:
    """The pipeline in `folder`, on the CPU; float16 if `half`, else float32.

    Each part is read by its own class rather than as `model_index.json` says: a damaged file is
    then named, nothing unexpected is imported, and the published preprocessor config needs no
    torchvision. Raises `ModelBroken`, naming the file.
    """
    silence_library_logging()
    check_diffusers()
    files = files_in(folder)
    needed_files(files, half, str(folder))
    weights = {part: weight_files(files, part, half, str(folder)) for part in CLASSES}
    sizes = {p: sum((folder / f).stat().st_size for f in weights[p]) for p in CLASSES}
    loaded, total = 0, sum(sizes.values())
    parts = {}
    for part in CLASSES:
        on_bytes(loaded, total)
        parts[part] = _open_part(folder, part, weights[part], half)
        loaded += sizes[part]
    on_bytes(loaded, total)
    # Imported after logging is silenced, since its own imports print warnings.
    from svd_core.engine.optimizations.device_transfers import SvdPipeline

    pipeline = SvdPipeline(
        **parts,
        scheduler=_open_small(EulerDiscreteScheduler, folder / "scheduler"),
        feature_extractor=_open_small(CLIPImageProcessorPil, folder / "feature_extractor"),
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.unet.forward = Guidance(pipeline.unet.forward)
    return pipeline


def model_sizes(pipeline: Any) -> ModelSizes:
    """Sizes of an opened pipeline, for its memory plan."""
    counts = {part: _count(getattr(pipeline, part)) for part in CLASSES}
    upcast = pipeline.vae.config.force_upcast
    return ModelSizes(
        **counts,
        vae_float32=sum(map(_count, _encoder_parts(pipeline.vae))) if upcast else 0,
        unet_channels=pipeline.unet.config.block_out_channels[0],
        vae_channels=pipeline.vae.config.block_out_channels[0],
    )


def _count(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def place(pipeline: Any, plan: MemoryPlan, compiled: bool = False) -> None:
    """Place `pipeline` as `plan` says, with the optimizations that save time there.

    `compiled`: compile its blocks when they are next used; not with sequential offload.
    """
    pipeline.remove_all_hooks()
    pipeline.unet_stream = None
    pipeline.unet.forward.split = plan.split_guidance
    pipeline.unet.forward.kernels = pipeline.kernels
    if plan.dtype == "bfloat16":
        if not plan.single_unet:
            pipeline.unet.forward.dtype = torch.bfloat16
            pipeline.unet.to(torch.bfloat16)
        _to_bfloat16(pipeline.vae.decoder)
    if plan.dtype == "float16" and pipeline.vae.config.force_upcast:
        # If the encoder is in float16, stock converts the whole VAE for each clip and back.
        for part in _encoder_parts(pipeline.vae):
            part.to(torch.float32)
    if plan.device == "cpu":
        _align_weights(pipeline)
    kernels: Kernels = pipeline.kernels
    layouts = {"unet": kernels.unet, "vae": kernels.decoder}
    if plan.device == "cuda":
        kernels.unet.arrange(pipeline.unet)
        kernels.decoder.arrange(pipeline.vae.decoder)
    folded = {part: [FOLDED] for part, layout in layouts.items() if layout.folded}
    apply_optimizations(pipeline, optimizations_for(plan), kernels.clip_norm, also=folded)
    if compiled:
        compile_pipeline(pipeline, plan)
    if plan.offload == "none":
        pipeline.to(plan.target)
    elif plan.offload == "model":
        pipeline.enable_model_cpu_offload(device=plan.target)
    else:
        pipeline.to("cpu")
        pipeline.enable_sequential_cpu_offload(device=plan.target)
    torch.cuda.empty_cache()


def _align_weights(pipeline: Any) -> None:
    """Copy weights that are not aligned, as when they are mapped from their file.

    The processor's kernels add those up in another order, so that pixels would depend on the length
    of the file's header.
    """
    for part in CLASSES:
        for parameter in getattr(pipeline, part).parameters():
            if parameter.data_ptr() % ALIGNMENT:
                parameter.data = parameter.data.clone()


def _to_bfloat16(module: Any) -> None:
    """Convert to bfloat16, channels last: a CPU decodes in 0.7 of the time with that layout."""
    module.to(torch.bfloat16)
    for parameter in module.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def _encoder_parts(vae: Any) -> tuple[Any, Any]:
    return vae.encoder, vae.quant_conv


def reset(pipeline: Any) -> None:
    """Make `pipeline` ready for the next video, also after one that was stopped."""
    pipeline.maybe_free_model_hooks()
    torch.cuda.empty_cache()


def unload(pipeline: Any) -> None:
    """Remove the weights from `pipeline`.

    This frees their memory even while a traceback, or a cycle of hooks, keeps the layers alive.
    """
    pipeline.remove_all_hooks()
    pipeline.unet_stream = None
    for part in CLASSES:
        model = getattr(pipeline, part)
        unpatch(model)
        model.to("meta")
    forget_blocks()
    gc.collect()
    torch.cuda.empty_cache()


def silence_library_logging() -> None:
    """Keep the progress bars and warnings of diffusers and transformers off the terminal.

    They are false alarms: about torchvision for a processor that is never used, and about the
    VAE's precision. Failures are raised.
    """
    library: Any
    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


def _open_part(folder: Path, part: str, files: list[str], half: bool) -> Any:
    for file in files:
        if file.endswith(".safetensors"):
            _check_weights(folder / file)
    try:
        model, info = CLASSES[part].from_pretrained(
            folder / part,
            dtype=torch.float16 if half else torch.float32,
            variant="fp16" if ".fp16" in files[0] else None,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # a wrong config makes the libraries raise anything
        raise _unusable(folder / part, CLASSES[part], error) from error
    # Both libraries fill in random numbers for weights that a file lacks, and go on.
    wrong = [*info["missing_keys"], *map(str, info["mismatched_keys"])]
    if wrong:
        path = str(folder / files[-1])
        raise ModelBroken("model_weights_missing", path=path, count=len(wrong), name=wrong[0])
    return model.eval()


def _check_weights(path: Path) -> None:
    """Raises `ModelBroken` for a file that is cut short or no safetensors."""
    try:
        with safe_open(path, framework="pt") as file:
            file.keys()
    except (SafetensorError, OSError) as error:
        raise ModelBroken("model_file_damaged", path=str(path), reason=str(error)) from error


def _open_small(kind: Any, folder: Path) -> Any:
    try:
        return kind.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # as above
        raise _unusable(folder, kind, error) from error


def _unusable(path: Path, kind: type, error: Exception) -> SvdError:
    if is_out_of_memory(error):
        return OutOfMemory("memory_too_small_to_load", model=str(path))
    reason = first_line(error)
    return ModelBroken("model_part_unusable", path=str(path), kind=kind.__name__, reason=reason)
