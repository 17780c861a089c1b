"""Kernel probe: candidates for one computation, checked against wider precision, then timed.

Which kernel or memory layout works, and which is fastest, depends on the GPU and its libraries. A
candidate that raises, or that is less exact than stock by more than rounding, is not used. The
others are ordered by time. The result is cached in a JSON file, by card, versions and precision.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from svd_core import __version__
from svd_core.engine.devices import is_out_of_memory

LIMIT_S = 3.0
"""Seconds after which no further candidate is tried, if one is right."""

TOLERANCE = 0.02
"""Largest error, as a share of the largest number. In half precision it is about 0.001."""

MAX_ERROR_RATIO = 1.05
"""Largest ratio of a candidate's error to stock's, both as Euclidean lengths."""

ROUNDING = 3e-6
"""Largest error in single precision, as a share of the largest number, that is never too much."""

MARGIN = 0.03
"""Share of the first candidate's time that another one must save; less may be noise."""

REPEATS = 3
"""Timed runs in a row."""

WIDER = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float64,
}
"""Precision of the expected results."""

NAME = "probes.json"

UNFINISHED = "probes-unfinished.json"
"""File of candidates during whose probe an earlier process ended. They may crash the GPU."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Case:
    """A computation with its expected result.

    `compute`: its result by a candidate's name. `expected`: in wider precision, the part of the
    result that `select` takes.
    """

    compute: Callable[[str], Tensor]
    expected: Tensor
    select: Callable[[Tensor], Tensor] = lambda result: result

    def errors(self, result: Tensor) -> tuple[float, float]:
        """Errors of `result`: the largest, as a share of the largest number, and the Euclidean one,
        as a share of the length. NaN if it has infinite numbers or NaN."""
        if not bool(torch.isfinite(result).all()):
            return float("nan"), float("nan")
        apart = self.select(result).to(self.expected.dtype) - self.expected
        largest = apart.abs().max() / self.expected.abs().max()
        length = torch.linalg.vector_norm(apart) / torch.linalg.vector_norm(self.expected)
        return float(largest), float(length)


@dataclass(frozen=True)
class Choice:
    """A choice between `candidates`, which are tried in this order.

    The first is used without a probe, and stays unless another is clearly faster. `stock`: the name
    of what stock diffusers does, whose error sets the limit; it may be one of them. `cases`:
    computations to compare on a device in a precision.
    """

    name: str
    stock: str
    candidates: Sequence[str]
    cases: Callable[[str, torch.dtype], Sequence[Case]]


@dataclass(frozen=True)
class Probe:
    """A comparison of the candidates of `choice` on one device.

    `device`: such as "cuda:0". `clock`: seconds, read after the device has finished its work.
    `skip`: candidates to leave out. `on_try`: called with each candidate before it is tried.
    """

    choice: Choice
    device: str
    dtype: torch.dtype
    clock: Callable[[], float]
    skip: Sequence[str] = ()
    on_try: Callable[[str], None] = lambda _: None

    def run(self) -> tuple[str, ...] | None:
        """The candidates that are right, the fastest first; None if memory ran out."""
        started = self.clock()
        seconds: dict[str, float] = {}
        try:
            with cudnn_flag("allow_tf32", False), torch.no_grad():
                cases = self.choice.cases(self.device, self.dtype)
            limits = [self._limit(case) for case in cases]
            for name in self.choice.candidates:
                if name in self.skip:
                    continue
                if seconds and self.clock() - started >= LIMIT_S:
                    break
                self.on_try(name)
                taken = self._timed(name, cases, limits)
                if taken is not None:
                    seconds[name] = taken * (1 - MARGIN if name == self.choice.candidates[0] else 1)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return None
        return tuple(sorted(seconds, key=seconds.__getitem__))

    def _limit(self, case: Case) -> float:
        """Largest Euclidean error that is accepted in `case`: a little above that of stock."""
        if self.choice.stock in self.skip:
            return TOLERANCE
        self.on_try(self.choice.stock)
        try:
            with torch.no_grad():
                largest, length = case.errors(case.compute(self.choice.stock))
        except Exception as error:  # noqa: BLE001  # kernels and compilers raise anything
            self._check_device(error)
            return TOLERANCE
        return MAX_ERROR_RATIO * length if largest <= TOLERANCE else TOLERANCE

    def _timed(self, name: str, cases: Sequence[Case], limits: Sequence[float]) -> float | None:
        """Seconds of one run of all cases, None for a candidate that raises or is wrong."""
        total = 0.0
        try:
            for case, limit in zip(cases, limits, strict=True):
                with torch.no_grad():
                    largest, length = case.errors(case.compute(name))  # this loads kernels, too
                    near = length <= limit or (self.dtype == torch.float32 and largest <= ROUNDING)
                    if not (largest <= TOLERANCE and near):  # so that NaN is noticed
                        what = f"{self.choice.name}: {name}"
                        log.warning(
                            "%s is wrong here (%.2g off), so it is not used.", what, largest
                        )
                        return None
                    started = self.clock()
                    for _ in range(REPEATS):
                        case.compute(name)
                    total += (self.clock() - started) / REPEATS
        except Exception as error:  # noqa: BLE001  # as above
            self._check_device(error)
            log.info("%s: %s does not work here: %s", self.choice.name, name, error)
            return None
        return total

    def _check_device(self, error: Exception) -> None:
        """Raises for `error` if it says nothing about the candidate."""
        if is_out_of_memory(error):
            raise error
        torch.ones(1, device=self.device).add(1).item()  # raises again if the GPU is lost


@contextmanager
def cudnn_flag(name: str, value: bool) -> Iterator[None]:
    """Set a flag of `torch.backends.cudnn` until the context ends.

    `allow_tf32`: round float32 convolutions, as torch does by default, unlike matrix products.
    `benchmark`: time cuDNN's algorithms for each new shape and keep the fastest.
    """
    before = getattr(torch.backends.cudnn, name)
    setattr(torch.backends.cudnn, name, value)
    try:
        yield
    finally:
        setattr(torch.backends.cudnn, name, before)


def choose(choice: Choice, device: str, dtype: str, folder: Path | None) -> tuple[str, ...] | None:
    """The candidates to use on `device` (a GPU), the fastest first.

    They come from the cache in `folder`, or from a probe. None if torch finds no GPU, or if memory
    ran out during the probe. Nothing is cached then, nor if no candidate is right, nor without a
    folder. Candidates that ended an earlier process are left out. Otherwise a supervisor would
    start one process after another that ends the same way.
    """
    if not torch.cuda.is_available():
        return None
    key = cache_key(choice, device, dtype)
    cached, unfinished = read_cached(folder, NAME), read_cached(folder, UNFINISHED)
    names = cached.get(key)
    if names is not None and len(set(names)) == len(names) and set(names) <= {*choice.candidates}:
        return tuple(names)
    tried = unfinished.get(key, [])

    def on_try(name: str) -> None:
        write_cache(folder, UNFINISHED, unfinished | {key: [*tried, name]})

    precision: torch.dtype = getattr(torch, dtype)
    result = Probe(choice, device, precision, lambda: synchronized(device), tried, on_try).run()
    if folder is not None:
        with suppress(OSError):
            (folder / UNFINISHED).unlink(missing_ok=True)
    torch.cuda.empty_cache()
    if result:  # else something was wrong with the card itself
        write_cache(folder, NAME, cached | {key: list(result)})
    return result


def cache_key(choice: Choice, device: str, dtype: str) -> str:
    """Key of the cache: everything that the result depends on."""
    name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    versions = f"{__version__}, torch {torch.__version__}, cuDNN {cudnn}"
    question = f"{choice.name} by {', '.join(choice.candidates)}"
    return f"{name} {capability}, {versions}, {dtype}: {question}"


def read_cached(folder: Path | None, file: str) -> dict[str, list[str]]:
    """Cached names by key, without entries that are not lists of names."""
    if folder is None:
        return {}
    try:
        content = json.loads((folder / file).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    entries = content.items() if isinstance(content, dict) else ()
    return {
        key: names
        for key, names in entries
        if isinstance(names, list) and all(isinstance(name, str) for name in names)
    }


def write_cache(folder: Path | None, file: str, entries: dict[str, list[str]]) -> None:
    """Write names by key. Without a folder, or where it cannot be written, nothing is kept."""
    if folder is None:
        return
    with suppress(OSError):  # then the next start probes again
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{file}.{time.time_ns()}.part"
        part.write_text(json.dumps(entries, indent=1), encoding="utf-8")
        part.replace(folder / file)


def synchronized(device: str) -> float:
    """Seconds on a clock, read after `device` has finished its work."""
    torch.cuda.synchronize(device)
    return time.perf_counter()
