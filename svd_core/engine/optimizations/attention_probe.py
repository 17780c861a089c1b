"""Attention backend selection by a probe on the GPU: checked against float32, then timed.

Which of torch's backends for scaled dot-product attention is fastest, or works at all, depends on
the GPU and the versions of torch and cuDNN. Each candidate runs at SVD-XT's two shapes. One that
raises, or whose error is larger than rounding explains, is not used. The others are ordered by
time. The result is cached in a JSON file, by card, versions and precision.
"""

import json
import logging
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # the field's name
from torch.nn.attention import SDPBackend, sdpa_kernel

from svd_core.engine.devices import is_out_of_memory

CANDIDATES = (
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
)
"""In the order in which they are tried."""

UNPROBED = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)
"""The order without a probe. cuDNN is left out, since it is wrong on some GPUs."""

LIMIT_S = 3.0
"""Seconds after which no further candidate is tried, if one is right."""

TOLERANCE = 0.02
"""Largest error, as a share of the largest number. In half precision it is about 0.001."""

QUERIES = 8
"""Queries of each batch and head that are compared. Their float32 reference takes 0.1 GB."""

SHARPNESS = 3.0
"""Standard deviation of the logits: each answer then depends on few keys, so a wrong one shows."""

NAME = "attention.json"

UNFINISHED = "attention-unfinished.json"
"""Name of the file of backends whose probe did not end: the last one may have crashed the GPU."""

log = logging.getLogger(__name__)

