"""Memory plan: offload mode and decode chunk size that fit the memory of the device.

The plans are made from counted bytes, the constants of this module.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from svd_core.checkpoints.table import Checkpoint
from svd_core.messages import Message

Offload = Literal["none", "model", "sequential"]
OffloadSetting = Literal["auto", "none", "model", "sequential"]
GIB = 2**30

# Activations of one UNet step of SVD-XT in half precision with our rewrites, counted over all live
# tensors: 5.95 GiB for 25 frames of 1024x576 with guidance (29.5 million pixels), 3.84 without,
# 4.06 for 14 frames, 3.17 at 576x320. (Stock takes 9.27, 5.25, 5.88 and 3.95.) All are on this
# line, which is scaled with the width of the outer level.
UNET_FIXED = 1.8 * GIB
UNET_PER_PIXEL = 0.1393 * GIB / 1e6
UNET_CHANNELS = 320

# Decoding in half precision at 128 channels, counted by `python -m svd_core.benchmarks plans`. All
# frames of 1024x576 at once take 1.125 GiB each in stock, and an eighth less here, left as a
# margin. In slices: bytes for the whole clip, and for each frame of a slice on top. 25 frames take
# 6.0 GiB one by one and 8.1 by fours, and 28.1 in stock.
DECODE_PER_PIXEL = 1.125 * GIB / (1024 * 576)
CLIP_PER_PIXEL = 5.301 * GIB / (25 * 1024 * 576)
SLICE_PER_PIXEL = 0.703 * GIB / (1024 * 576)
VAE_CHANNELS = 128

# Share of the UNet's weights on the GPU with sequential offload: two of SVD-XT's largest blocks, of
# 201 MB each, and 9 MB that belong to no block, of 3.05 GB.
STREAMED_SHARE = 0.135

# cuDNN's workspaces, the CUDA context and fragmentation take the rest of a GPU.
USABLE_SHARE = 0.9

# Memory for decoding without a GPU: one frame of svd-nano, with tensors of at most 28 MB. Above 32
# MB glibc requests zeroed pages each time, so four frames at once take 1.3 times as long.
CPU_DECODE_BYTES = 0.25 * GIB

# Half of an RTX Pro 6000, the default share of a ZeroGPU Space, which cannot be measured at the
# start, when weights are placed.
ZERO_GPU_BYTES = 48 * 10**9


@dataclass(frozen=True, kw_only=True)
class Device:
    """The device that models run on, with its memory.

    `name`: in words, for people. Bytes are of GPU memory, and 0 without a GPU. `index`: CUDA's
    number of the GPU. `zero_gpu`: a GPU that is lent for each call (a Hugging Face ZeroGPU Space).
    `float16`: False for a GPU that computes NaN in it. `bfloat16`: whether a CPU multiplies in it
    (AVX512-BF16); others emulate it, slower than float32. `notice`: a message for the user on why
    this device was chosen, None for the expected one.
    """

    kind: Literal["cpu", "cuda"]
    name: str
    total_bytes: int
    free_bytes: int
    index: int = 0
    zero_gpu: bool = False
    float16: bool = True
    bfloat16: bool = False
    notice: str | None = None


@dataclass(frozen=True, kw_only=True)
class ModelSizes:
    """Sizes of a checkpoint that memory depends on: parameters, and channels at the outer levels.

    `vae_float32`: parameters of the VAE's encoder, which stay in float32 on a GPU. The defaults are
    those of Stable Video Diffusion's published checkpoints.
    """

    unet: int = 1_524_623_082
    vae: int = 97_742_847
    image_encoder: int = 632_076_800
    vae_float32: int = 34_163_664
    unet_channels: int = UNET_CHANNELS
    vae_channels: int = VAE_CHANNELS


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """How a clip is made within the memory of the device.

    `offload`: "none" keeps all weights on the GPU, "model" one model at a time, and "sequential"
    one block of the UNet at a time. `split_guidance`: the two halves of a guided step run one after
    the other, with the same result and less memory. `decode_chunk_size`: frames decoded together,
    also with the same result. Without `whole_clip` each chunk is a clip of its own, as in stock,
    which takes less memory and looks slightly different. `dtype`: of the UNet, unless
    `single_unet`, and of the decoder. `index`: CUDA's number of the GPU. It is not in `repr`, since
    compiled code does not depend on it.
    """

    device: Literal["cpu", "cuda"]
    index: int = field(default=0, repr=False)
    dtype: Literal["float16", "bfloat16", "float32"]
    single_unet: bool = False
    offload: Offload = "none"
    split_guidance: bool = False
    decode_chunk_size: int
    whole_clip: bool = True

    @property
    def target(self) -> str:
        """The device as torch names it: "cpu", or "cuda:0"."""
        return "cpu" if self.device == "cpu" else f"cuda:{self.index}"

    def smaller(self) -> "MemoryPlan | None":
        """The next plan to try when memory ran out, clearly smaller everywhere; None: no other."""
        chunk = max(1, self.decode_chunk_size // 2)
        step = replace(self, split_guidance=True, decode_chunk_size=chunk)
        if self.device == "cuda" and self.offload == "none":
            step = replace(step, offload="model")
        elif self.device == "cuda" and self.offload == "model" and self.split_guidance:
            step = replace(step, offload="sequential", decode_chunk_size=1)
        elif self.device == "cuda" and self.offload == "sequential" and self.split_guidance:
            step = replace(step, decode_chunk_size=1, whole_clip=False)
        return None if step == self else step

    def describe(self) -> Message:
        """Text for people, e.g. "model offload, 4 frames decoded at once"."""
        parts = [] if self.offload == "none" else [Message("plan_offload", way=self.offload)]
        if self.split_guidance:
            parts.append(Message("plan_split_guidance"))
        if self.decode_chunk_size == 1:
            parts.append(Message("plan_one_frame"))
        else:
            parts.append(Message("plan_frames", count=self.decode_chunk_size))
        if not self.whole_clip:
            parts.append(Message("plan_apart"))
        return Message("plan", parts=parts)


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of one video: weights of all parts, of the UNet and of the VAE, and activations.

    `step`, `split_step`: of one step, whole and with split guidance. `frame`: of each frame if all
    are decoded at once. `clip`, `sliced_frame`: of the whole clip, and of each frame on top, if
    some of `num_frames` are decoded at a time.
    """

    weights: float
    unet_weights: float
    vae_weights: float
    step: float
    split_step: float
    frame: float
    clip: float
    sliced_frame: float
    num_frames: int

    def decode(self, chunk_size: int, whole_clip: bool = True) -> float:
        """Bytes of activations while `chunk_size` frames are decoded at a time."""
        if whole_clip and chunk_size < self.num_frames:
            return self.clip + self.sliced_frame * chunk_size
        return self.frame * chunk_size

    def frames_within(self, room: float) -> tuple[int, bool]:
        """Frames that can be decoded at a time in `room` bytes, and whether as a whole clip."""
        if self.decode(self.num_frames) <= room:
            return self.num_frames, True
        if self.decode(1) <= room:
            most = int((room - self.clip) / self.sliced_frame)
            return min(self.num_frames - 1, max(1, most)), True
        return _even_chunks(self.num_frames, room / self.frame), False

    def peak(self, plan: MemoryPlan) -> float:
        """Bytes at the worst moment of a video made by `plan`."""
        step = self.split_step if plan.split_guidance else self.step
        decode = self.decode(plan.decode_chunk_size, plan.whole_clip)
        return max(
            self.unet_weights_beside(plan.offload) + step,
            self.vae_weights_beside(plan.offload) + decode,
        )

    def unet_weights_beside(self, offload: Offload) -> float:
        """Bytes of weights on the GPU while the UNet works."""
        return {
            "none": self.weights,
            "model": self.unet_weights,
            "sequential": STREAMED_SHARE * self.unet_weights,
        }[offload]

    def vae_weights_beside(self, offload: Offload) -> float:
        """Bytes of weights on the GPU while the VAE works."""
        return self.weights if offload == "none" else self.vae_weights


