"""The contest: all variants make the same clip, and a wrong UNet gets no speed in the table."""

import json
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.models.attention import FeedForward
from torch.overrides import TorchFunctionMode

from svd_core.benchmarks.random_models import TINY, open_stock
from svd_core.benchmarks.vs_diffusers import contest, parity, report, variants
from svd_core.benchmarks.vs_diffusers.contest import Rounds
from svd_core.benchmarks.vs_diffusers.parity import (
    INPUT_TOLERANCE,
    MAX_ERROR_RATIO,
    ROUNDING,
    Parity,
)
from svd_core.benchmarks.vs_diffusers.report import matmul_rate, step_flops
from svd_core.benchmarks.vs_diffusers.variants import Variant
from svd_core.checkpoints.memory_plan import MemoryPlan
from svd_core.engine.optimizations import registry
from svd_core.engine.optimizations.registry import Optimization
from tests.fakes.pretend_cuda import pretend_cuda

SMALL = ["--model", "tiny", "--frames", "2", "--steps", "1", "--rounds", "1", "--no-compile"]


@pytest.mark.slow
def test_a_small_contest_ends_in_its_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert contest.main(SMALL) == 0
    out, err = capsys.readouterr()
    found = json.loads(out.splitlines()[-1])
    shots = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    assert [shot["contestant"] for shot in shots] == ["stock", "ours", "ours, fast"] * 2
    assert all(shot["step_s"] > 0 for shot in shots)
    assert (found["failed"], found["unfinished"]) == ({}, [])
    assert found["speedup_vs_stock"] > 0
    assert found["speedup_vs_compiled_stock"] is None
    assert found["max_abs_diff"] <= 1
    assert found["seconds_per_clip"] > 0
    assert found["contestants"]["ours"]["answer_off"] <= ROUNDING
    assert 0 < found["contestants"]["stock"]["share_of_floor"] < 1
    assert found["contestants"]["ours, fast"]["answer_off"] is None
    assert found["contestants"]["ours, fast"]["share_of_floor"] is None
    assert found["contestants"]["ours, fast"]["pixel_off"] > 1


@pytest.fixture(scope="module")
def shots() -> dict[str, Any]:
    """Clips that contests of this file have made, by contestant."""
    return {}


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch, shots: dict[str, Any]) -> Callable[[str], None]:
    """Lets a contestant fail at its first clip; what the others make is made once."""
    shoot = contest._time_variant

    def failing(name: str) -> None:
        def maybe(one: Variant, *given: Any) -> Any:
            if one.name == name:
                raise RuntimeError("first line\nno kernel image is available")
            if one.name not in shots:
                shots[one.name] = shoot(one, *given)
            return shots[one.name]

        monkeypatch.setattr(contest, "_time_variant", maybe)

    return failing


@pytest.mark.slow
def test_a_contestant_that_fails_costs_the_others_nothing(
    capsys: pytest.CaptureFixture[str], fail: Callable[[str], None]
) -> None:
    fail("ours, fast")
    assert contest.main(SMALL) == 1
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["failed"] == {"ours, fast": "RuntimeError: no kernel image is available"}
    assert set(found["contestants"]) == {"stock", "ours"}
    assert found["speedup_vs_stock"] > 0


@pytest.mark.slow
def test_without_ours_there_is_a_table_and_no_speedup(
    capsys: pytest.CaptureFixture[str], fail: Callable[[str], None]
) -> None:
    fail("ours")
    assert contest.main(SMALL) == 1
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(found["contestants"]) == {"stock", "ours, fast"}
    assert found["speedup_vs_stock"] is None


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["stock", "judge"])
def test_without_a_comparison_the_clips_stand_and_no_table(
    broken: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    fail: Callable[[str], None],
) -> None:
    def judge(*_: Any) -> Parity:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    fail(broken)
    if broken == "judge":
        monkeypatch.setattr(contest, "check_parity", judge)
    assert contest.main(SMALL) == 1
    out, err = capsys.readouterr()
    assert "s/clip" not in out
    assert "No speeds: " in err
    assert '{"contestant": "ours", "seconds": ' in err


