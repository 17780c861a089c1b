"""The probe of attention kernels, on the CPU with kernels that are pretended."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import attention
from torch.nn import functional as F  # noqa: N812  # the field's name
from torch.nn.attention import SDPBackend

from svd_core.checkpoints.speed_modes import AccelerationConfig
from svd_core.engine import loaded_model
from svd_core.engine.engine import SvdEngine
from svd_core.engine.optimizations import attention_probe, probe
from svd_core.engine.optimizations.attention_probe import (
    SHAPES,
    STOCK,
    UNPROBED,
    Attention,
    Shape,
    attend,
    attention_choice,
    choose_attention,
    tokens,
)
from svd_core.engine.optimizations.kernels import Kernels
from svd_core.engine.optimizations.probe import Probe
from tests.fakes.gpu_sizes import gpu_of, make, pipeline_of

CUDNN, FLASH, EFFICIENT, MATH = (
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
)
SMALL = (Shape(batch=2, tokens=40, heads=5, channels=8), Shape(batch=40, tokens=3, heads=5))

Spoil = Callable[[Tensor], Tensor]


@dataclass
class Card:
    """`seconds` that each kernel takes for a call, and what `spoils` does to its answer."""

    seconds: dict[str, float] = field(default_factory=dict)
    spoils: dict[str, Spoil] = field(default_factory=dict)
    missing: tuple[str, ...] = ("FA3", "FA4")
    now: float = 0.0

    def attend(self, name: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if name in self.missing:
            raise ModuleNotFoundError("flash_attn_interface")
        self.now += self.seconds.get(name, 0.01)
        found = F.scaled_dot_product_attention(q, k, v)
        return self.spoils.get(name, lambda x: x)(found)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    """In the place of the first GPU."""
    found = Card({EFFICIENT.name: 0.005, FLASH.name: 0.01, CUDNN.name: 0.02})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A10G")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 6))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(probe, "synchronized", lambda _: found.now)
    monkeypatch.setattr(attention_probe, "SHAPES", SMALL)
    monkeypatch.setattr(attention_probe, "attend", found.attend)
    return found


def last_tokens_zero(found: Tensor) -> Tensor:
    found[:, :, -1:] = 0
    return found


def one_head_of_another(found: Tensor) -> Tensor:
    found[:, 4] = found[:, 3]
    return found


def last_batch_lost(found: Tensor) -> Tensor:
    found[-1] = found[0]
    return found


def one_nan(found: Tensor) -> Tensor:
    found[0, 0, 1, 0] = torch.nan
    return found


def test_the_fastest_comes_first_and_torchs_composition_last(card: Card, tmp_path: Path) -> None:
    found = choose_attention("cpu", "float16", tmp_path)
    assert found == Attention((EFFICIENT, FLASH, CUDNN, MATH))
    card.seconds = {}
    assert choose_attention("cpu", "float16", tmp_path) == found


@pytest.mark.parametrize(
    "spoil", [last_tokens_zero, one_head_of_another, last_batch_lost, one_nan, torch.zeros_like]
)
@pytest.mark.parametrize("backend", [CUDNN, FLASH])
def test_what_is_wrong_is_not_used(
    card: Card, spoil: Spoil, backend: SDPBackend, caplog: pytest.LogCaptureFixture
) -> None:
    card.spoils[backend.name] = spoil
    found = choose_attention("cpu", "float16", None)
    assert set(found.backends) == {CUDNN, FLASH, EFFICIENT, MATH} - {backend}
    assert f"{backend.name} is wrong here" in caplog.text


def test_an_installed_flash_package_stands_for_torchs_kernel(card: Card) -> None:
    card.missing = ("FA4",)
    card.seconds["FA3"] = 0.001
    found = choose_attention("cpu", "float16", None)
    assert found == Attention((FLASH, EFFICIENT, CUDNN, MATH), flash="FA3")
    card.seconds["FA3"] = 0.03  # slower than torch's own
    assert choose_attention("cpu", "float16", None).flash is None


def test_where_torchs_flash_kernel_fails_a_package_takes_its_place(card: Card) -> None:
    card.missing = ("FA4",)
    card.spoils[FLASH.name] = torch.zeros_like
    card.seconds["FA3"] = 0.015
    found = choose_attention("cpu", "float16", None)
    assert found == Attention((EFFICIENT, FLASH, CUDNN, MATH), flash="FA3")


@pytest.fixture
def flash(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """What stands for the flash kernel, one entry for each change."""
    changes: list[str | None] = [None]
    monkeypatch.setattr(nn.attention, "list_flash_attention_impls", lambda: ["FA3", "FA4"])
    monkeypatch.setattr(nn.attention, "current_flash_attention_impl", lambda: changes[-1])
    monkeypatch.setattr(nn.attention, "activate_flash_attention_impl", changes.append)
    monkeypatch.setattr(nn.attention, "restore_flash_attention_impl", lambda: changes.append(None))
    return changes


def test_a_flash_package_is_registered_once(flash: list[str | None]) -> None:
    for chosen in (Attention(flash="FA3"), Attention(flash="FA3"), Attention(), Attention()):
        with chosen.active():
            assert flash[-1] == chosen.flash
    assert flash == [None, "FA3", None]


def test_an_older_torch_has_no_flash_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(nn.attention, "list_flash_attention_impls")
    assert attention_choice().candidates == [each.name for each in (FLASH, EFFICIENT, CUDNN)]
    with Attention().active():
        pass


def test_tokens_lie_as_in_the_unet_and_answers_depend_on_few_of_them() -> None:
    q, k, v = tokens(SMALL[0], "cpu", torch.float32)
    assert q.shape == (2, 5, 40, 8)
    assert q.stride() == k.stride() == v.stride() == (40 * 3 * 5 * 8, 8, 3 * 5 * 8, 1)
    weights = (q @ k.transpose(-1, -2) * 8**-0.5).softmax(dim=-1)
    assert float(weights.max(dim=-1).values.mean()) > 10 / 40


def test_the_shapes_are_those_of_svd_xt() -> None:
    spatial, temporal = SHAPES
    assert (spatial.batch, spatial.tokens) == (temporal.tokens, temporal.batch) == (25, 9216)
    assert spatial.heads * spatial.channels == temporal.heads * temporal.channels == 320


def test_torchs_own_kernels_are_judged_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_probe, "SHAPES", SMALL)
    choice = replace(attention_choice(), candidates=[MATH.name, CUDNN.name, "FA3"])
    assert Probe(choice, "cpu", torch.float32, lambda: 0.0).run() == (MATH.name,)
    q, k, v = tokens(SMALL[0], "cpu", torch.float32)
    assert torch.equal(attend(STOCK, q, k, v), F.scaled_dot_product_attention(q, k, v))
    with pytest.raises(RuntimeError):  # and quietly
        attend(CUDNN.name, q, k, v)


@pytest.mark.parametrize("fault", [None, RuntimeError("no such kernel")])
def test_the_engine_probes_before_it_places(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: Exception | None
) -> None:
    asked: list[tuple[Any, ...]] = []

    def choose(*given: Any) -> Kernels:
        asked.append(given)
        if fault is not None:
            raise fault
        return Kernels(attention=Attention((EFFICIENT, MATH)))

    monkeypatch.setattr(loaded_model, "choose_kernels", choose)
    acceleration = AccelerationConfig(folder=tmp_path / "compiled")
    with gpu_of(80):
        engine = SvdEngine(str(tiny_checkpoint), acceleration=acceleration)
        make(engine)
    assert asked == [("cuda:0", "float16", tmp_path / "compiled")]
    expected = UNPROBED if fault else (EFFICIENT, MATH)
    assert pipeline_of(engine).unet.forward.kernels.attention.backends == expected


def test_the_unet_computes_by_the_chosen_backends(tiny_checkpoint: Path) -> None:
    seen: list[list[SDPBackend]] = []
    with gpu_of(80):
        engine = SvdEngine(str(tiny_checkpoint))
        make(engine)
        unet = pipeline_of(engine).unet
        unet.forward.kernels = Kernels(attention=Attention((MATH, EFFICIENT)))
        unet.mid_block.register_forward_pre_hook(
            lambda *_: seen.append(attention._cur_sdpa_kernel_backends(with_priority=True))
        )
        make(engine)
    assert seen
    assert all(each == [MATH, EFFICIENT] for each in seen)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_real_card_has_a_backend_that_is_right(tmp_path: Path) -> None:
    found = choose_attention("cuda:0", "float16", tmp_path)
    assert len(found.backends) > 1
    assert choose_attention("cuda:0", "float16", tmp_path) == found
