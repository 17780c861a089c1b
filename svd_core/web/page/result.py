"""What can be done with a finished video: make it again with the obvious change, or go on."""

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from svd_core.errors import SvdError
from svd_core.params import VideoParams
from svd_core.web.page import motion
from svd_core.web.page.backend import with_new_seed
from svd_core.web.page.dials import Changes, shown
from svd_core.web.page.studio import Studio
from svd_core.web.page.texts import fixed, texts_for

CHANGES: dict[str, Callable[[VideoParams], VideoParams]] = {
    "again": with_new_seed,
    "more_motion": motion.more,
    "less_motion": motion.less,
}


def result_buttons() -> dict[str, gr.Button]:
    with gr.Row(elem_id="after"):
        return {
            name: gr.Button(fixed(name), size="sm", min_width=120, elem_id=name) for name in CHANGES
        }


def wire_result(studio: Studio, buttons: dict[str, gr.Button]) -> None:
    for name, change in CHANGES.items():

        def run(
            ids: list[str], card: Any, request: gr.Request,
            change: Callable[[VideoParams], VideoParams] = change,
        ) -> Iterator[Changes]:  # fmt: skip
            job = studio.backend.job(ids[0] if ids else None, card)
            say = texts_for(request)
            if job is None:
                yield {studio.screen.line: say("nothing_there")}
                return
            try:
                again = studio.backend.again(job, change)
            except SvdError as error:
                yield studio.screen.refused(error)
                return
            yield shown(again.params, studio.dials)
            yield from studio.run(lambda visitor: [studio.backend.put(again, visitor)], card, say)

        buttons[name].click(
            run, [studio.screen.current, studio.visitor], studio.outputs, **studio.watching
        )
