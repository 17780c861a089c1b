"""The GPU benchmark: what a part does wrong is a row, and costs the other parts nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # the field's name
from torch.nn.attention import SDPBackend

from svd_core.benchmarks.__main__ import main as run_benchmark
from svd_core.benchmarks.gpu import clips, comparison, env, parts, smoke
from svd_core.benchmarks.gpu.command import (
    ProcessEnd,
    exit_on_sigterm,
    run,
    run_process,
)
from svd_core.benchmarks.gpu.comparison import Comparison
from svd_core.benchmarks.gpu.context import Context, LostContext
from svd_core.benchmarks.gpu.parts import (
    LOST_CONTEXT,
    MARGIN_S,
    PARTS,
    UNUSABLE,
    Part,
    load_part,
    select_parts,
    time_limit,
)
from svd_core.benchmarks.gpu.results import (
    FILE,
    MOST_FAILURES,
    Recorder,
    Row,
    failures,
    format_table,
    read_rows,
    results_size,
)
from svd_core.benchmarks.gpu.timing import Timer, kind_of, profile_kernels, relative_error
from svd_core.benchmarks.vs_diffusers.parity import MAX_ERROR_RATIO
from svd_core.checkpoints.memory_plan import Device
from svd_core.checkpoints.table import find_checkpoint
from svd_core.engine import pipeline_loader
from svd_core.engine.optimizations.patching import patch_name
from svd_core.errors import GenerationFailed, OutOfMemory, ToolFailed
from tests.fakes.job_events import eventually
from tests.fakes.pretend_cuda import pretend_cuda
from tests.fakes.random_checkpoint import random_models

ROOT = Path(__file__).parents[2]

BARE = ("gradio", "sqlalchemy", "imageio_ffmpeg", "fastapi", "starlette", "cryptography",
        "pillow_heif", "rich", "uvicorn", "cv2", "spaces", "triton")  # fmt: skip
"""What a machine with torch and a few wheels lacks; Triton comes with torch for CUDA only."""

BLOCKER = f"""
from importlib.machinery import PathFinder

find_spec = PathFinder.find_spec

def find(cls, name, path=None, target=None):
    return None if name.partition(".")[0] in {BARE!r} else find_spec(name, path, target)

