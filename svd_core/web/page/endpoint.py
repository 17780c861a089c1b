"""Public endpoint `/generate` of the page, for Gradio clients and MCP."""

from collections.abc import Callable
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any

import gradio as gr

from svd_core import params
from svd_core.errors import Cancelled, SvdError
from svd_core.events import Failed, Progress, Succeeded
from svd_core.params import PARAMETERS
from svd_core.web.page.backend import Backend
from svd_core.web.page.formatting import duration, progress_text, summary
from svd_core.web.page.i18n import texts_for

REQUIRED = Parameter.empty

DESCRIPTION = """\
Turn a photo into a short video with Stable Video Diffusion. It takes seconds to minutes.

Args:
    image: the photo, in any common format, at most 20 MB and 40 megapixels.
{parameters}

Returns:
    The video as mp4, the seed that made it, and a sentence about it.
"""


def endpoint(backend: Backend) -> Callable[..., tuple[Path, int, str]]:
    """The function behind `/generate`.

    Clients read its signature and docstring, which are made from the fields of `VideoParams`.
    """

    def generate(*arguments: Any) -> tuple[Path, int, str]:
        image, *settings, request, progress = arguments
        values, t = dict(zip(PARAMETERS, settings, strict=True)), texts_for(request)
        # Gradio's queue passes on the request, but not the context variable with the address.
        client = None if request is None else request.client
        address = None if client is None else str(client.host)
        try:
            for event in backend.submit(image, values, address=address).events():
                match event:
                    case Progress():
                        counted = (event.step, event.total) if event.total else None
                        progress(counted, desc=progress_text(event, t))
                    case Succeeded(video):
                        done = t("done", elapsed=duration(video.elapsed_s, t))
                        return video.path, video.seed, f"{summary(video, t)} {done}"
                    case Failed(error):
                        raise error
            raise Cancelled("cancelled_by_other")
        except SvdError as error:
            sentence = t.message(error.message, labels=False)
            raise gr.Error(sentence, print_exception=False) from None

    kinds = {"image": bytes | None, **dict.fromkeys(PARAMETERS, Any), "request": gr.Request}
    defaults = dict.fromkeys((*PARAMETERS, "request")) | {"progress": gr.Progress()}
    generate.__annotations__ = kinds | {"return": tuple[Path, int, str]}
    generate.__signature__ = Signature(  # type: ignore[attr-defined]
        [
            Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, default=defaults.get(name, REQUIRED))
            for name in (*kinds, "progress")
        ],
        return_annotation=tuple[Path, int, str],
    )
    lines = [f"    {name}: {_help(parameter)}." for name, parameter in PARAMETERS.items()]
    generate.__doc__ = DESCRIPTION.format(parameters="\n".join(lines))
    return generate


def _help(parameter: params.Parameter) -> str:
    allowed = parameter.span or ", ".join(map(repr, parameter.words))
    return f"{parameter.help} ({allowed})" if allowed else parameter.help