def contestant(name: str) -> Variant:
    return Variant(name, lambda: None)


class Clock:
    """Seconds that pass only while a clip is made: 10 each."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def shoot(self, one: Variant) -> Any:
        self.now += 10.0
        return SimpleNamespace(name=one.name, at=self.now)


def test_each_clip_is_reported_before_the_next_one_begins() -> None:
    clock = Clock()
    seen: list[tuple[str, float, float]] = []
    rounds = Rounds(1, 1e9, lambda name, shot: seen.append((name, shot.at, clock.now)), clock)
    rounds.play([contestant("a"), contestant("b")], clock.shoot)
    assert seen == [("a", 10, 10), ("b", 20, 20), ("a", 30, 30), ("b", 40, 40)]


def test_no_clip_is_begun_that_would_not_end_in_time() -> None:
    clock = Clock()
    rounds = Rounds(5, 55.0, lambda *_: None, clock)
    rounds.play([contestant("a"), contestant("b")], clock.shoot)
    assert {name: len(made) for name, made in rounds.shots.items()} == {"a": 3, "b": 2}
    rounds.play([contestant("late")], clock.shoot)
    assert (list(rounds.complete()), rounds.unfinished()) == (["a", "b"], ["late"])
    assert rounds.sentences() == ["late had too little time; raise --budget."]


def test_nothing_is_built_for_who_has_not_had_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a variant that cannot be built, for lack of memory or a compiler, ends the contest."""
    built = []
    monkeypatch.setattr(variants, "_ours", lambda *_, **more: built.append(more))
    monkeypatch.setattr(variants, "can_compile", lambda: True)
    stock = open_stock(TINY, random_weights=False, device="cpu")
    plan = MemoryPlan(device="cpu", dtype="float32", decode_chunk_size=2)
    taking_part, _ = variants.make_variants(stock, plan, each=True, compiled=True)
    assert built == []
    (compiled,) = [one for one in taking_part if one.name == "ours, compiled"]
    compiled.prepare()
    compiled.prepare()
    assert built == [{"compiled": True}]
    assert [one.name for one in taking_part if one.compiled] == ["stock, compiled", compiled.name]


def test_random_weights_are_made_where_they_are_wanted() -> None:
    with pretend_cuda() as gpu:
        stock = open_stock(TINY, random_weights=False, device="cuda")
        assert {p.device.type for p in stock.unet.parameters()} == {"cuda"}
    assert gpu.brought < 1000  # the factors of the blends, which are made on the CPU