PathFinder.find_spec = classmethod(find)
"""


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """Environment of a Python that has none of `BARE`, its children included."""
    (tmp_path / "sitecustomize.py").write_text(BLOCKER)
    return os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return make_context(tmp_path)


def make_context(folder: Path, remaining_s: float = 1e6) -> Context:
    made = Context(
        recorder=Recorder(folder, "step"),
        device="cpu",
        tiny=True,
        folder=folder,
        scratch=folder,
        deadline=0.0,
    )
    object.__setattr__(made, "deadline", -made.remaining_s() + remaining_s)
    return made


def rows(folder: Path) -> dict[str, Row]:
    return {row["case"]: row for row in read_rows(folder)}


# Parts and budget


def test_every_part_has_a_function_that_runs() -> None:
    for part in PARTS:
        assert callable(load_part(part.name))
        assert part.least_s < part.limit_s


def test_a_part_takes_no_more_than_its_limit_and_the_rest_of_the_budget() -> None:
    part = Part("step", limit_s=100, least_s=40, about="")
    assert time_limit(part, 1000) == 100
    assert time_limit(part, 60) == 60 - MARGIN_S
    assert time_limit(part, 40 + MARGIN_S) == 40
    assert time_limit(part, 39 + MARGIN_S) is None
    assert time_limit(part, 1000, limited=False) == 1000 - MARGIN_S


def test_parts_are_chosen_by_name_and_run_by_priority() -> None:
    assert [p.name for p in select_parts("", "")] == [p.name for p in PARTS]
    assert [p.name for p in select_parts("compile, env,clip", "clip")] == ["env", "compile"]
    with pytest.raises(ToolFailed, match="no part setp; choose from env, "):
        select_parts("setp", "")


def test_an_unknown_part_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_benchmark(["gpu", "--skip", "all"]) == 2
    assert "no part all" in capsys.readouterr().err


class Machine:
    """Runs parts that take `seconds` each; what a part writes is in `parts`, by its name."""

    def __init__(self, out: Path, seconds: float = 10.0) -> None:
        self.out, self.seconds, self.now = out, seconds, 0.0
        self.parts: dict[str, tuple[int | None, list[dict[str, Any]]]] = {}
        self.limits: dict[str, float] = {}

    def start(self, part: Part, limit_s: float) -> ProcessEnd:
        self.limits[part.name] = limit_s
        code, found = self.parts.get(part.name, (0, [{"case": "end"}]))
        recorder = Recorder(self.out, part.name, lambda: self.now)
        for row in found:
            recorder.write(**row)
        took = limit_s if code is None else self.seconds
        self.now += took
        return ProcessEnd(code, took, limit_s)

    def run(self, budget_s: float = 1e6) -> int:
        return run(PARTS, self.out, budget_s, self.start, clock=lambda: self.now)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_all_parts_run_and_the_last_line_is_json(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert machine.run() == 0
    assert list(machine.limits) == [part.name for part in PARTS]
    assert last_line(capsys) == {
        "failures": 0,
        "seconds": 10.0 * len(PARTS),
        "results": str(machine.out / FILE),
    }
    assert "failures: 0" in (machine.out / "summary.txt").read_text()


def test_the_budget_is_never_overrun(machine: Machine) -> None:
    """Parts that would hang: each is stopped at its limit, and those behind are dropped."""
    machine.parts = {part.name: (None, []) for part in PARTS}
    machine.run(budget_s=300.0)
    assert machine.now <= 300.0 - MARGIN_S
    assert list(machine.limits) == ["env", "smoke", "clip"]
    assert machine.limits["clip"] == 125
    machine.now, machine.limits = 0.0, {}
    machine.run(budget_s=200.0)
    assert machine.limits == {"env": 60, "smoke": 90, "step": 44}  # too little for clip
    assert machine.now <= 200.0 - MARGIN_S
    skipped = [row["case"] for row in read_rows(machine.out) if "skipped" in row]
    assert "contest" in skipped


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (None, "time limit"),
        (-signal.SIGKILL, "killed by SIGKILL. The machine may have run out of memory."),
        (-signal.SIGSEGV, "killed by SIGSEGV"),
        (1, "exit code 1"),
        (LOST_CONTEXT, "CUDA context was lost"),
        (0, "did not finish"),
    ],
)
def test_how_a_part_ended_is_a_row_and_the_others_go_on(
    machine: Machine, capsys: pytest.CaptureFixture[str], code: int | None, sentence: str
) -> None:
    machine.parts["smoke"] = (code, [{"case": "none: settings", "ok": True}])
    assert machine.run() == 1
    assert list(machine.limits) == [part.name for part in PARTS]
    assert last_line(capsys)["failures"] == 1
    (row,) = failures(read_rows(machine.out))
    assert (row["part"], row["case"]) == ("run", "smoke")
    assert sentence in row["failed"]


def test_a_crash_behind_the_last_figure_is_no_failure(machine: Machine) -> None:
    machine.parts["compile"] = (-signal.SIGSEGV, [{"case": "end"}])
    assert machine.run() == 0
    (row,) = [row for row in read_rows(machine.out) if "note" in row]
    assert "SIGSEGV" in row["note"]


def test_where_no_part_can_run_the_first_one_says_so(machine: Machine) -> None:
    machine.parts["env"] = (UNUSABLE, [{"case": "device", "failed": "no GPU"}])
    assert machine.run() == 1
    assert list(machine.limits) == ["env"]


def test_only_the_failures_of_this_call_are_counted(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    Recorder(machine.out, "step").write("stock", failed="in an earlier call")
    assert machine.run() == 0
    assert last_line(capsys)["failures"] == 0
    assert read_rows(machine.out)[0]["failed"] == "in an earlier call"


# Processes


def supervised(tmp_path: Path, code: str, limit_s: float = 60.0) -> ProcessEnd:
    command = [sys.executable, "-c", code]
    return run_process(command, limit_s, tmp_path / "log.txt", os.environ, tmp_path)


def test_a_process_is_told_apart_by_how_it_ends(tmp_path: Path) -> None:
    assert supervised(tmp_path, "print('said')").sentence() == ""
    assert "said" in (tmp_path / "log.txt").read_text()
    assert "exit code 5" in supervised(tmp_path, "raise SystemExit(5)").sentence()
    killed = supervised(tmp_path, "import os; os.kill(os.getpid(), 9)")
    assert "SIGKILL" in killed.sentence()


def test_a_process_that_hangs_ends_with_all_it_started(tmp_path: Path) -> None:
    """What it started would hold memory of the GPU."""
    command = ["sh", "-c", "sleep 600 & echo $! > pid; wait"]
    ended = run_process(command, 2.0, tmp_path / "log.txt", os.environ, tmp_path)
    assert ended.code is None
    assert "time limit of 2 s" in ended.sentence()
    until = time.monotonic() + 60
    while alive(tmp_path / "pid"):
        assert time.monotonic() < until, "the process goes on"
        time.sleep(0.05)


def test_sigterm_ends_the_process_that_is_supervised(tmp_path: Path) -> None:
    command = ["sh", "-c", f"kill -TERM {os.getpid()}; echo $$ > pid; sleep 600"]
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit), exit_on_sigterm():
        run_process(command, 60.0, tmp_path / "log.txt", os.environ, tmp_path)
    assert signal.getsignal(signal.SIGTERM) is before
    pid = tmp_path / "pid"  # it may have been killed before it wrote that
    eventually(lambda: not pid.exists() or not pid.read_text() or not alive(pid))


def test_sigterm_while_the_process_starts_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal arrives inside of `Popen`, whose caller has no process to end by then."""
    started: list[subprocess.Popen[bytes]] = []

    class Interrupted(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            started.append(self)
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("svd_core.benchmarks.gpu.command.subprocess.Popen", Interrupted)
    with pytest.raises(SystemExit), exit_on_sigterm():
        run_process(["sleep", "600"], 60.0, tmp_path / "log.txt", os.environ, tmp_path)
    assert started[0].returncode == -signal.SIGKILL


def alive(pid: Path) -> bool:
    """Whether the process of that number is more than a zombie."""
    status = Path(f"/proc/{pid.read_text().strip()}/status")
    return status.exists() and "zombie" not in status.read_text()


# Rows


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "step")
    recorder.write("stock", seconds=1.0)
    start = results_size(tmp_path)
    recorder.write("ours", seconds=0.5, shape=(1, 2), path=tmp_path)
    with (tmp_path / FILE).open("a") as file:
        file.write('{"part": "step", "case": "cut o')
    assert [row["case"] for row in read_rows(tmp_path)] == ["stock", "ours"]
    assert [row["case"] for row in read_rows(tmp_path, start)] == ["ours"]
    assert read_rows(tmp_path / "nowhere") == []


