"""The probe of kernels, on the CPU with candidates that are pretended."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from svd_core.engine.optimizations import probe
from svd_core.engine.optimizations.probe import (
    LIMIT_S,
    MARGIN,
    NAME,
    UNFINISHED,
    Case,
    Choice,
    Probe,
    choose,
)

ONE, TWO, THREE = "one", "two", "three"

Spoil = Callable[[Tensor], Tensor]


def right(result: Tensor) -> Tensor:
    return result


@dataclass
class Card:
    """`seconds` that each candidate takes for a call; what `spoils` does to its result; `faults`:
    what it raises instead. The first candidate is stock."""

    seconds: dict[str, float] = field(default_factory=dict)
    spoils: dict[str, Spoil] = field(default_factory=dict)
    faults: dict[str, BaseException] = field(default_factory=dict)
    now: float = 0.0
    tried: list[str] = field(default_factory=list)

    def compute(self, name: str, x: Tensor) -> Tensor:
        self.tried.append(name)
        if name in self.faults:
            raise self.faults[name]
        self.now += self.seconds.get(name, 0.01)
        return self.spoils.get(name, right)(x.exp())

    def cases(self, device: str, dtype: torch.dtype) -> Sequence[Case]:
        draw = torch.Generator().manual_seed(0)
        inputs = [torch.randn(size, generator=draw).to(dtype) for size in (1000, 50)]
        return [
            Case(lambda name, x=x: self.compute(name, x), x.to(probe.WIDER[dtype]).exp())  # type: ignore[misc]
            for x in inputs
        ]

    def choice(self, *candidates: str, name: str = "Work") -> Choice:
        return Choice(name, ONE, candidates or (ONE, TWO, THREE), self.cases)

    def run(self, dtype: torch.dtype = torch.float16, *candidates: str) -> tuple[str, ...] | None:
        return Probe(self.choice(*candidates), "cpu", dtype, lambda: self.now).run()


def last_lost(result: Tensor) -> Tensor:
    result[-1] = 0
    return result


def one_nan(result: Tensor) -> Tensor:
    result[3] = torch.nan
    return result


def rounded_twice(result: Tensor) -> Tensor:
    """About twice as far off as rounding."""
    return result + result * max(torch.finfo(result.dtype).eps, 1e-5)


def test_the_fastest_comes_first() -> None:
    assert Card({ONE: 0.02, TWO: 0.03, THREE: 0.01}).run() == (THREE, ONE, TWO)


def test_stock_stays_unless_another_is_clearly_faster() -> None:
    saving = Card({ONE: 0.1, TWO: 0.1 * (1 - MARGIN) + 0.001, THREE: 0.2})
    assert saving.run() == (ONE, TWO, THREE)
    saving.seconds[TWO] -= 0.002
    assert saving.run() == (TWO, ONE, THREE)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("No available kernel. Aborting execution."),
        RuntimeError("cuDNN Frontend error: No valid execution plans built."),
        NotImplementedError("zluda"),
        ImportError("No module named 'triton'"),
        TypeError("a compiler that does not know this GPU"),
    ],
)
def test_what_raises_is_not_used(error: Exception) -> None:
    assert Card({THREE: 0.1}, faults={TWO: error}).run() == (ONE, THREE)


@pytest.mark.parametrize("dtype", probe.WIDER)
@pytest.mark.parametrize("spoil", [last_lost, one_nan, torch.zeros_like, rounded_twice])
@pytest.mark.parametrize("name", [TWO, THREE])
def test_what_is_wrong_is_not_used(
    spoil: Spoil, name: str, dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    found = Card(spoils={name: spoil}).run(dtype)
    assert found is not None
    assert set(found) == {ONE, TWO, THREE} - {name}
    assert f"Work: {name} is wrong here" in caplog.text


def test_rounding_is_not_wrong() -> None:
    """The last digit of single precision, and half precision by way of single."""
    assert len(Card(spoils={TWO: lambda x: x * (1 + 2e-6)}).run(torch.float32) or ()) == 3
    assert len(Card(spoils={TWO: lambda x: x.float().log().exp().half()}).run() or ()) == 3


@pytest.mark.parametrize("fault", ["wrong", "raises"])
def test_where_stock_fails_others_are_judged_without_it(fault: str) -> None:
    card = Card(spoils={TWO: rounded_twice})
    if fault == "wrong":
        card.spoils[ONE] = torch.zeros_like
    else:
        card.faults[ONE] = RuntimeError("no")
    assert set(card.run() or ()) == {TWO, THREE}


def test_stock_need_not_be_a_candidate() -> None:
    card = Card(spoils={THREE: rounded_twice})
    assert card.run(torch.float16, TWO, THREE) == (TWO,)


def test_nothing_is_left_where_nothing_works() -> None:
    assert Card(faults=dict.fromkeys((ONE, TWO, THREE), RuntimeError("no"))).run() == ()


def test_a_slow_card_stops_at_the_first_that_is_right() -> None:
    card = Card({TWO: LIMIT_S}, spoils={ONE: torch.zeros_like})
    assert card.run() == (TWO,)
    assert THREE not in card.tried


def test_too_little_memory_says_nothing_of_a_candidate() -> None:
    full = torch.OutOfMemoryError("CUDA out of memory.")
    for name in (ONE, TWO):
        assert Card(faults={name: full}).run() is None


def test_references_are_computed_without_tf32() -> None:
    allowed: list[bool] = []
    before = torch.backends.cudnn.allow_tf32

    def cases(device: str, dtype: torch.dtype) -> Sequence[Case]:
        allowed.append(torch.backends.cudnn.allow_tf32)
        return Card().cases(device, dtype)

    choice = replace(Card().choice(), cases=cases)
    assert Probe(choice, "cpu", torch.float16, lambda: 0.0).run()
    assert allowed == [False]
    assert torch.backends.cudnn.allow_tf32 == before


# The cache


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    """In the place of the first GPU."""
    found = Card({ONE: 0.01, TWO: 0.005, THREE: 0.02})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A10G")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 6))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(probe, "synchronized", lambda _: found.now)
    return found


def chosen(card: Card, folder: Path | None, dtype: str = "float16") -> tuple[str, ...] | None:
    return choose(card.choice(), "cpu", dtype, folder)


def test_a_card_is_probed_once(card: Card, tmp_path: Path) -> None:
    folder = tmp_path / "compiled"
    first = chosen(card, folder)
    assert first == (TWO, ONE, THREE)
    calls = len(card.tried)
    assert chosen(card, folder) == first
    assert len(card.tried) == calls
    assert (folder / NAME).stat().st_size < 1000
    assert [path.name for path in folder.iterdir()] == [NAME]


def test_choices_are_kept_beside_each_other(card: Card, tmp_path: Path) -> None:
    first = chosen(card, tmp_path)
    card.seconds = {THREE: 0.001}
    other = choose(card.choice(name="Other"), "cpu", "float16", tmp_path)
    assert other is not None
    assert other[0] == THREE
    assert chosen(card, tmp_path) == first


def test_without_a_gpu_nothing_is_probed(
    card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert chosen(card, tmp_path) is None
    assert not card.tried


def test_a_candidate_that_ended_the_process_is_not_tried_again(card: Card, tmp_path: Path) -> None:
    """Else each restart would lose the GPU to the same probe."""
    for killer in (TWO, THREE):
        card.faults[killer] = KeyboardInterrupt()  # like a killed process, nothing catches it
        with pytest.raises(KeyboardInterrupt):
            chosen(card, tmp_path)
    card.tried.clear()
    assert (tmp_path / UNFINISHED).exists()
    assert chosen(card, tmp_path) == (ONE,)
    assert {TWO, THREE}.isdisjoint(card.tried)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


@pytest.mark.parametrize("what", ["card", "capability", "torch", "precision", "candidates"])
def test_another_card_or_version_is_probed_again(
    card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    chosen(card, tmp_path)
    card.faults[TWO] = RuntimeError("no")
    choice = card.choice()
    if what == "card":
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA L4")
    elif what == "capability":
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 9))
    elif what == "torch":
        monkeypatch.setattr(torch, "__version__", "2.99.0")
    elif what == "candidates":
        choice = card.choice(ONE, TWO)
    dtype = "float32" if what == "precision" else "float16"
    assert TWO not in (choose(choice, "cpu", dtype, tmp_path) or (TWO,))
    assert len(json.loads((tmp_path / NAME).read_text())) == 2


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", '"text"', b"\xff\xfe\x00", "names", "doubled", "number", "mapping"],
)
def test_a_damaged_or_foreign_file_is_ignored(
    card: Card, tmp_path: Path, content: str | bytes
) -> None:
    first = chosen(card, tmp_path)
    (key,) = json.loads((tmp_path / NAME).read_text())
    foreign = {"names": ["SAGE"], "doubled": [ONE] * 2, "number": 7, "mapping": {"a": 1}}
    if content in foreign:
        content = json.dumps({key: foreign[str(content)]})
    (tmp_path / NAME).write_bytes(content if isinstance(content, bytes) else content.encode())
    calls = len(card.tried)
    assert chosen(card, tmp_path) == first
    assert len(card.tried) > calls
    assert json.loads((tmp_path / NAME).read_text()).keys() == {key}


def test_a_folder_that_cannot_be_written_costs_only_time(card: Card, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert chosen(card, tmp_path / "file") == chosen(card, None) == (TWO, ONE, THREE)


def test_a_card_with_which_nothing_is_right_is_probed_again(card: Card, tmp_path: Path) -> None:
    card.faults = dict.fromkeys((ONE, TWO, THREE), RuntimeError("no"))
    assert chosen(card, tmp_path) == ()
    card.faults = {}
    assert len(chosen(card, tmp_path) or ()) == 3


def test_what_ran_out_of_memory_is_not_kept(card: Card, tmp_path: Path) -> None:
    card.faults[TWO] = torch.OutOfMemoryError("CUDA out of memory.")
    assert chosen(card, tmp_path) is None
    assert not (tmp_path / NAME).exists()
    del card.faults[TWO]
    assert chosen(card, tmp_path) == (TWO, ONE, THREE)