def test_the_rate_is_that_of_numbers_which_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU multiplies ones faster, and then every share of the floor reads too low."""
    seen: list[torch.Tensor] = []

    class Watch(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func in (torch.Tensor.matmul, torch.Tensor.__matmul__, torch.matmul):
                seen.extend(args)
            return func(*args, **(kwargs or {}))

    monkeypatch.setattr(report, "MATRIX_SIDE", {"cpu": 64})
    with Watch():
        assert matmul_rate(torch.device("cpu"), torch.float32) > 0
    assert len(seen) >= 2
    assert all(0.9 < float(matrix.std()) < 1.1 for matrix in seen)


@pytest.mark.slow
def test_svd_nano_is_as_right_as_stock(capsys: pytest.CaptureFixture[str]) -> None:
    """`contest --check` has its speed. Decoding in bfloat16, whose last digit is a level of 255,
    moves a pixel here and there by two."""
    assert contest.main(["--frames", "2", "--rounds", "1", "--no-compile"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["contestants"]["ours"]["pixels_changed"] < 2e-3
    assert found["peak_memory_mb"] <= found["peak_memory_mb_stock"]


@pytest.mark.parametrize(
    ("speedup", "peak", "better"), [(1.6, 90, True), (1.5, 90, False), (2, 101, False)]
)
def test_only_clearly_faster_without_more_memory_passes_the_check(
    speedup: float, peak: float, better: bool
) -> None:
    figures = {"peak_memory_mb": peak, "peak_memory_mb_stock": 100, "speedup_vs_stock": speedup}
    assert contest.clearly_better(figures) == better


def scaled(factor: float) -> Callable[[Any], Callable[..., torch.Tensor] | None]:
    """A rewrite that is not exact."""

    def rewrite(layer: Any) -> Callable[..., torch.Tensor] | None:
        if not isinstance(layer, FeedForward):
            return None
        stock = layer.forward
        return lambda x, *_, **__: factor * stock(x)

    return rewrite


@pytest.mark.slow
def test_a_wrong_rewrite_gets_no_speeds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = Optimization(scaled(1.001), on_cpu=True, on_cuda=True)
    monkeypatch.setattr(registry, "OPTIMIZATIONS", {**registry.OPTIMIZATIONS, "units": wrong})
    assert contest.main(SMALL) == 1
    out, err = capsys.readouterr()
    assert "No speeds: ours" in err
    assert "s/clip" not in out
    assert "speedup" not in out


def verdict(answer: float, ratio: float | None = None, asked: float = 0.0) -> list[str]:
    ratios = None if ratio is None else {"ours": ratio}
    return Parity({"ours": asked}, {"ours": answer}, ratios, {}, {}).wrong


def test_where_rounding_is_blown_up_stocks_own_error_is_the_measure() -> None:
    assert verdict(1e-2) == ["ours"]
    assert verdict(1e-2, MAX_ERROR_RATIO + 0.01) == ["ours"]
    assert verdict(1e-2, float("nan")) == ["ours"]
    assert verdict(1e-2, MAX_ERROR_RATIO) == []
    assert verdict(1e-2, 1.2) == []  # the order of sums alone makes as much
    assert verdict(1e-2, 1.3) == ["ours"]
    assert verdict(float("nan")) == ["ours"]


def test_whoever_asks_its_unet_about_another_photo_is_wrong() -> None:
    assert verdict(0.0, asked=INPUT_TOLERANCE) == []
    assert verdict(0.0, asked=2 * INPUT_TOLERANCE) == ["ours"]
    assert verdict(0.0, asked=float("nan")) == ["ours"]


def test_a_question_that_is_no_number_is_not_passed_over() -> None:
    asked, other = [torch.ones(2), torch.tensor([1.1, float("nan")])], [torch.ones(2)] * 2
    for order in (1, -1):
        assert math.isnan(parity._max_difference(tuple(asked[::order]), tuple(other)))
    assert (
        parity._max_difference(
            (torch.ones(2), 3, {"x": torch.tensor([2.0, 1.0])}),
            (torch.ones(2), 3, {"x": torch.tensor([2.0, 2.0])}),
        )
        == 0.5
    )


def test_without_a_compiler_a_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    stock = open_stock(TINY, random_weights=False, device="cpu")
    plan = MemoryPlan(device="cpu", dtype="float32", decode_chunk_size=2)
    taking_part, absent = variants.make_variants(stock, plan, each=True, compiled=True)
    names = [one.name for one in taking_part]
    assert names[:2] == ["stock", "ours"]
    assert "only blend" in names
    (sentence,) = absent
    assert "C++ compiler" in sentence


def test_operations_of_a_step_are_those_counted_for_svd_xt() -> None:
    xt = {**dict(open_stock(TINY, False, "cpu").unet.config), **XT}
    assert step_flops(xt, (1, 25, 4, 72, 128), 1) / 1e12 == pytest.approx(79.95, rel=0.002)


XT = {
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 1024,
    "num_attention_heads": (5, 10, 20, 20),
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 768,
}