def estimate_memory(
    checkpoint: Checkpoint, parts: ModelSizes, bytes_per_number: int
) -> MemoryEstimate:
    """Memory for a video of the checkpoint's largest size and default number of frames."""
    pixels = max(width * height for width, height in checkpoint.sizes)
    halves = 2 if checkpoint.max_guidance_scale > 1 else 1
    unet_scale = parts.unet_channels / UNET_CHANNELS * bytes_per_number / 2
    vae_scale = parts.vae_channels / VAE_CHANNELS * bytes_per_number / 2
    step = UNET_PER_PIXEL * pixels * checkpoint.num_frames
    float32 = parts.vae_float32 * (4 - bytes_per_number)  # what float32 takes on top
    return MemoryEstimate(
        weights=(parts.unet + parts.vae + parts.image_encoder) * bytes_per_number + float32,
        unet_weights=parts.unet * bytes_per_number,
        vae_weights=parts.vae * bytes_per_number + float32,
        step=(UNET_FIXED + step * halves) * unet_scale,
        split_step=(UNET_FIXED + step) * unet_scale,
        frame=DECODE_PER_PIXEL * pixels * vae_scale,
        clip=CLIP_PER_PIXEL * pixels * vae_scale * checkpoint.num_frames,
        sliced_frame=SLICE_PER_PIXEL * pixels * vae_scale,
        num_frames=checkpoint.num_frames,
    )


