"""The settings on screen as a link and as code for the HTTP API, one click to copy."""

import re
from dataclasses import replace
from html import escape
from typing import Any

import gradio as gr
from gradio.events import Dependency

from svd_core.errors import InvalidRequest
from svd_core.params import VideoParams
from svd_core.web.fal import MOUNT
from svd_core.web.page.formatting import refused_html
from svd_core.web.page.i18n import Texts, fixed, texts_for
from svd_core.web.page.page_events import QUICK
from svd_core.web.page.page_state import Studio
from svd_core.web.page.playback import default_interpolation
from svd_core.web.page.scripts import script
from svd_core.web.page.settings_link import query_of
from svd_core.web.snippets import BASE, snippets, values_of

ORIGIN = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+")

CLOSED = ("JavaScript", "curl")


def code_panel() -> tuple[gr.Tab, gr.HTML]:
    with gr.Tab(fixed("code"), elem_id="code", render_children=True) as panel:
        return panel, gr.HTML("", elem_id="snippets", js_on_load=script("copy.js"))


def wire_code(studio: Studio, panel: gr.Tab, code: gr.HTML, switched: Dependency) -> None:
    """`switched`: the visitor has chosen in-between frames."""
    names, dials = list(studio.dials), list(studio.dials.values())

    def on_turn(request: gr.Request, chosen: Any, *given: Any) -> str:
        values = {n: value for n, value in zip(names, given, strict=True) if value is not None}
        say = texts_for(request)
        try:
            params = VideoParams.from_mapping(values | {"interpolation": chosen or "off"})
        except InvalidRequest as error:
            return refused_html(error, say)
        link = f"{page_of(request)}/?{query_of(params, 'seed' in values)}"
        if chosen is None:  # as the page would play it
            params = replace(params, interpolation=default_interpolation(params.rate))
        told = {n: v for n, v in values_of(params).items() if n != "seed" or "seed" in values}
        return code_html(told, link, page_of(request) + MOUNT, say)

    changes = [dial.change for dial in dials]  # type: ignore[attr-defined]
    inputs = [studio.chosen, *dials]
    gr.on([panel.select, *changes], on_turn, inputs, code, trigger_mode="always_last", **QUICK)
    switched.then(on_turn, inputs, code, **QUICK)


def code_html(values: dict[str, object], link: str, base: str, say: Texts) -> str:
    ways = snippets(values, base)
    named = (
        (say("link"), link),
        ("Python", ways.python),
        ("JavaScript", ways.javascript),
        ("curl", ways.curl),
    )
    blocks = "".join(
        f"<details{'' if name in CLOSED else ' open'}><summary>{escape(name)}</summary>"
        f'<button type="button" data-copied="{say("copied")}">{say("copy")}</button>'
        f'<pre tabindex="0"><code>{escape(code)}</code></pre></details>'
        for name, code in named
    )
    return f"<p>{say('code_intro')}</p>{blocks}"


def page_of(request: gr.Request) -> str:
    """Where the visitor's browser finds this page; the API is beside it."""
    origin = request.headers.get("origin") or ""
    return origin if ORIGIN.fullmatch(origin) else BASE.removesuffix(MOUNT)
