"""Layout of the page, in reading order. Each part's events are wired in the part's own module."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from svd_core.params import VideoParams
from svd_core.web.page import formatting
from svd_core.web.page.backend import Backend
from svd_core.web.page.batch import Batch, wire_batch
from svd_core.web.page.code_panel import code_panel, wire_code
from svd_core.web.page.components import Clip, Entry, Photo, Tick
from svd_core.web.page.controls import (
    entry,
    fine_dials,
    framing_dials,
    motion_dials,
    playback_dial,
)
from svd_core.web.page.drop_zone import anywhere
from svd_core.web.page.endpoint import endpoint
from svd_core.web.page.examples import (
    Example,
    example_strip,
    find_examples,
    first_example,
    wire_examples,
)
from svd_core.web.page.export_panel import Exporting, wire_exporting
from svd_core.web.page.framing import Framing
from svd_core.web.page.gallery import Gallery
from svd_core.web.page.gallery_actions import wire_past
from svd_core.web.page.generate_panel import wire_making
from svd_core.web.page.i18n import fixed, languages, texts_for
from svd_core.web.page.import_settings import Dropped, wire_dropped
from svd_core.web.page.kiosk import Demo, demo_switch, wire_demo
from svd_core.web.page.motion_presets import motion_choice, wire_motion, wire_seed
from svd_core.web.page.page_events import QUICK
from svd_core.web.page.page_state import Studio
from svd_core.web.page.placeholders import wire_automatic
from svd_core.web.page.player import Screen, status_line
from svd_core.web.page.result_actions import action_row, wire_result
from svd_core.web.page.scripts import script
from svd_core.web.page.seed_grid import wire_sheet
from svd_core.web.page.session_id import visitor_card
from svd_core.web.page.settings_link import link_line, wire_link
from svd_core.web.page.size_check import too_large

REFRESH_S = 2.0
"""Between two looks at what runs, while that may change."""


def build_page(backend: Backend, examples: Path, watchers: int) -> gr.Blocks:
    """The page, not launched yet.

    `examples`: a folder for `find_examples`. `watchers`: how many jobs may be watched at once; each
    takes a thread.
    """
    found = find_examples(examples)
    # Shown from where they lie, by a path that is open to everyone, instead of being copied.
    gr.set_static_paths([path for example in found for path in (example.photo, example.video)])
    title, first = languages()["en"]("title"), first_example(found)
    with gr.Blocks(
        title=title, analytics_enabled=False, delete_cache=(3600, 86_400), fill_width=True
    ) as page:
        _header(page, backend)
        with gr.Row(elem_id="studio"):
            with gr.Column(elem_id="inputs", scale=5, min_width=300):
                link = link_line()
                with gr.Column(elem_id="photo-area"):
                    photo, framing = _photo(first), Framing.build()
                dials = framing_dials()
                with gr.Column(elem_id="controls"):
                    motion = motion_choice()
                    dials |= motion_dials()
                    seed, random = _seed_row()
                    dials |= {"seed": seed}
                generate, sheet, stop = _buttons()
            with gr.Column(elem_id="output", scale=7, min_width=300):
                with gr.Column(elem_id="stage"):
                    forming = gr.HTML(
                        "", elem_id="forming", visible=False, js_on_load=script("drafts.js")
                    )
                    player = _player(first)
                with gr.Column(elem_id="status"):
                    with gr.Row(elem_id="status-row"):
                        line = status_line()
                        dials |= playback_dial()
                    with gr.Column(elem_id="result", visible=False) as result:
                        summary = gr.HTML(elem_id="summary", padding=False)
                        actions = action_row()
                        exporting = Exporting.build(actions)
                with gr.Tabs(elem_id="library", selected="examples" if found else "history"):
                    strip = example_strip(found) if found else []
                    gallery = Gallery.build()
        with gr.Tabs(elem_id="panels", overflow_behavior="wrap"):
            dials |= _advanced(backend)
            batch, dropped = Batch.build(), Dropped.build()
            panel, code = code_panel()
        demo = Demo.build(found)
        anywhere()
        too_large()
        _control_labels()
        current, wanted = gr.State([]), gr.State([])
        playing = gr.State({"example": first.name} if first else None)
        screen = Screen(
            line, forming, player, result, summary, generate, sheet, stop, current, wanted,
            playing, dials,
        )  # fmt: skip
        studio = Studio(
            backend, photo, framing, dials, screen, gallery, visitor_card(), random, gr.State(None),
            {example.name: example.video for example in found}, watchers,
        )  # fmt: skip
        wire_motion(motion, dials)
        wire_seed(seed, random)
        opened = wire_link(page, studio, link)
        wire_making(opened, studio)
        wire_automatic(opened, studio)
        wire_sheet(studio)
        wire_batch(studio, batch)
        wire_dropped(studio, dropped)
        wire_code(studio, panel, code, wire_result(studio, actions))
        wire_exporting(studio, exporting)
        wire_examples(found, strip, studio, wire_past(page, studio))
        wire_demo(studio, demo)
        _publish(studio)
    return page  # type: ignore[no-any-return]  # entering Blocks is untyped


def _header(page: gr.Blocks, backend: Backend) -> None:
    """Title, the line about model and device, and a banner if something is to be known."""
    with gr.Row(elem_id="top"):
        # One marker a component is what browsers translate.
        with gr.Column(elem_id="header", min_width=240):
            gr.HTML(f"<h1>{languages()['en']('title')}</h1>", padding=False)
            gr.HTML(f"<p>{fixed('tagline')}</p>", padding=False)
        device = gr.HTML(elem_id="device", padding=False)
        demo_switch()
    notice = gr.HTML(elem_id="notice", padding=False, visible=False)
    timer = gr.Timer(REFRESH_S)

    def refresh(request: gr.Request) -> tuple[str, gr.HTML, gr.Timer]:
        now, say = backend.status(), texts_for(request)
        banner = gr.HTML(formatting.notice_html(now, say), visible=bool(now.notice))
        changing = now.state == "loading" or len(now.offer.names) > 1
        return formatting.device_html(now, say), banner, gr.Timer(active=changing)

    gr.on([page.load, timer.tick], refresh, None, [device, notice, timer], **QUICK)


def _photo(first: Example | None) -> Photo:
    return Photo(
        str(first.photo) if first else None,
        label=fixed("photo"),
        placeholder=str(fixed("photo_drop")),
        sources=["upload", "clipboard", "webcam"],
        buttons=["fullscreen"],
        height="var(--svd-photo)",
        elem_id="photo",
    )


def _seed_row() -> tuple[Entry, Tick]:
    with gr.Row(elem_id="seed-row"):
        return entry("seed", "seed_drawn"), Tick(True, label=fixed("seed_new"), elem_id="random")


def _buttons() -> tuple[gr.Button, gr.Button, gr.Button]:
    with gr.Row(elem_id="buttons"):
        large: dict[str, Any] = {"size": "lg", "min_width": 80}
        generate = gr.Button(
            fixed("generate"), variant="primary", scale=3, elem_id="generate", **large
        )
        sheet = gr.Button(fixed("sheet"), scale=2, elem_id="sheet", **large)
        stop = gr.Button(
            fixed("stop"), variant="stop", scale=1, interactive=False, elem_id="stop", **large
        )
    return generate, sheet, stop


def _advanced(backend: Backend) -> dict[str, Component]:
    with gr.Tab(fixed("fine"), elem_id="fine", render_children=True):
        dials = fine_dials(backend.status().offer.names, backend.speed_ups.speeds)
        gr.HTML(fixed("no_prompt"), elem_id="no-prompt", padding=False)
        gr.HTML(fixed("checkpoint"), elem_id="checkpoint", padding=False)
    return dials


def _player(first: Example | None) -> Clip:
    return Clip(
        str(first.video) if first else None,
        label=fixed("video"),
        autoplay=True,
        loop=True,
        interactive=False,
        buttons=["download"],
        elem_id="video",
    )


def _control_labels() -> None:
    """Accessible names of Gradio's own controls, in the visitor's language."""
    gr.HTML(fixed("labels"), elem_id="labels", padding=False, js_on_load=script("labels.js"))


def _publish(studio: Studio) -> None:
    """The endpoint for programs. It has an own field for the photo: the visible one may show an
    example, which must be no default."""
    public, sent = gr.Button(visible=False), Photo(label="Photo", visible=False)
    public.click(
        endpoint(studio.backend),
        [sent, *(studio.dials[field.name] for field in fields(VideoParams))],
        [studio.screen.player, studio.dials["seed"], studio.screen.summary],
        **studio.watching | {"api_name": "generate", "api_visibility": "public"},
    )