def test_a_case_that_fails_is_a_row_with_the_end_of_its_traceback(context: Context) -> None:
    def broken() -> Mapping[str, object]:
        return {"tflops": 1 / int("0")}

    assert not context.case("broken", broken)
    assert context.case("next", lambda: {"seconds": 1.0})
    found = rows(context.folder)
    assert found["broken"]["failed"] == "ZeroDivisionError: division by zero"
    assert any("in broken" in line for line in found["broken"]["where"])
    assert found["broken"]["kind"] == "error"
    assert found["next"]["seconds"] == 1.0


def raising(error: Exception) -> Callable[[], Mapping[str, object]]:
    def fail() -> Mapping[str, object]:
        raise error

    return fail


@pytest.mark.slow
def test_running_out_of_memory_is_told_from_other_errors(context: Context) -> None:
    context.case("full", raising(torch.OutOfMemoryError("CUDA out of memory.")))
    context.case("also full", raising(RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")))
    context.case("too small", raising(OutOfMemory("memory_too_small_to_load", model="x")))
    context.case("wrong", raising(ValueError("no")))
    kinds = {name: row["kind"] for name, row in rows(context.folder).items()}
    assert kinds.pop("wrong") == "error"
    assert set(kinds.values()) == {"out of memory"}


def test_behind_a_lost_context_nothing_is_tried(context: Context) -> None:
    lost = RuntimeError("CUDA error: an illegal memory access was encountered")
    hidden = GenerationFailed("model_gave_nan")
    hidden.__cause__ = lost
    for name, error in (("kernel", lost), ("clip", hidden)):
        with pytest.raises(LostContext):
            context.case(name, raising(error))
        assert rows(context.folder)[name]["kind"] == "lost context"


def test_no_case_begins_behind_the_deadline(tmp_path: Path) -> None:
    late, soon = make_context(tmp_path, remaining_s=-1), make_context(tmp_path, remaining_s=30)
    assert not late.case("late", lambda: {"seconds": 1.0})
    assert not soon.case("long", lambda: {"seconds": 1.0}, least_s=60)
    assert soon.case("short", lambda: {"seconds": 1.0}, least_s=1)
    skipped = {name for name, row in rows(tmp_path).items() if "skipped" in row}
    assert skipped == {"late", "long"}


# The process of a part


@pytest.fixture
def grad() -> Iterator[None]:
    """A part computes without gradients, which is right for its own process only."""
    yield
    torch.set_grad_enabled(True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_a_sentence_says_so(tmp_path: Path) -> None:
    assert parts.run_part("env", tmp_path, None, None, tiny=False) == UNUSABLE
    assert "--tiny" in rows(tmp_path)["device"]["failed"]


def test_what_cannot_be_imported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parts.run_part("gone", tmp_path, None, None, tiny=True) == UNUSABLE
    assert "svd_core.benchmarks.gpu.gone" in rows(tmp_path)["imports"]["failed"]
    wrapped = RuntimeError("Failed to import diffusers: No module named 'safetensors'")
    monkeypatch.setattr(parts, "import_module", lambda _: raising(wrapped)())
    assert parts.run_part("env", tmp_path, None, None, tiny=True) == UNUSABLE
    assert "'safetensors'" in rows(tmp_path)["imports"]["failed"]


@pytest.mark.usefixtures("grad")
@pytest.mark.parametrize(
    ("error", "code"), [(ValueError("outside of a case"), 0), (LostContext(), LOST_CONTEXT)]
)
def test_a_part_that_fails_outside_of_its_cases_ends_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    monkeypatch.setattr(env, "run_env", lambda _: raising(error)())
    assert parts.run_part("env", tmp_path, None, 60.0, tiny=True) == code
    assert ("end" in rows(tmp_path)) == (code == 0)
    assert [row["case"] for row in failures(read_rows(tmp_path))] == (["part"] if code == 0 else [])


@pytest.mark.usefixtures("grad")
def test_a_part_that_leaves_the_gpu_idle_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "memory_stats", dict)
    monkeypatch.setattr(env, "run_env", lambda _: None)
    assert parts.run_part("env", tmp_path, None, None, tiny=True) == 0
    assert "idle" in rows(tmp_path)["device"]["failed"]


def test_use_by_another_program_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "nvidia-smi"
    fake.write_text("#!/bin/sh\necho '580.1, 1980, 2619, [N/A], 97, 70000'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    use = env.nvidia_smi()
    assert use["utilization.gpu"] == "97"
    assert env.is_busy(use)
    assert not env.is_busy(use | {"utilization.gpu": "0", "memory.used": "4"})
    assert not env.is_busy({"utilization.gpu": "[N/A]"})
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert env.nvidia_smi() == {}


# Measuring


def test_errors_are_relative_and_seconds_are_those_of_one_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    truth = torch.tensor([3.0, 4.0])
    assert relative_error(truth, truth) == 0
    assert relative_error(torch.tensor([3.0, 4.5]), truth) == 0.1
    assert 0.02 <= Timer("cpu").seconds(lambda: time.sleep(0.02), budget_s=0.05) < 2.0
    times = iter([3.0, 0.4, 0.5, 0.3, 0.1])
    monkeypatch.setattr(Timer, "once", lambda *_: next(times))
    assert Timer("cpu").cost(lambda: None) == (3.0, 0.0)
    assert Timer("cpu").cost(lambda: None) == (0.3, 0.0)


def compared(context: Context, answer: torch.Tensor) -> Row:
    """The figures of a variant that answers so, where stock is off by a tenth."""
    answers = iter([torch.tensor([1.0, 0.1]), *[answer] * 9])
    comparison = Comparison(context, nn.Identity(), lambda: next(answers))
    comparison.truth = torch.tensor([1.0, 0.0])
    comparison.stock_error = 0.1
    next(answers)
    return comparison.measure()


def test_a_variant_further_off_than_stock_is_a_failure(context: Context) -> None:
    assert compared(context, torch.tensor([1.0, 0.1 * MAX_ERROR_RATIO]))["ok"]
    assert not compared(context, torch.tensor([1.0, 0.13]))["ok"]
    found = compared(context, torch.tensor([1.0, float("nan")]))
    assert not found["finite"]
    assert not found["ok"]


def test_attention_goes_where_it_is_sent_and_back(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    sdpa_kernel = comparison.sdpa_kernel

    def noted(backends: Any, **more: Any) -> Any:
        asked.append((backends, more))
        return sdpa_kernel(backends, **more)

    monkeypatch.setattr(comparison, "sdpa_kernel", noted)
    stock = F.scaled_dot_product_attention
    q, k, v = torch.randn(3, 1, 2, 4, 8).unbind()
    with comparison.attention_by(SDPBackend.MATH)(None):
        found = F.scaled_dot_product_attention(q, k, v)
    assert asked == [([SDPBackend.MATH], {"set_priority": True})]
    assert F.scaled_dot_product_attention is stock
    assert relative_error(found, stock(q, k, v)) < 1e-6


def test_kernels_are_known_by_kind(tmp_path: Path) -> None:
    assert kind_of("void at::native::RowwiseMomentsCUDAKernel<c10::Half>") == "norm"
    assert kind_of("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma") == "attention"
    assert kind_of("sm90_xmma_fprop_implicit_gemm_f16f16_nhwc") == "convolution"
    assert kind_of("Memcpy HtoD (Pinned -> Device)") == "to GPU"
    x = torch.randn(64, 64)
    found = profile_kernels(Timer("cpu"), lambda: x @ x, "a product", tmp_path)
    assert found["kernels"] >= 1
    assert "a product" in (tmp_path / "profile.txt").read_text()


def test_a_card_of_another_size_is_one_for_allocator_and_planner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shares: list[float] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (70, 80))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 6)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", shares.append)
    with clips.limited(8):
        assert torch.cuda.mem_get_info(0) == (2, 8)
        assert shares == [0.1]
    assert torch.cuda.mem_get_info() == (70, 80)
    assert shares == [0.1, 1.0]


# Candidates


def test_rewrites_are_those_of_cuda_with_changes() -> None:
    unet = random_models()["unet"]
    counts = comparison.rewrite(unet, without=("blend",), also=("upsample",))
    assert "blend" not in counts
    assert counts["joined attention"] > 0
    assert counts["upsample"] > 0
    assert "upsample" not in comparison.rewrite(unet)
    assert "blend" in {patch_name(layer) for layer in unet.modules()}


# The table


def test_the_table_shows_failures_first_and_what_is_faster() -> None:
    found = [
        {"part": "env", "case": "machine", "gpu": "H100", "torch": "2.11", "busy": True},
        {"part": "step", "case": "stock", "seconds": 2.0, "peak_gib": 9.3, "error": 1e-3},
        {"part": "step", "case": "ours", "seconds": 1.0, "ok": False, "error_vs_stock": 2.0},
        {"part": "step", "case": "ours, late", "skipped": "0 s are left"},
        {"part": "plans", "case": "7.6 GB", "plan": "model offload", "expected_gb": 7.0,
         "peak_gb": 7.2, "seconds": 3.0, "ran_out": True, "ok": False},
        {"part": "run", "case": "contest", "skipped": "10 s of the budget are left"},
    ]  # fmt: skip
    text = format_table(found)
    assert "other programs use this GPU" in text
    assert text.index("failures: 2") < text.index("2.00x")
    assert "MEMORY RAN OUT" in text
    assert "left out: 10 s of the budget" in text
    many = [{"part": "step", "case": f"case {i}", "failed": "no"} for i in range(50)]
    assert format_table(many).count("\n  ! ") == MOST_FAILURES
    assert f"and {50 - MOST_FAILURES} more" in format_table(many)
    assert "no machine" in format_table([])


# Whole runs


@pytest.mark.slow
def test_a_bare_machine_can_import_every_part(bare: dict[str, str]) -> None:
    modules = [
        f"svd_core.benchmarks.gpu.{path.stem}"
        for path in (ROOT / "svd_core/benchmarks/gpu").glob("*.py")
        if path.stem != "__init__"
    ]
    code = f"import {', '.join(modules)}; import sqlalchemy"
    done = subprocess.run([sys.executable, "-c", code], env=bare, capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert last == "ModuleNotFoundError: No module named 'sqlalchemy'", done.stderr


def test_the_command_itself_brings_no_torch() -> None:
    code = "import sys, svd_core.benchmarks.gpu.command; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.slow
def test_smoke_passes_on_a_pretended_gpu(
    context: Context, monkeypatch: pytest.MonkeyPatch, one_thread: None, tiny_checkpoint: Path
) -> None:
    card = Device(kind="cuda", name="pretended", total_bytes=80 << 30, free_bytes=80 << 30)
    monkeypatch.setattr(pipeline_loader, "find_device", lambda: card)
    with pretend_cuda():
        checkpoint = find_checkpoint(str(tiny_checkpoint), cuda=True)
        smoke.check(context, checkpoint, ("model", "sequential"))
    found = rows(context.folder)
    assert failures(found.values()) == []
    assert "model offload" in found["model: settings"]["device"]
    assert {name for name in found if name.startswith("model: ")} == {
        f"model: {name}" for name in (
            "settings", "1 frame at a time", "cancelled", "out of memory once", "turbo and back"
        )
    }  # fmt: skip


@pytest.mark.slow
def test_every_part_runs_on_a_cpu_of_a_bare_machine(bare: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "svd_core.benchmarks", "gpu", "--tiny", "--budget", "3600"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out")],
        cwd=ROOT, env=bare, capture_output=True, text=True,
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    text = done.stdout[-4000:] + done.stderr
    assert (found["failures"], done.returncode) == (0, 0), text
    ended = [row["part"] for row in read_rows(tmp_path / "out") if row["case"] == "end"]
    assert ended == [part.name for part in PARTS]