def plan_memory(
    device: Device,
    checkpoint: Checkpoint,
    parts: ModelSizes | None = None,
    offload: OffloadSetting = "auto",
) -> MemoryPlan:
    """The fastest plan that fits.

    `auto` keeps all weights on a GPU only if they and the peak fit twice, which leaves room for
    other programs and larger requests. Another `offload` may use all free memory; if that is not
    enough, the next smaller one is planned. `offload` has no effect without a GPU, nor on ZeroGPU,
    where weights always stay. `parts`: those of the published SVD by default.
    """
    number_bytes = bytes_per_number(device, checkpoint)
    needs = estimate_memory(checkpoint, parts or ModelSizes(), number_bytes)
    if device.kind == "cpu":
        return MemoryPlan(
            device="cpu",
            dtype="bfloat16" if number_bytes == 2 else "float32",
            single_unet=checkpoint.single_precision_unet,
            decode_chunk_size=_even_chunks(checkpoint.num_frames, CPU_DECODE_BYTES / needs.frame),
        )

    def on_gpu(way: Offload, limit: float, room: float) -> MemoryPlan:
        """`limit`: bytes for a step and its weights; `room`: those for decoding and its weights."""
        at_once, whole_clip = needs.frames_within(room - needs.vae_weights_beside(way))
        return MemoryPlan(
            device="cuda",
            index=device.index,
            dtype="float16" if number_bytes == 2 else "float32",
            offload=way,
            split_guidance=needs.unet_weights_beside(way) + needs.step > limit,
            decode_chunk_size=at_once,
            whole_clip=whole_clip,
        )

    free = float(ZERO_GPU_BYTES if device.zero_gpu else device.free_bytes)
    usable = free * USABLE_SHARE
    roomy = 2 * (needs.weights + needs.step) <= free
    ways: tuple[Offload, ...] = get_args(Offload)
    first = "none" if offload == "auto" else offload
    for way in ("none",) if device.zero_gpu else ways[ways.index(first) :]:
        for limit in (usable, free) if way == offload else (usable,):
            # Half of a large GPU is enough for decoding, if the whole clip fits.
            half = max(free / 2, needs.vae_weights_beside(way) + needs.decode(1))
            room = min(limit, half) if way == "none" and roomy else limit
            plan = on_gpu(way, limit, room)
            fits = plan.whole_clip and needs.peak(plan) <= limit
            if fits and (way != "none" or roomy or offload == "none" or device.zero_gpu):
                return plan
    return on_gpu("none" if device.zero_gpu else "sequential", usable, usable)


def opens_in_half(device: Device, checkpoint: Checkpoint) -> bool:
    """Whether the weights of `checkpoint` are read in float16 for `device`."""
    return device.kind == "cuda" and bytes_per_number(device, checkpoint) == 2


def bytes_per_number(device: Device, checkpoint: Checkpoint) -> Literal[2, 4]:
    """Bytes of a number in the UNet and the decoder of `checkpoint` on `device`."""
    if device.kind == "cuda":
        half = device.float16 and not checkpoint.single_precision_unet
    else:
        half = device.bfloat16 and checkpoint.half_precision_on_cpu
    return 2 if half else 4


def _even_chunks(num_frames: int, most: float) -> int:
    """Frames per chunk, at most `most`, for chunks of about equal length.

    A short last chunk would look different where each is a clip of its own.
    """
    chunks = math.ceil(num_frames / max(1, min(num_frames, int(most))))
    return math.ceil(num_frames / chunks)
