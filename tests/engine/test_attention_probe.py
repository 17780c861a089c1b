"""The probe of attention backends, on the CPU with backends that are pretended."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import attention
from torch.nn import functional as F  # noqa: N812  # the field's name
from torch.nn.attention import SDPBackend

from svd_core.checkpoints.speed_modes import AccelerationConfig
from svd_core.engine import loaded_model
from svd_core.engine.engine import SvdEngine
from svd_core.engine.optimizations import attention_probe
from svd_core.engine.optimizations.attention_probe import (
    LIMIT_S,
    NAME,
    SHAPES,
    UNPROBED,
    Probe,
    Shape,
    attend,
    attention_backends,
    tokens,
)
from tests.fakes.gpu_sizes import gpu_of, make, pipeline_of

CUDNN, FLASH, EFFICIENT, MATH = (
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
)
SMALL = (Shape(batch=2, tokens=40, heads=5, channels=8), Shape(batch=40, tokens=3, heads=5))

Spoil = Callable[[Tensor], Tensor]


def right(found: Tensor) -> Tensor:
    return found


@dataclass
class Card:
    """`seconds` that each backend takes for a call; what `spoils` does to its answer; `faults`:
    what it raises instead."""

    seconds: dict[SDPBackend, float] = field(default_factory=dict)
    spoils: dict[SDPBackend, Spoil] = field(default_factory=dict)
    faults: dict[SDPBackend, BaseException] = field(default_factory=dict)
    now: float = 0.0
    tried: list[SDPBackend] = field(default_factory=list)

    def attend(self, backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.tried.append(backend)
        if backend in self.faults:
            raise self.faults[backend]
        self.now += self.seconds.get(backend, 0.01)
        found = F.scaled_dot_product_attention(q, k, v)
        return self.spoils.get(backend, right)(found)

    @property
    def probe(self) -> Probe:
        return Probe("cpu", torch.float16, self.attend, lambda: self.now, SMALL)


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


def a_little_off(found: Tensor) -> Tensor:
    return found * 1.001


def test_the_fastest_that_is_right_comes_first() -> None:
    seconds = {CUDNN: 0.02, FLASH: 0.03, EFFICIENT: 0.01}
    assert Card(seconds).probe.run() == (EFFICIENT, CUDNN, FLASH)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("No available kernel. Aborting execution."),
        RuntimeError("cuDNN Frontend error: No valid execution plans built."),
        NotImplementedError("zluda"),
    ],
)
def test_what_raises_is_not_used(error: Exception) -> None:
    assert Card({FLASH: 0.1}, faults={CUDNN: error}).probe.run() == (EFFICIENT, FLASH)


@pytest.mark.parametrize(
    "spoil", [last_tokens_zero, one_head_of_another, last_batch_lost, one_nan, torch.zeros_like]
)
@pytest.mark.parametrize("backend", [CUDNN, FLASH])
def test_what_is_wrong_is_not_used(
    spoil: Spoil, backend: SDPBackend, caplog: pytest.LogCaptureFixture
) -> None:
    found = Card(spoils={backend: spoil}).probe.run()
    assert found is not None
    assert set(found) == {CUDNN, FLASH, EFFICIENT} - {backend}
    assert f"{backend.name} is wrong here" in caplog.text


def test_rounding_is_not_wrong() -> None:
    assert len(Card(spoils={CUDNN: a_little_off}).probe.run() or ()) == 3


def test_nothing_is_left_where_nothing_works() -> None:
    fault = RuntimeError("no")
    assert Card(faults=dict.fromkeys((CUDNN, FLASH, EFFICIENT), fault)).probe.run() == ()


def test_a_slow_card_stops_at_the_first_that_is_right() -> None:
    card = Card({FLASH: LIMIT_S, EFFICIENT: LIMIT_S}, spoils={FLASH: torch.zeros_like})
    assert card.probe.run() == (EFFICIENT,)
    assert CUDNN not in card.tried


def test_too_little_memory_tells_nothing_of_a_backend() -> None:
    full = torch.OutOfMemoryError("CUDA out of memory.")
    assert Card(faults={CUDNN: full}).probe.run() is None


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


def test_torchs_own_backends_are_judged_right() -> None:
    q, k, v = tokens(SMALL[0], "cpu", torch.float32)
    probe = replace(Card().probe, dtype=torch.float32, attend=lambda _, *qkv: attend(MATH, *qkv))
    assert len(probe.run() or ()) == 3
    with pytest.raises(RuntimeError):  # and quietly
        attend(CUDNN, q, k, v)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    """In the place of the first GPU."""
    found = Card({EFFICIENT: 0.005, FLASH: 0.01, CUDNN: 0.02})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A10G")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 6))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(
        attention_probe,
        "Probe",
        lambda device, dtype, *_, **more: Probe(
            "cpu", dtype, found.attend, lambda: found.now, SMALL, **more
        ),
    )
    return found


def test_a_card_is_probed_once(card: Card, tmp_path: Path) -> None:
    folder = tmp_path / "compiled"
    first = attention_backends("cuda:0", "float16", folder)
    assert first == (EFFICIENT, FLASH, CUDNN, MATH)
    calls = len(card.tried)
    assert attention_backends("cuda:0", "float16", folder) == first
    assert len(card.tried) == calls
    assert (folder / NAME).stat().st_size < 1000
    assert [path.name for path in folder.iterdir()] == [NAME]


def test_a_backend_that_ended_the_process_is_not_tried_again(card: Card, tmp_path: Path) -> None:
    """Else each restart would lose the GPU to the same probe."""
    for killer in (EFFICIENT, CUDNN):
        card.faults[killer] = KeyboardInterrupt()  # like a killed process, nothing catches it
        with pytest.raises(KeyboardInterrupt):
            attention_backends("cuda:0", "float16", tmp_path)
    card.tried.clear()
    assert attention_backends("cuda:0", "float16", tmp_path) == (FLASH, MATH)
    assert {EFFICIENT, CUDNN}.isdisjoint(card.tried)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


@pytest.mark.parametrize("what", ["card", "capability", "torch", "precision"])
def test_another_card_or_version_is_probed_anew(
    card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    attention_backends("cuda:0", "float16", tmp_path)
    card.faults[EFFICIENT] = RuntimeError("no")
    if what == "card":
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA L4")
    elif what == "capability":
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 9))
    elif what == "torch":
        monkeypatch.setattr(torch, "__version__", "2.99.0")
    dtype = "float32" if what == "precision" else "float16"
    assert EFFICIENT not in attention_backends("cuda:0", dtype, tmp_path)
    assert len(json.loads((tmp_path / NAME).read_text())) == 2


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", '"text"', b"\xff\xfe\x00", "names", "doubled", "number", "mapping"],
)
def test_a_damaged_or_foreign_file_is_ignored(
    card: Card, tmp_path: Path, content: str | bytes
) -> None:
    first = attention_backends("cuda:0", "float16", tmp_path)
    (key,) = json.loads((tmp_path / NAME).read_text())
    foreign = {"names": ["SAGE"], "doubled": ["MATH"] * 2, "number": 7, "mapping": {"a": 1}}
    if content in foreign:
        content = json.dumps({key: foreign[str(content)]})
    (tmp_path / NAME).write_bytes(content if isinstance(content, bytes) else content.encode())
    calls = len(card.tried)
    assert attention_backends("cuda:0", "float16", tmp_path) == first
    assert len(card.tried) > calls
    assert json.loads((tmp_path / NAME).read_text()).keys() == {key}


def test_a_folder_that_cannot_be_written_costs_only_time(card: Card, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert attention_backends("cuda:0", "float16", tmp_path / "file")[-1] is MATH
    assert attention_backends("cuda:0", "float16", None)[-1] is MATH


def test_a_card_with_which_nothing_is_right_is_probed_again(card: Card, tmp_path: Path) -> None:
    card.faults = dict.fromkeys((CUDNN, FLASH, EFFICIENT), RuntimeError("no"))
    assert attention_backends("cuda:0", "float16", tmp_path) == (MATH,)
    card.faults = {}
    assert len(attention_backends("cuda:0", "float16", tmp_path)) == 4


@pytest.mark.parametrize("fault", [None, RuntimeError("no such kernel")])
def test_the_engine_probes_before_it_places(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: Exception | None
) -> None:
    asked: list[tuple[Any, ...]] = []

    def backends(*given: Any) -> tuple[SDPBackend, ...]:
        asked.append(given)
        if fault is not None:
            raise fault
        return (EFFICIENT, MATH)

    monkeypatch.setattr(loaded_model, "attention_backends", backends)
    acceleration = AccelerationConfig(folder=tmp_path / "compiled")
    with gpu_of(80):
        engine = SvdEngine(str(tiny_checkpoint), acceleration=acceleration)
        make(engine)
    assert asked == [("cuda:0", "float16", tmp_path / "compiled")]
    usual = UNPROBED if fault else (EFFICIENT, MATH)
    assert pipeline_of(engine).unet.forward.backends == usual


def test_the_unet_computes_by_the_chosen_backends(tiny_checkpoint: Path) -> None:
    seen: list[list[SDPBackend]] = []
    with gpu_of(80):
        engine = SvdEngine(str(tiny_checkpoint))
        make(engine)
        unet = pipeline_of(engine).unet
        unet.forward.backends = (MATH, EFFICIENT)
        unet.mid_block.register_forward_pre_hook(
            lambda *_: seen.append(attention._cur_sdpa_kernel_backends(with_priority=True))
        )
        make(engine)
    assert seen
    assert all(each == [MATH, EFFICIENT] for each in seen)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_real_card_has_a_backend_that_is_right(tmp_path: Path) -> None:
    found = attention_backends("cuda:0", "float16", tmp_path)
    assert len(found) > 1
    assert attention_backends("cuda:0", "float16", tmp_path) == found


def test_what_ran_out_of_memory_is_not_kept(card: Card, tmp_path: Path) -> None:
    card.faults[FLASH] = torch.OutOfMemoryError("CUDA out of memory.")
    assert attention_backends("cuda:0", "float16", tmp_path) == UNPROBED
    assert not (tmp_path / NAME).exists()
    del card.faults[FLASH]
    assert attention_backends("cuda:0", "float16", tmp_path) == (EFFICIENT, FLASH, CUDNN, MATH)
