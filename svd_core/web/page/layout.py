"""Layout of the page, in reading order. Each part's events are wired in the part's own module."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from svd_core.params import VideoParams
from svd_core.web.page import formatting
from svd_core.web.page.backend import Backend
from svd_core.web.page.batch import Batch, bind_batch
from svd_core.web.page.code_panel import bind_code_panel, code_panel
from svd_core.web.page.components import UNQUEUED_EVENT, Checkbox, NumberField, Photo, VideoPlayer
from svd_core.web.page.controls import (
    advanced_controls,
    framing_controls,
    motion_controls,
    number_field,
    playback_control,
)
from svd_core.web.page.drop_zone import drop_zone, size_check
from svd_core.web.page.endpoint import endpoint
from svd_core.web.page.examples import (
    Example,
    bind_examples,
    example_strip,
    find_examples,
    first_example,
)
from svd_core.web.page.export_panel import ExportPanel, bind_export_panel
from svd_core.web.page.framing import Framing
from svd_core.web.page.gallery import Gallery
from svd_core.web.page.gallery_actions import bind_gallery_actions
from svd_core.web.page.generate_panel import bind_generate
from svd_core.web.page.i18n import client_text, languages, texts_for
from svd_core.web.page.import_settings import (
    ImportPanel,
    bind_import,
    bind_settings_link,
    link_message,
)
from svd_core.web.page.kiosk import Kiosk, bind_kiosk, kiosk_button
from svd_core.web.page.motion_presets import bind_presets, bind_seed, preset_choice
from svd_core.web.page.page_state import PageState
from svd_core.web.page.placeholders import bind_placeholders
from svd_core.web.page.player import Player, status_line
from svd_core.web.page.result_actions import action_row, bind_result_actions
from svd_core.web.page.scripts import script
from svd_core.web.page.seed_grid import bind_seed_grid
from svd_core.web.page.session_id import session_state

REFRESH_S = 2.0
"""Between two looks at what runs, while that may change."""


def build_page(backend: Backend, examples: Path, max_followers: int) -> gr.Blocks:
    """The page, not launched yet.

    `examples`: a folder for `find_examples`. `max_followers`: jobs that may be followed at once;
    each takes a thread."""
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
                link = link_message()
                with gr.Column(elem_id="photo-area"):
                    photo, framing = _photo(first), Framing.build()
                controls = framing_controls()
                with gr.Column(elem_id="controls"):
                    motion = preset_choice()
                    controls |= motion_controls()
                    seed, random = _seed_row()
                    controls |= {"seed": seed}
                generate, drafts, stop = _buttons()
            with gr.Column(elem_id="output", scale=7, min_width=300):
                with gr.Column(elem_id="stage"):
                    preview = gr.HTML(
                        "", elem_id="forming", visible=False, js_on_load=script("drafts.js")
                    )
                    video = _player(first)
                with gr.Column(elem_id="status"):
                    with gr.Row(elem_id="status-row"):
                        line = status_line()
                        controls |= playback_control()
                    with gr.Column(elem_id="result", visible=False) as result:
                        summary = gr.HTML(elem_id="summary", padding=False)
                        actions = action_row()
                        export_panel = ExportPanel.build(actions)
                with gr.Tabs(elem_id="library", selected="examples" if found else "history"):
                    strip = example_strip(found) if found else []
                    gallery = Gallery.build()
        with gr.Tabs(elem_id="panels", overflow_behavior="wrap"):
            controls |= _advanced(backend)
            batch, import_panel = Batch.build(), ImportPanel.build()
            panel, code = code_panel()
        kiosk = Kiosk.build(found)
        drop_zone()
        size_check()
        _control_labels()
        current, to_follow = gr.State([]), gr.State([])
        playing = gr.State({"example": first.name} if first else None)
        player = Player(
            line, preview, video, result, summary, generate, drafts, stop, current, to_follow,
            playing, controls,
        )  # fmt: skip
        state = PageState(
            backend, photo, framing, controls, player, gallery, session_state(), random,
            gr.State(None), {example.name: example.video for example in found}, max_followers,
        )  # fmt: skip
        bind_presets(motion, controls)
        bind_seed(seed, random)
        opened = bind_settings_link(page, state, link)
        bind_generate(opened, state)
        bind_placeholders(opened, state)
        bind_seed_grid(state)
        bind_batch(state, batch)
        bind_import(state, import_panel)
        bind_code_panel(state, panel, code, bind_result_actions(state, actions))
        bind_export_panel(state, export_panel)
        bind_examples(found, strip, state, bind_gallery_actions(page, state))
        bind_kiosk(state, kiosk)
        _publish(state)
    return page  # type: ignore[no-any-return]  # entering Blocks is untyped


def _header(page: gr.Blocks, backend: Backend) -> None:
    """Title, the line about model and device, and a banner if something is to be known."""
    with gr.Row(elem_id="top"):
        # One marker a component is what browsers translate.
        with gr.Column(elem_id="header", min_width=240):
            gr.HTML(f"<h1>{languages()['en']('title')}</h1>", padding=False)
            gr.HTML(f"<p>{client_text('tagline')}</p>", padding=False)
        device = gr.HTML(elem_id="device", padding=False)
        kiosk_button()
    notice = gr.HTML(elem_id="notice", padding=False, visible=False)
    timer = gr.Timer(REFRESH_S)

    def refresh(request: gr.Request) -> tuple[str, gr.HTML, gr.Timer]:
        now, t = backend.status(), texts_for(request)
        banner = gr.HTML(formatting.notice_html(now, t), visible=bool(now.notice))
        several = len(now.catalog.names) > 1 or now.workers is not None
        changing = now.state == "loading" or several
        return formatting.device_html(now, t), banner, gr.Timer(active=changing)

    gr.on([page.load, timer.tick], refresh, None, [device, notice, timer], **UNQUEUED_EVENT)


def _photo(first: Example | None) -> Photo:
    return Photo(
        str(first.photo) if first else None,
        label=client_text("photo"),
        placeholder=str(client_text("photo_drop")),
        sources=["upload", "clipboard", "webcam"],
        buttons=["fullscreen"],
        height="var(--svd-photo)",
        elem_id="photo",
    )


def _seed_row() -> tuple[NumberField, Checkbox]:
    with gr.Row(elem_id="seed-row"):
        return number_field("seed", "seed_drawn"), Checkbox(
            True, label=client_text("seed_new"), elem_id="random"
        )


def _buttons() -> tuple[gr.Button, gr.Button, gr.Button]:
    with gr.Row(elem_id="buttons"):
        large: dict[str, Any] = {"size": "lg", "min_width": 80}
        generate = gr.Button(
            client_text("generate"), variant="primary", scale=3, elem_id="generate", **large
        )
        sheet = gr.Button(client_text("sheet"), scale=2, elem_id="sheet", **large)
        stop = gr.Button(
            client_text("stop"), variant="stop", scale=1, interactive=False, elem_id="stop", **large
        )
    return generate, sheet, stop


def _advanced(backend: Backend) -> dict[str, Component]:
    with gr.Tab(client_text("fine"), elem_id="fine", render_children=True):
        controls = advanced_controls(backend.status().catalog.names, backend.acceleration.speeds)
        gr.HTML(client_text("no_prompt"), elem_id="no-prompt", padding=False)
        gr.HTML(client_text("checkpoint"), elem_id="checkpoint", padding=False)
    return controls


def _player(first: Example | None) -> VideoPlayer:
    return VideoPlayer(
        str(first.video) if first else None,
        label=client_text("video"),
        autoplay=True,
        loop=True,
        interactive=False,
        buttons=["download"],
        elem_id="video",
    )


def _control_labels() -> None:
    """Accessible names of Gradio's own controls, in the visitor's language."""
    gr.HTML(client_text("labels"), elem_id="labels", padding=False, js_on_load=script("labels.js"))


def _publish(state: PageState) -> None:
    """The endpoint for programs. It has an own field for the photo: the visible one may show an
    example, which must be no default."""
    public, sent = gr.Button(visible=False), Photo(label="Photo", visible=False)
    public.click(
        endpoint(state.backend),
        [sent, *(state.controls[field.name] for field in fields(VideoParams))],
        [state.player.video, state.controls["seed"], state.player.summary],
        **state.follow_options | {"api_name": "generate", "api_visibility": "public"},
    )
