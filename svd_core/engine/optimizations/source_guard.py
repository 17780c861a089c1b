"""Source guard: the optimizations apply only to the diffusers sources they were compared with.

Sources, not version numbers, decide: a new version that leaves these functions alone is fine, and
so is an old one. Anything else falls back on the stock layers, with a sentence in the log.
"""

import hashlib
import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import diffusers
from diffusers.models.activations import GEGLU
from diffusers.models.attention import (
    BasicTransformerBlock,
    FeedForward,
    TemporalBasicTransformerBlock,
)
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.autoencoders.autoencoder_kl_temporal_decoder import TemporalDecoder
from diffusers.models.resnet import (
    AlphaBlender,
    ResnetBlock2D,
    SpatioTemporalResBlock,
    TemporalResnetBlock,
)
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from diffusers.models.upsampling import Upsample2D

COMPARED_WITH = "0.42.1"

STOCK: Mapping[Callable[..., Any], str] = {
    Attention.forward: "e6822ac3500626c7",
    AttnProcessor2_0.__call__: "bf23ea5ae4040427",
    FeedForward.forward: "dae2c9f53987c25a",
    GEGLU.forward: "28ea6dd13c76df98",
    AlphaBlender.forward: "10849f2751d5a668",
    AlphaBlender.get_alpha: "ae05d1667e46febc",
    ResnetBlock2D.forward: "e3f38e1722955caf",
    TemporalResnetBlock.forward: "05a7bbf4a3c8ad01",
    SpatioTemporalResBlock.forward: "df3956ccd2b0407b",
    BasicTransformerBlock.forward: "440071576ac5ee6f",
    TemporalBasicTransformerBlock.forward: "7eafa694dd59e03e",
    TransformerSpatioTemporalModel.forward: "d8df8cea5b87eadc",
    TemporalDecoder.forward: "102c15f136cfeccb",
    Upsample2D.forward: "3c0e13df5e4ac796",
}
"""Functions the rewrites stand for or rely on, and the start of the SHA-256 of their source."""

log = logging.getLogger(__name__)


def changed_sources(functions: Mapping[Callable[..., Any], str] = STOCK) -> list[str]:
    """Names of `functions` whose source is another than it was, or cannot be read."""
    return [f.__qualname__ for f, known in functions.items() if source_hash(f) != known]


def source_hash(function: Callable[..., Any]) -> str:
    """The first 16 digits of the SHA-256 of a function's source; empty where there is no source."""
    try:
        source = inspect.getsource(function)
    except OSError:
        return ""
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def if_supported(
    names: Iterable[str], functions: Mapping[Callable[..., Any], str] = STOCK
) -> list[str]:
    """`names` of rewrites; none, with a warning, where diffusers is not what they were made for."""
    found = changed_sources(functions)
    if not found:
        return list(names)
    log.warning(
        "diffusers %s computes %s in another way than %s, with which the exact speed-ups were "
        "compared; videos are made without them, only slower.",
        diffusers.__version__, ", ".join(found), COMPARED_WITH,
    )  # fmt: skip
    return []
