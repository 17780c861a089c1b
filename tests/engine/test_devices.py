"""Device selection on machines with several GPUs, old ones, broken ones, and none."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from svd_core.checkpoints.memory_plan import MemoryPlan
from svd_core.engine.devices import available_memory, find_device, is_out_of_memory, runs_on
from svd_core.engine.engine import SvdEngine
from svd_core.errors import DeviceUnavailable
from svd_core.messages import Message
from tests.fakes.errors import has_code

GB = 10**9
WHEEL = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]
DRIVER = RuntimeError("CUDA error: unknown error\nCUDA kernel errors might be reported late.")


@dataclass
class Card:
    name: str
    free: float
    capability: tuple[int, int] = (8, 9)
    total: float = 24
    fault: Exception | None = None


Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Puts cards into this machine."""

    def build(*cards: Card) -> None:
        def memory(index: int) -> tuple[int, int]:
            card = cards[index]
            if card.fault is not None:
                raise card.fault
            return int(card.free * GB), int(card.total * GB)

        fakes = {
            "is_available": lambda: bool(cards),
            "device_count": lambda: len(cards),
            "mem_get_info": memory,
            "memory_reserved": lambda index: GB,
            "get_device_name": lambda index: cards[index].name,
            "get_device_capability": lambda index: cards[index].capability,
            "get_arch_list": lambda: WHEEL,
        }
        for name, fake in fakes.items():
            monkeypatch.setattr(torch.cuda, name, fake)

    return build


def test_the_freest_gpu_is_taken(machine: Machine) -> None:
    machine(Card("NVIDIA L4", 3), Card("NVIDIA A10G", 20), Card("NVIDIA L4", 19))
    found = find_device()
    assert (found.index, found.name, found.free_bytes) == (1, "NVIDIA A10G, 24 GB", 20 * GB)
    assert (found.kind, found.float16, found.notice) == ("cuda", True, None)


def test_a_gpu_that_does_not_answer_is_passed_over(machine: Machine) -> None:
    machine(Card("NVIDIA L4", 20, fault=DRIVER), Card("NVIDIA L4", 3))
    assert find_device().index == 1


def test_a_driver_that_is_gone_is_told_in_one_sentence(
    machine: Machine, tiny_checkpoint: Path
) -> None:
    machine(Card("NVIDIA L4", 20, fault=DRIVER))
    with pytest.raises(
        DeviceUnavailable, check=has_code("gpu_unavailable", reason="CUDA error: unknown error")
    ) as caught:
        find_device()
    assert "\n" not in caught.value.message
    engine = SvdEngine(str(tiny_checkpoint))
    with pytest.raises(DeviceUnavailable):
        engine.load(lambda _: None)
    assert (engine.status.state, engine.status.notice) == ("failed", caught.value.message)
    machine()
    engine.load(lambda _: None)
    assert (engine.status.state, engine.status.notice) == ("ready", None)


def test_a_gpu_without_code_gives_way_to_the_cpu_with_a_notice(
    machine: Machine, tiny_checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine(Card("NVIDIA GeForce GTX 1080", 7, capability=(6, 1)))
    found = find_device()
    assert found.kind == "cpu"
    assert isinstance(found.notice, Message)
    assert found.notice.code == "gpu_unsupported"
    assert "NVIDIA GeForce GTX 1080 (compute capability 6.1)" in found.notice
    engine = SvdEngine(str(tiny_checkpoint))
    engine.load(lambda _: None)
    assert engine.status.notice == found.notice
    assert engine.status.device.startswith("CPU, ")
    assert found.notice in caplog.text


def test_auto_takes_the_demonstration_model_where_the_gpu_cannot_be_used(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(Card("Tesla P100", 16, capability=(6, 0)))
    engine = SvdEngine("auto")
    engine.load(lambda _: None)
    assert engine.status.checkpoint.name == "svd-nano"
    assert "Tesla P100" in (engine.status.notice or "")


def test_beside_a_gpu_without_code_another_one_works(machine: Machine) -> None:
    machine(Card("NVIDIA GeForce GTX 1080", 7, capability=(6, 1)), Card("NVIDIA L4", 3))
    found = find_device()
    assert (found.index, found.notice) == (1, None)


@pytest.mark.parametrize(
    ("name", "float16"),
    [
        ("NVIDIA GeForce GTX 1660 SUPER", False), ("NVIDIA GeForce GTX 1650", False),
        ("GeForce GTX 1630", False), ("Tesla T4", True), ("NVIDIA GeForce RTX 2060", True),
        ("NVIDIA GeForce RTX 4060 Ti", True), ("NVIDIA RTX 1650X", True),
    ],
)  # fmt: skip
def test_a_gpu_that_gives_nan_in_half_precision_is_known(
    machine: Machine, name: str, float16: bool
) -> None:
    machine(Card(name, 6, capability=(7, 5)))
    assert find_device().float16 == float16


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((8, 6), ["sm_80"], True),  # a later GPU of the same major version
        ((8, 0), ["sm_86"], False),
        ((8, 9), WHEEL, True), ((9, 0), WHEEL, True), ((12, 1), WHEEL, True),
        ((6, 1), WHEEL, False), ((7, 0), WHEEL, False), ((11, 0), WHEEL, False),
        ((11, 0), [*WHEEL, "compute_120"], False), ((12, 1), ["compute_120"], True),
        ((13, 0), ["sm_120", "compute_120"], True),  # made from PTX
        ((9, 0), ["sm_90a"], True), ((9, 1), ["sm_90a"], False),
        ((10, 3), ["sm_100f"], True), ((12, 0), ["compute_100f"], False),
        ((9, 4), ["gfx90a", "gfx942"], True),  # ROCm
        ((8, 9), [], True),
    ],
)  # fmt: skip
def test_code_runs_on_later_gpus_of_its_kind(
    capability: tuple[int, int], architectures: list[str], runs: bool
) -> None:
    assert runs_on(capability, architectures) == runs


def test_memory_of_this_process_counts_as_available(machine: Machine) -> None:
    machine(Card("NVIDIA L4", 3), Card("NVIDIA L4", 20))
    chosen = MemoryPlan(device="cuda", index=1, dtype="float16", decode_chunk_size=1)
    assert available_memory(chosen) == 21 * GB
    machine(Card("NVIDIA L4", 3), Card("NVIDIA L4", 20, fault=DRIVER))
    assert available_memory(chosen) is None
    on_cpu = MemoryPlan(device="cpu", dtype="float32", decode_chunk_size=1)
    assert available_memory(on_cpu) is None


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (RuntimeError("GET was unable to find an engine to execute this computation"), True),
        (RuntimeError("FIND was unable to find an engine to execute this computation"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_words_for_too_little_memory(error: Exception, full: bool) -> None:
    assert is_out_of_memory(error) == full
