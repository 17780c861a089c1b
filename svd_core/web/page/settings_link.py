"""A link that carries settings: what it says when the page is opened by one."""

from typing import Any
from urllib.parse import urlencode

import gradio as gr
from gradio.events import Dependency

from svd_core.errors import InvalidRequest
from svd_core.params import CHOICES, LIMITS, VideoParams
from svd_core.web.page.controls import Changes
from svd_core.web.page.formatting import refused_html, status_html
from svd_core.web.page.i18n import texts_for
from svd_core.web.page.page_events import QUICK
from svd_core.web.page.page_state import Studio

NAMES = {*LIMITS, *CHOICES, "model"}


def link_line() -> gr.HTML:
    return gr.HTML("", elem_id="link-said", padding=False)


def wire_link(page: gr.Blocks, studio: Studio, said: gr.HTML) -> Dependency:
    """Returns the event, for what has to come after it when the page is opened."""

    def on_open(request: gr.Request) -> Changes:
        given: list[tuple[str, Any]] = list(request.query_params.multi_items())
        if not any(name in NAMES for name, _ in given):
            return {said: ""}
        say = texts_for(request)
        try:
            params = VideoParams.from_query(urlencode(given))
            studio.offer.named(params.model)
        except InvalidRequest as error:
            return {said: refused_html(error, say)}
        line = " ".join([say("link_read"), *studio.lacking(params, say)])
        told: Changes = {said: status_html(line)}
        told[studio.random] = all(name != "seed" for name, _ in given)
        return told | studio.shown(params, say)

    outputs = [said, studio.random, studio.chosen, *studio.dials.values()]
    return page.load(on_open, None, outputs, **QUICK)


def query_of(params: VideoParams, with_seed: bool) -> str:
    query = params.to_query()
    return query if with_seed else "&".join(p for p in query.split("&") if p[:5] != "seed=")
