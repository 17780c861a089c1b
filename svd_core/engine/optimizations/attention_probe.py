"""Attention kernels: torch's backends, and FlashAttention 3 and 4 where they are installed.

cuDNN is wrong on some GPUs and the fastest on others, so a probe on the GPU decides their order. It
runs each candidate at SVD-XT's two shapes.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's name
from torch.nn.attention import SDPBackend, sdpa_kernel

from svd_core.engine.optimizations.probe import WIDER, Case, Choice, choose

BACKENDS = (
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
)
"""In the order in which they are tried."""

UNPROBED = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)
"""The order without a probe. cuDNN is left out, since it is wrong on some GPUs."""

STOCK = "torch's choice"
"""The backend that torch chooses, as in stock diffusers."""

QUERIES = 8
"""Queries of each batch and head to compare. Their float32 reference takes 0.1 GB."""

SHARPNESS = 3.0
"""Standard deviation of the logits. Each output then depends on few keys, which reveals errors."""


@dataclass(frozen=True)
class Attention:
    """Kernels for attention in order of preference.

    `flash`: the implementation to use as torch's flash kernel, such as "FA3"; None: torch's own.
    """

    backends: Sequence[SDPBackend] = UNPROBED
    flash: str | None = None

    @classmethod
    def from_names(cls, names: Sequence[str]) -> "Attention":
        """From names of candidates, the fastest first.

        The last one is always torch's composition of operators, which works everywhere but needs
        much memory. Of several implementations of flash, only the fastest is used.
        """
        known = SDPBackend.__members__
        backends = [known.get(name, SDPBackend.FLASH_ATTENTION) for name in names]
        flash = next((n for n in names if known.get(n) in (None, SDPBackend.FLASH_ATTENTION)), None)
        return cls(
            backends=(*dict.fromkeys(backends), SDPBackend.MATH),
            flash=None if flash in known else flash,
        )

    @contextmanager
    def active(self) -> Iterator[None]:
        """Compute attention by the first of `backends` that can, until the context ends."""
        set_flash(self.flash)
        with sdpa_kernel(list(self.backends), set_priority=True):
            yield


def set_flash(implementation: str | None) -> None:
    """Use `implementation` as torch's flash kernel in this process; None: torch's own.

    Raises if the package is missing or does not fit.
    """
    attention: Any = nn.attention
    if not flash_implementations() or attention.current_flash_attention_impl() == implementation:
        return
    if implementation is None:
        attention.restore_flash_attention_impl()
    else:
        attention.activate_flash_attention_impl(implementation)


def flash_implementations() -> list[str]:
    """Names of FlashAttention packages that this torch can use, installed or not."""
    attention: Any = nn.attention
    listed = getattr(attention, "list_flash_attention_impls", None)
    return [] if listed is None else list(listed())


@dataclass(frozen=True)
class Shape:
    """Shape of self-attention: `batch` sequences of `tokens`, with `heads` of `channels` each."""

    batch: int
    tokens: int
    heads: int
    channels: int = 64


SHAPES = (Shape(batch=25, tokens=72 * 128, heads=5), Shape(batch=72 * 128, tokens=25, heads=5))
"""SVD-XT's largest level, without guidance: over the places of each frame, over frames."""


def cases(device: str, dtype: torch.dtype) -> list[Case]:
    return [from_inputs(tokens(shape, device, dtype)) for shape in SHAPES]


def from_inputs(inputs: Tensor) -> Case:
    """A case of queries, keys and values (3, batch, heads, tokens, channels).

    It compares `QUERIES` queries, spread over the tokens.
    """
    q, k, v = inputs
    last = inputs.shape[-2] - 1
    some = torch.linspace(0, last, min(QUERIES, last + 1), device=q.device).round().long()
    return Case(
        compute=lambda name: attend(name, q, k, v),
        expected=reference(q[:, :, some], k, v),
        select=lambda result: result[:, :, some],
    )


def tokens(shape: Shape, device: str, dtype: torch.dtype) -> Tensor:
    """Random queries, keys and values (3, batch, heads, tokens, channels).

    Their memory layout is that of `fused_qkv_attention`.
    """
    size = shape.batch, shape.tokens, 3, shape.heads, shape.channels
    generator = torch.Generator(device).manual_seed(0)
    joined = torch.randn(size, generator=generator, device=device, dtype=dtype)
    joined[:, :, 0] *= SHARPNESS
    return joined.permute(2, 0, 3, 1, 4)


def reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention by its definition, in wider precision and parts of the batch."""
    out, dtype = [], WIDER[q.dtype]
    for parts in zip(*(torch.split(x, 1024) for x in (q, k, v)), strict=True):
        queries, keys, values = (x.to(dtype) for x in parts)
        logits = queries @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5
        out.append(logits.softmax(dim=-1) @ values)
    return torch.cat(out)


def attend(name: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention by the candidate `name`. Raises where it does not work."""
    backend = SDPBackend.__members__.get(name)
    set_flash(None if backend or name == STOCK else name)
    if name == STOCK:
        return F.scaled_dot_product_attention(q, k, v)
    with warnings.catch_warnings(), sdpa_kernel(backend or SDPBackend.FLASH_ATTENTION):
        warnings.simplefilter("ignore")  # torch's reasons for refusing a backend
        return F.scaled_dot_product_attention(q, k, v)


def attention_choice() -> Choice:
    """The choice between torch's backends and installed FlashAttention packages."""
    names = [*(backend.name for backend in BACKENDS), *flash_implementations()]
    return Choice("Attention", STOCK, names, cases)


def choose_attention(device: str, dtype: str, folder: Path | None) -> Attention:
    """The attention kernels to use on `device` (a GPU); see `probe.choose`."""
    names = choose(attention_choice(), device, dtype, folder)
    return Attention() if names is None else Attention.from_names(names)
