"""Code panel: the settings on screen as a link and as code for the HTTP API, with copy buttons."""

from dataclasses import replace
from html import escape
from typing import Any

import gradio as gr
from gradio.events import Dependency

from svd_core.errors import InvalidRequest
from svd_core.params import VideoParams
from svd_core.web.page.components import UNQUEUED_EVENT, script
from svd_core.web.page.formatting import refused_html
from svd_core.web.page.i18n import Texts, client_text, texts_for
from svd_core.web.page.page_state import PageState
from svd_core.web.page.playback import default_interpolation
from svd_core.web.public_address import ADDRESS_KEY
from svd_core.web.snippets import BASE, MOUNT, snippets, values_of

COLLAPSED = ("JavaScript", "curl")
"""Blocks that are closed at first."""


def code_panel(state: PageState, switched: Dependency) -> None:
    """Panel with the code, made when it is opened and when a control changes.

    `switched`: the event after the visitor's choice of in-between frames.
    """
    names, controls = list(state.controls), list[Any](state.controls.values())
    with gr.Tab(client_text("code"), elem_id="code", render_children=True) as panel:
        code = gr.HTML("", elem_id="snippets", js_on_load=script("copy.js"))

    def on_change(request: gr.Request, chosen: Any, *inputs: Any) -> str:
        values = {n: value for n, value in zip(names, inputs, strict=True) if value is not None}
        t = texts_for(request)
        try:
            params = VideoParams.from_mapping(values | {"interpolation": chosen or "off"})
        except InvalidRequest as error:
            return refused_html(error, t)
        # Without a seed of the visitor's, both leave it out.
        query = params.to_query() if "seed" in values else _without_seed(params.to_query())
        if chosen is None:  # as the page would play it
            params = replace(params, interpolation=default_interpolation(params.rate))
        shown = {n: v for n, v in values_of(params).items() if n != "seed" or "seed" in values}
        return code_html(shown, page_url(request), query, t)

    events, inputs = [control.change for control in controls], [state.interpolation, *controls]
    options = UNQUEUED_EVENT | {"trigger_mode": "always_last"}
    gr.on([panel.select, *events], on_change, inputs, code, **options)
    switched.then(on_change, inputs, code, **UNQUEUED_EVENT)


def _without_seed(query: str) -> str:
    return "&".join(pair for pair in query.split("&") if not pair.startswith("seed="))


def code_html(values: dict[str, object], url: str, query: str, t: Texts) -> str:
    """Collapsible blocks with link and code, each with a copy button. `url`: of the page."""
    code = snippets(values, url + MOUNT)
    blocks = (
        (t("link"), f"{url}/?{query}"),
        ("Python", code.python),
        ("JavaScript", code.javascript),
        ("curl", code.curl),
    )
    html = "".join(
        f"<details{'' if name in COLLAPSED else ' open'}><summary>{escape(name)}</summary>"
        f'<button type="button" data-copied="{t("copied")}">{t("copy")}</button>'
        f'<pre tabindex="0"><code>{escape(text)}</code></pre></details>'
        for name, text in blocks
    )
    return f"<p>{t('code_intro')}</p>{html}"


def page_url(request: gr.Request) -> str:
    """URL of this page for the visitor's browser; the API is below it."""
    scope = request.request.scope if request.request is not None else {}
    url: str = scope.get(ADDRESS_KEY, BASE.removesuffix(MOUNT))
    return url
