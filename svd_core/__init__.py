"""Public API of the photo-to-video program. Start reading at `generate.py`.

Importing this package loads nothing else: each public name is imported on first use.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from svd_core.engine.engine import SvdEngine
    from svd_core.errors import Cancelled, SvdError
    from svd_core.events import Progress, Stage, Video
    from svd_core.generate import generate
    from svd_core.params import VideoParams, VideoRequest
    from svd_core.storage import ResultStore

__version__ = "0.1.0"

__all__ = [
    "Cancelled", "Progress", "ResultStore", "Stage", "SvdEngine", "SvdError", "Video",
    "VideoParams", "VideoRequest", "__version__", "generate",
]  # fmt: skip

_MODULES = {
    "svd_core.engine.engine": ("SvdEngine",),
    "svd_core.errors": ("Cancelled", "SvdError"),
    "svd_core.events": ("Progress", "Stage", "Video"),
    "svd_core.generate": ("generate",),
    "svd_core.params": ("VideoParams", "VideoRequest"),
    "svd_core.storage": ("ResultStore",),
}


class _PublicApi(ModuleType):
    """Type of this package, which imports the public names on first use (as in PEP 562)."""

    def __getattr__(self, name: str) -> object:
        for module, names in _MODULES.items():
            if name in names:
                value: object = getattr(import_module(module), name)
                setattr(self, name, value)
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)

    def __setattr__(self, name: str, value: object) -> None:
        # Python binds a submodule to its package after loading it. The function `generate` and
        # its module share one name; here the name is the function's, whichever is loaded first.
        if name == "generate" and isinstance(value, ModuleType):
            value = value.generate
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _PublicApi
