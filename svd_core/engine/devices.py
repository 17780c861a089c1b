"""Device selection and state: the GPU with the most free memory, or the CPU.

A GPU that the installed torch has no code for is skipped, with a notice. Torch presents ROCm's GPUs
as CUDA's. Apple's MPS and Intel's XPU are not supported.
"""

import os
import re
import sys
from collections.abc import Collection

import torch

from svd_core.checkpoints.memory_plan import Device, MemoryPlan
from svd_core.errors import DeviceUnavailable
from svd_core.messages import Message
from svd_core.settings import on_zero_gpu

# Texts in the plain RuntimeErrors of torch, cuBLAS and cuDNN when memory ran out. cuDNN says the
# last one if it has no room for the workspace of any algorithm.
OUT_OF_MEMORY_MESSAGES = (
    "out of memory", "can't allocate memory", "ALLOC_FAILED", "unable to find an engine",
)  # fmt: skip

NAN_IN_FLOAT16 = re.compile(r"\bGTX 16\d\d\b")
"""Names of GPUs whose convolutions give NaN in float16."""

ARCHITECTURE = re.compile(r"(sm|compute)_(\d+)([af]?)")
"""An entry of `torch.cuda.get_arch_list()`: machine code (sm) or PTX (compute), the compute
capability times ten, and whether it is only for that one GPU (a) or its family (f)."""

Capability = tuple[int, int]


def find_device() -> Device:
    """The device that models run on here. Raises `DeviceUnavailable` if no GPU answers."""
    if on_zero_gpu():
        return Device(kind="cuda", name="ZeroGPU", total_bytes=0, free_bytes=0, zero_gpu=True)
    if not torch.cuda.is_available():
        return _cpu(None)
    gpus: list[Device] = []
    notice, failure = None, None
    for index in range(torch.cuda.device_count()):
        try:
            notice = without_kernels(index)
            if notice is None:
                gpus.append(_gpu(index))
        except RuntimeError as error:
            failure = error
    if gpus:
        return max(gpus, key=lambda device: device.free_bytes)
    if failure is not None:
        raise DeviceUnavailable("gpu_unavailable", reason=first_line(failure)) from failure
    return _cpu(notice)


def without_kernels(index: int) -> Message | None:
    """A notice for a GPU that the installed torch has no code for; None if it has."""
    capability = torch.cuda.get_device_capability(index)
    if torch.version.hip or runs_on(capability, torch.cuda.get_arch_list()):
        return None
    name, version = torch.cuda.get_device_name(index), ".".join(map(str, capability))
    return Message("gpu_unsupported", version=str(torch.__version__), gpu=name, capability=version)


def runs_on(capability: Capability, architectures: Collection[str]) -> bool:
    """Whether code for `architectures` runs on a GPU of `capability`.

    Machine code runs on later GPUs of the same major version, PTX on all later ones (CUDA C++
    Programming Guide, "Application Compatibility"). True where the list says nothing.
    """
    matches = [match for each in architectures if (match := ARCHITECTURE.fullmatch(each))]
    return not matches or any(_runs(capability, *match.groups()) for match in matches)


def _runs(capability: Capability, kind: str, number: str, suffix: str) -> bool:
    compiled_for = divmod(int(number), 10)
    if suffix == "a":
        return compiled_for == capability
    same_major = kind == "sm" or suffix == "f"
    return compiled_for <= capability and (not same_major or compiled_for[0] == capability[0])


def _gpu(index: int) -> Device:
    free, total = torch.cuda.mem_get_info(index)
    name = torch.cuda.get_device_name(index)
    return Device(
        kind="cuda",
        index=index,
        name=f"{name}, {total / 1e9:.0f} GB",
        total_bytes=total,
        free_bytes=free,
        float16=not NAN_IN_FLOAT16.search(name),
    )


def _cores(count: int) -> Message:
    if count == 1:
        return Message("device_one_core", name="CPU")
    return Message("device_cores", name="CPU", count=count)


def _cpu(notice: Message | None) -> Device:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Device(
        kind="cpu",
        name=_cores(cores or 1),
        total_bytes=0,
        free_bytes=0,
        bfloat16=bool(torch.cpu._is_avx512_bf16_supported()),
        notice=notice,
    )


def available_memory(plan: MemoryPlan) -> int | None:
    """Bytes that are free on the plan's GPU or held by this process; None if unknown."""
    if not _on_cuda(plan):
        return None
    try:
        free, _ = torch.cuda.mem_get_info(plan.index)
        return free + torch.cuda.memory_reserved(plan.index)
    except RuntimeError:  # the device is lost, as the next clip will report
        return None


def forget_peak(plan: MemoryPlan) -> None:
    """Reset the count of `peak_memory`, which only a GPU can do."""
    if _on_cuda(plan):
        torch.cuda.reset_peak_memory_stats(plan.index)


def peak_memory(plan: MemoryPlan) -> int | None:
    """Peak bytes on the GPU since `forget_peak`; without a GPU, of the process since its start.

    None on a system that does not count them.
    """
    if _on_cuda(plan):
        return torch.cuda.max_memory_allocated(plan.index)
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def is_out_of_memory(error: Exception) -> bool:
    """Whether `error` says that a device, or the machine, has no memory left."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        text in str(error) for text in OUT_OF_MEMORY_MESSAGES
    )


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its class if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def is_lost(plan: MemoryPlan) -> bool:
    """Whether the plan's GPU has stopped working for this process.

    After some errors (illegal memory access, failed assertion, a driver that restarted) CUDA
    refuses all further work of the process.
    """
    if plan.device == "cpu":
        return False
    try:
        torch.ones(1, device=plan.target).add(1).item()
    except RuntimeError as error:
        return not is_out_of_memory(error)
    return False


def _on_cuda(plan: MemoryPlan) -> bool:
    return plan.device == "cuda" and torch.cuda.is_available()
