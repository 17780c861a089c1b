"""Settings link: applies the settings in the address when the page is opened."""

from typing import Any
from urllib.parse import urlencode

import gradio as gr
from gradio.events import Dependency

from svd_core.errors import InvalidRequest
from svd_core.params import CHOICES, LIMITS, VideoParams
from svd_core.web.page.controls import Changes
from svd_core.web.page.formatting import refused_html, status_html
from svd_core.web.page.i18n import texts_for
from svd_core.web.page.page_events import UNQUEUED_EVENT
from svd_core.web.page.page_state import PageState

FIELDS = {*LIMITS, *CHOICES, "model"}


def link_message() -> gr.HTML:
    return gr.HTML("", elem_id="link-said", padding=False)


def bind_settings_link(page: gr.Blocks, state: PageState, said: gr.HTML) -> Dependency:
    """Returns the event, for what has to come after it when the page is opened."""

    def on_open(request: gr.Request) -> Changes:
        given: list[tuple[str, Any]] = list(request.query_params.multi_items())
        if not any(name in FIELDS for name, _ in given):
            return {said: ""}
        t = texts_for(request)
        try:
            params = VideoParams.from_query(urlencode(given))
            state.catalog.get(params.model)
        except InvalidRequest as error:
            return {said: refused_html(error, t)}
        line = " ".join([t("link_read"), *state.unavailable_notes(params, t)])
        told: Changes = {said: status_html(line)}
        told[state.random_seed] = all(name != "seed" for name, _ in given)
        return told | state.set_values(params, t)

    outputs = [said, state.random_seed, state.interpolation, *state.controls.values()]
    return page.load(on_open, None, outputs, **UNQUEUED_EVENT)


def query_string(params: VideoParams, with_seed: bool) -> str:
    query = params.to_query()
    return query if with_seed else "&".join(p for p in query.split("&") if p[:5] != "seed=")