Attend = Callable[[SDPBackend, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Shape:
    """Shape of self-attention: `batch` sequences of `tokens`, with `heads` of `channels` each."""

    batch: int
    tokens: int
    heads: int
    channels: int = 64


SHAPES = (Shape(batch=25, tokens=72 * 128, heads=5), Shape(batch=72 * 128, tokens=25, heads=5))
"""SVD-XT's largest level, without guidance: over the places of each frame, over frames."""


@dataclass(frozen=True)
class Probe:
    """A comparison of attention backends on one device.

    `device`: such as "cuda:0". `attend`: computes attention by one backend. `clock`: seconds, read
    after the device has finished its work. `on_try`: called with a backend before it is tried.
    """

    device: str
    dtype: torch.dtype
    attend: Attend
    clock: Callable[[], float]
    shapes: Sequence[Shape] = SHAPES
    candidates: Sequence[SDPBackend] = CANDIDATES
    on_try: Callable[[SDPBackend], None] = lambda _: None

    def run(self) -> tuple[SDPBackend, ...] | None:
        """The candidates that are right, the fastest first; None if memory ran out."""
        started = self.clock()
        seconds: dict[SDPBackend, float] = {}
        try:
            cases = [
                Case.from_inputs(tokens(shape, self.device, self.dtype)) for shape in self.shapes
            ]
            for backend in self.candidates:
                if seconds and self.clock() - started >= LIMIT_S:
                    break
                self.on_try(backend)
                times = [self._timed(backend, case) for case in cases]
                if None not in times:
                    seconds[backend] = sum(filter(None, times))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return None
        return tuple(sorted(seconds, key=lambda backend: seconds[backend]))

    def _timed(self, backend: SDPBackend, case: "Case") -> float | None:
        """Seconds of one call, None for a backend that raises or is wrong."""
        try:
            deviation = case.error(self.attend(backend, *case.inputs))  # this loads kernels, too
            if not deviation <= TOLERANCE:  # so that NaN is noticed
                log.warning("Attention by %s is wrong here (%.2g off).", backend.name, deviation)
                return None
            started = self.clock()
            self.attend(backend, *case.inputs)
            return self.clock() - started
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            torch.ones(1, device=self.device).add(1).item()  # raises again if the GPU is lost
            log.info("Attention by %s does not work here: %s", backend.name, error)
            return None


@dataclass(frozen=True)
class Case:
    """A test case with its reference result.

    `inputs`: queries, keys and values (3, batch, heads, tokens, channels). `expected`: the result
    in float32 for the queries numbered in `some`.
    """

    inputs: Tensor
    some: Tensor
    expected: Tensor

    @classmethod
    def from_inputs(cls, inputs: Tensor) -> "Case":
        """A case with `QUERIES` queries spread over the tokens of `inputs`."""
        q, k, v = inputs
        last = inputs.shape[-2] - 1
        some = torch.linspace(0, last, min(QUERIES, last + 1), device=q.device).round().long()
        return cls(inputs, some, reference(q[:, :, some], k, v))

    def error(self, result: Tensor) -> float:
        """Largest error of `result`, as a share of the largest number; NaN if it has infinite ones
        or NaN."""
        largest = (result[:, :, self.some].float() - self.expected).abs().max()
        return float(largest / self.expected.abs().max() + 0 * result.sum())


def tokens(shape: Shape, device: str, dtype: torch.dtype) -> Tensor:
    """Random queries, keys and values (3, batch, heads, tokens, channels).

    Their memory layout is as the projection of `fused_qkv_attention` writes them.
    """
    size = shape.batch, shape.tokens, 3, shape.heads, shape.channels
    generator = torch.Generator(device).manual_seed(0)
    joined = torch.randn(size, generator=generator, device=device, dtype=dtype)
    joined[:, :, 0] *= SHARPNESS
    return joined.permute(2, 0, 3, 1, 4)


def reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention in float32 by its definition, some of the batch at a time."""
    out = []
    for queries, keys, values in zip(*(torch.split(x, 1024) for x in (q, k, v)), strict=True):
        logits = queries.float() @ keys.float().transpose(-1, -2) * queries.shape[-1] ** -0.5
        out.append(logits.softmax(dim=-1) @ values.float())
    return torch.cat(out)


def attend(backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention by torch's `backend`. Raises `RuntimeError` where it does not work."""
    with warnings.catch_warnings(), sdpa_kernel(backend):
        warnings.simplefilter("ignore")  # torch's reasons for refusing a backend
        return F.scaled_dot_product_attention(q, k, v)


def attention_backends(device: str, dtype: str, folder: Path | None) -> tuple[SDPBackend, ...]:
    """The backends to use on `device` (a GPU), in order: from the cache in `folder`, or a probe.

    The last one is always torch's own composition of operators, which works everywhere but needs
    much memory. Nothing is cached if memory runs out during the probe, or without a folder.
    """
    if not torch.cuda.is_available():
        return UNPROBED
    card = card_key(device, dtype)
    cached = read_cached(folder)
    names = cached.get(card)
    if names is None:
        backends = _run_probe(device, dtype, card, folder)
        torch.cuda.empty_cache()
        if backends is None:
            return UNPROBED
        names = [backend.name for backend in backends]
        if names:  # else something was wrong with the card itself
            write_cache(folder, cached | {card: names})
    return (*(SDPBackend.__members__[name] for name in names), SDPBackend.MATH)


def _run_probe(
    device: str, dtype: str, card: str, folder: Path | None
) -> tuple[SDPBackend, ...] | None:
    """The result of `Probe.run` without backends that ended an earlier process.

    Otherwise a supervisor would start one process after another that ends the same way.
    """
    tried = read_cached(folder, UNFINISHED).get(card, [])

    def on_try(backend: SDPBackend) -> None:
        write_cache(folder, {card: [*tried, backend.name]}, UNFINISHED)

    backends = Probe(
        device,
        getattr(torch, dtype),
        attend,
        lambda: _synchronized(device),
        candidates=[each for each in CANDIDATES if each.name not in tried],
        on_try=on_try,
    ).run()
    if folder is not None:
        with suppress(OSError):
            (folder / UNFINISHED).unlink(missing_ok=True)
    return backends


def card_key(device: str, dtype: str) -> str:
    """Key of the cache: everything that the choice depends on."""
    name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return f"{name} {capability}, torch {torch.__version__}, cuDNN {cudnn}, {dtype}"


def read_cached(folder: Path | None, name: str = NAME) -> dict[str, list[str]]:
    """Cached backends by card, without entries that this version could not have written."""
    if folder is None:
        return {}
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    entries = content.items() if isinstance(content, dict) else ()
    return {card: names for card, names in entries if _is_order(names)}


def write_cache(folder: Path | None, entries: dict[str, list[str]], name: str = NAME) -> None:
    """Write backends by card. Without a folder, or where it cannot be written, nothing is kept."""
    if folder is None:
        return
    with suppress(OSError):  # then the next start probes again
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{name}.{time.time_ns()}.part"
        part.write_text(json.dumps(entries, indent=1), encoding="utf-8")
        part.replace(folder / name)


def _is_order(names: Any) -> bool:
    known = {backend.name for backend in CANDIDATES}
    return (
        isinstance(names, list)
        and all(isinstance(name, str) for name in names)
        and set(names) <= known
        and len(set(names)) == len(names)
    )


def _synchronized(device: str) -> float:
    torch.cuda.synchronize(device)
    return time.perf_counter()
