"""Which memory plan the next clip begins with, after memory ran out."""

from dataclasses import replace

import pytest

from svd_core.checkpoints.memory_plan import (
    Device,
    MemoryPlan,
    ModelSizes,
    OffloadSetting,
    plan_memory,
)
from svd_core.checkpoints.table import CHECKPOINTS
from svd_core.engine.memory_fallback import MAX_BACKOFF_CLIPS, MemoryFallback, smallest_plan
from svd_core.messages import Message
from tests.fakes.errors import has_code

XT = CHECKPOINTS["svd-xt"]
GB = 10**9


def gpu(gigabytes: float) -> Device:
    size = int(gigabytes * GB)
    return Device(kind="cuda", name="NVIDIA L4, 24 GB", total_bytes=size, free_bytes=size)


def fallback(gigabytes: float, setting: OffloadSetting = "auto") -> MemoryFallback:
    return MemoryFallback(gpu(gigabytes), XT, ModelSizes(), setting)


def down(memory: MemoryFallback, steps: int, free: float) -> MemoryPlan:
    """Memory runs out until the plan that many steps smaller."""
    chosen = memory.current
    for _ in range(steps):
        smaller = chosen.smaller()
        assert smaller is not None
        chosen = smaller
    memory.record_failure(chosen, int(free * GB))
    return chosen


def test_the_first_plan_is_the_planners_and_stays() -> None:
    memory = fallback(24)
    assert memory.current == plan_memory(gpu(24), XT)
    for free in (24, 3, 80):
        assert memory.next_plan(free * GB) == plan_memory(gpu(24), XT)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_plan_grows_again_when_memory_is_free_again(steps: int) -> None:
    memory = fallback(24)
    small = down(memory, steps, free=6)
    down(memory, 0, free=6)  # again, so that it would wait
    assert memory.next_plan(6 * GB) == small
    assert memory.next_plan(24 * GB) == plan_memory(gpu(24), XT)


@pytest.mark.parametrize("gigabytes", [80, 24, 22, 16, 12, 10, 8, 7.6, 7, 6, 4.6])
def test_every_plan_comes_back(gigabytes: float) -> None:
    """Also one whose peak is that of the smaller plan: a step of the UNet."""
    usual = fallback(gigabytes).current
    smaller = usual.smaller()
    assert smaller is not None
    while smaller is not None:
        memory = fallback(gigabytes)
        memory.record_failure(smaller, int(gigabytes / 2 * GB))
        assert memory.next_plan(int(gigabytes * GB)) == usual
        smaller = smaller.smaller()


def test_it_grows_as_far_as_memory_allows() -> None:
    memory = fallback(24)
    down(memory, 3, free=6)
    assert memory.next_plan(12 * GB) == plan_memory(gpu(12), XT)
    assert memory.next_plan(24 * GB) == plan_memory(gpu(24), XT)


def test_a_wrong_estimate_costs_less_and_less() -> None:
    """The larger plan is tried again after 0, 1, 3, 7, ... clips that the smaller one made."""
    memory = fallback(24)
    large, waited = memory.current, []
    small = down(memory, 1, free=24)
    for _ in range(9):
        clips = 0
        while memory.next_plan(24 * GB) == small:
            clips += 1
        waited.append(clips)
        assert memory.current == large
        memory.record_failure(small, 24 * GB)
    assert waited == [0, 1, 3, 7, 15, 31, MAX_BACKOFF_CLIPS, MAX_BACKOFF_CLIPS, MAX_BACKOFF_CLIPS]


def test_a_plan_that_worked_is_trusted_again() -> None:
    memory = fallback(24)
    for _ in range(4):
        small = down(memory, 1, free=24)
        while memory.next_plan(24 * GB) == small:
            pass
        memory.record_success(memory.current)
        down(memory, 1, free=24)
        assert memory.next_plan(24 * GB) == plan_memory(gpu(24), XT), "at once"
        memory.record_success(memory.current)


def test_without_a_gpu_a_plan_stays_small() -> None:
    cpu = Device(kind="cpu", name="CPU", total_bytes=0, free_bytes=0)
    memory = MemoryFallback(cpu, CHECKPOINTS["svd-nano"], ModelSizes(vae_channels=96))
    small = memory.current.smaller()
    assert small is not None
    memory.record_failure(small, None)
    assert [memory.next_plan(None) for _ in range(5)] == [small] * 5


@pytest.mark.parametrize(
    ("gigabytes", "setting", "told"),
    [
        (8, "none", Message("offload_changed", wanted="none", free="8.0", used="model")),
        (7, "model", Message("offload_changed", wanted="model", free="7.0", used="sequential")),
        (24, "none", None), (24, "sequential", None), (6, "auto", None), (6, "sequential", None),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_be_kept_is_told(
    gigabytes: float, setting: OffloadSetting, told: Message | None
) -> None:
    assert fallback(gigabytes, setting).notice == told


def test_a_setting_that_memory_ran_out_with_is_told_while_it_holds() -> None:
    memory = fallback(24, "none")
    down(memory, 1, free=9)
    notice = memory.notice
    assert isinstance(notice, Message)
    assert (notice.values["wanted"], notice.values["free"]) == ("none", "9.0")
    memory.next_plan(24 * GB)
    assert memory.notice is None


def test_a_notice_of_the_device_is_told() -> None:
    device = replace(gpu(24), kind="cpu", notice="No code for it.")
    assert MemoryFallback(device, XT, ModelSizes()).notice == "No code for it."


def test_too_little_for_anything_is_told_in_numbers() -> None:
    memory = fallback(3)
    error = memory.request_too_large((1024, 576), 25, True, 3 * GB)
    size = {"frames": 25, "width": 1024, "height": 576}
    assert has_code("gpu_too_small", needed="5.1", free="3.0", **size)(error)
    fewer = memory.request_too_large((576, 320), 8, False, 3 * GB).message
    assert isinstance(fewer, Message)
    assert float(str(fewer.values["needed"])) < 3.0
    values = {"needed": "5.1", "free": "3.0", "device": "NVIDIA L4, 24 GB"}
    assert has_code("gpu_too_small_for_model", **values)(memory.model_too_large())


def test_the_smallest_plan_has_no_smaller_one() -> None:
    for gigabytes in (80, 24, 12, 8, 6):
        found = smallest_plan(plan_memory(gpu(gigabytes), XT))
        assert found.smaller() is None
        assert (found.offload, found.decode_chunk_size) == ("sequential", 1)
