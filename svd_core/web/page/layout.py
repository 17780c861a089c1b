"""Layout of the page, in reading order. Each part's events are bound in the part's own module."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from svd_core.media.image import MAX_BYTES
from svd_core.params import VideoParams
from svd_core.web.page import formatting
from svd_core.web.page.backend import Backend
from svd_core.web.page.batch import Batch, bind_batch, bind_seed_grid
from svd_core.web.page.code_panel import bind_code_panel, code_panel
from svd_core.web.page.components import (
    UNQUEUED_EVENT,
    Checkbox,
    NumberField,
    Photo,
    VideoPlayer,
    script,
)
from svd_core.web.page.controls import (
    advanced_controls,
    bind_placeholders,
    bind_presets,
    bind_seed,
    framing_controls,
    motion_controls,
    number_field,
    playback_control,
    preset_choice,
)
from svd_core.web.page.endpoint import endpoint
from svd_core.web.page.examples import (
    Example,
    Kiosk,
    bind_examples,
    bind_kiosk,
    example_strip,
    find_examples,
    first_example,
    kiosk_button,
)
from svd_core.web.page.framing import Framing, bind_framing
from svd_core.web.page.gallery import Gallery
from svd_core.web.page.gallery_actions import bind_gallery_actions
from svd_core.web.page.generation import bind_generate
from svd_core.web.page.i18n import client_text, languages, texts_for
from svd_core.web.page.import_settings import (
    ImportPanel,
    bind_import,
    bind_settings_link,
    link_message,
)
from svd_core.web.page.page_state import PageState
from svd_core.web.page.playback import bind_interpolation
from svd_core.web.page.player import Player, status_line
from svd_core.web.page.result_actions import (
    ExportPanel,
    action_row,
    bind_export_panel,
    bind_result_actions,
)
from svd_core.web.page.session_id import session_state

REFRESH_S = 2.0
"""Seconds between two updates of the engine's state, while it may change."""


def build_page(backend: Backend, examples_folder: Path, max_followers: int) -> gr.Blocks:
    """Build the page without launching it.

    `examples_folder`: see `find_examples`. `max_followers`: jobs that may be followed at once; each
    takes a thread.
    """
    examples = find_examples(examples_folder)
    # Served from where they lie, by a path that is open to everyone, instead of being copied.
    gr.set_static_paths([path for example in examples for path in (example.photo, example.video)])
    title, first = languages()["en"]("title"), first_example(examples)
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
                _browser_limits()
                with gr.Tabs(elem_id="library", selected="examples" if examples else "history"):
                    strip = example_strip(examples) if examples else []
                    gallery = Gallery.build()
        with gr.Tabs(elem_id="panels", overflow_behavior="wrap"):
            controls |= _advanced(backend)
            batch, import_panel = Batch.build(), ImportPanel.build()
            panel, code = code_panel()
        kiosk = Kiosk.build(examples)
        _drop_zone()
        _size_check()
        _number_input()
        _control_labels()
        current, to_follow = gr.State([]), gr.State([])
        playing = gr.State({"example": first.name} if first else None)
        player = Player(
            line, preview, video, result, summary, generate, drafts, stop, current, to_follow,
            playing, controls,
        )  # fmt: skip
        state = PageState(
            backend, photo, framing, controls, player, gallery, session_state(), random,
            gr.State(None), {example.name: example.video for example in examples}, max_followers,
        )  # fmt: skip
        bind_presets(motion, controls)
        bind_seed(seed, random)
        opened = bind_settings_link(page, state, link)
        bind_framing(opened, framing, photo, controls, state.sizes)
        bind_generate(state)
        bind_placeholders(opened, controls, lambda: state.catalog)
        bind_seed_grid(state)
        bind_batch(state, batch)
        bind_import(state, import_panel)
        bind_result_actions(state, actions)
        bind_code_panel(state, panel, code, bind_interpolation(state))
        bind_export_panel(state, export_panel)
        bind_examples(examples, strip, state, bind_gallery_actions(page, state))
        bind_kiosk(state, kiosk)
        _publish(state)
    return page  # type: ignore[no-any-return]  # entering Blocks is untyped


def _header(page: gr.Blocks, backend: Backend) -> None:
    """Title, the line about checkpoint and device, and a banner for notices."""
    with gr.Row(elem_id="top"):
        # Browsers translate one marker for each component.
        with gr.Column(elem_id="header", min_width=240):
            gr.HTML(f"<h1>{languages()['en']('title')}</h1>", padding=False)
            gr.HTML(f"<p>{client_text('tagline')}</p>", padding=False)
        device = gr.HTML(elem_id="device", padding=False)
        kiosk_button()
    notice = gr.HTML(elem_id="notice", padding=False, visible=False)
    timer = gr.Timer(REFRESH_S)

    def refresh(request: gr.Request) -> tuple[str, gr.HTML, gr.Timer]:
        status, t = backend.status(), texts_for(request)
        banner = gr.HTML(formatting.notice_html(status, t), visible=bool(status.notice))
        several = len(status.catalog.names) > 1 or status.workers is not None
        may_change = status.state == "loading" or several
        return formatting.device_html(status, t), banner, gr.Timer(active=may_change)

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
        style: dict[str, Any] = {"size": "lg", "min_width": 80}
        generate = gr.Button(
            client_text("generate"), variant="primary", scale=3, elem_id="generate", **style
        )
        drafts = gr.Button(client_text("sheet"), scale=2, elem_id="sheet", **style)
        stop = gr.Button(
            client_text("stop"), variant="stop", scale=1, interactive=False, elem_id="stop", **style
        )
    return generate, drafts, stop


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


def _drop_zone() -> None:
    """Hint while a file is over the page; static/drop_zone.js takes it to its field."""
    gr.HTML(client_text("drop"), elem_id="drop", padding=False, js_on_load=script("drop_zone.js"))


def _size_check() -> None:
    """Files that are too large are stopped in the browser, with a message beside the field."""
    check = script("size_check.js").replace("MAX_BYTES = 0", f"MAX_BYTES = {MAX_BYTES}")
    gr.HTML(f"<p>{client_text('too_large')}</p>", elem_id="too-large", js_on_load=check)


def _number_input() -> None:
    """Number fields take a decimal comma, also in browsers that drop it."""
    gr.HTML("", elem_id="number-input", js_on_load=script("number_input.js"))


def _browser_limits() -> None:
    """Hides buttons that the browser has no use for, and reports blocked storage."""
    note = client_text("no_storage")
    gr.HTML(note, elem_id="no-storage", padding=False, js_on_load=script("browser_limits.js"))


def _control_labels() -> None:
    """Accessible names of Gradio's own controls, in the visitor's language."""
    gr.HTML(client_text("labels"), elem_id="labels", padding=False, js_on_load=script("labels.js"))


def _publish(state: PageState) -> None:
    """Public endpoint for programs.

    It has its own field for the photo, because the visible one may show an example, which must not
    be a default.
    """
    public, photo = gr.Button(visible=False), Photo(label="Photo", visible=False)
    public.click(
        endpoint(state.backend),
        [photo, *(state.controls[field.name] for field in fields(VideoParams))],
        [state.player.video, state.controls["seed"], state.player.summary],
        **state.follow_options | {"api_name": "generate", "api_visibility": "public"},
    )
