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
from svd_core.web.page.batch import batch_panel, bind_seed_grid
from svd_core.web.page.code_panel import code_panel
from svd_core.web.page.components import (
    UNQUEUED_EVENT,
    BrowserState,
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
    framing_controls,
    number_field,
    preset_choice,
    radio_choice,
    slider,
)
from svd_core.web.page.endpoint import endpoint
from svd_core.web.page.examples import (
    Example,
    bind_examples,
    example_strip,
    find_examples,
    first_example,
    kiosk,
)
from svd_core.web.page.framing import bind_framing, framing_preview
from svd_core.web.page.gallery import Gallery
from svd_core.web.page.gallery_actions import bind_gallery_actions
from svd_core.web.page.generation import bind_generate
from svd_core.web.page.i18n import client_text, languages, texts_for
from svd_core.web.page.import_settings import bind_settings_link, import_panel
from svd_core.web.page.page_state import PageState
from svd_core.web.page.playback import bind_interpolation
from svd_core.web.page.player import Player, status_line
from svd_core.web.page.result_actions import (
    ExportPanel,
    action_row,
    bind_export_panel,
    bind_result_actions,
)

REFRESH_S = 2.0
"""Seconds between two updates of the engine's state, while it may change."""

PHOTO_TTL_S = 3600.0
"""Seconds for which a session's photo stays decoded after its last use."""


def build_page(backend: Backend, examples_folder: Path, max_followers: int) -> gr.Blocks:
    """Build the page without launching it.

    `examples_folder`: see `find_examples`. `max_followers`: jobs that may be followed at once; each
    takes a thread.
    """
    examples = find_examples(examples_folder)
    # Served from their folder, by a path that is open to everyone, instead of being copied.
    gr.set_static_paths([path for example in examples for path in (example.photo, example.video)])
    title, first = languages()["en"]("title"), first_example(examples)
    with gr.Blocks(
        title=title, analytics_enabled=False, delete_cache=(3600, 86_400), fill_width=True
    ) as page:
        session = BrowserState(
            None,
            storage_key="svd-visitor",
            secret="svd-visitor",  # noqa: S106 - not a secret
            render=False,
        )
        cached_photo = gr.State(None, time_to_live=PHOTO_TTL_S)
        interpolation, current, to_follow = gr.State(None), gr.State([]), gr.State([])
        playing = gr.State({"example": first.name} if first else None)
        _header(page, backend)
        with gr.Row(elem_id="studio"):
            with gr.Column(elem_id="inputs", scale=5, min_width=300):
                link = gr.HTML("", elem_id="link-said", padding=False)
                with gr.Column(elem_id="photo-area"):
                    photo = _photo(first)
                    preview, window = framing_preview()
                controls = framing_controls()
                with gr.Column(elem_id="controls"):
                    motion = preset_choice()
                    names = ("motion_bucket_id", "noise_aug_strength", "fps")
                    controls |= {name: slider(name) for name in names}
                    controls["seed"], random = _seed_row()
                generate, drafts, stop = _buttons()
            with gr.Column(elem_id="output", scale=7, min_width=300):
                with gr.Column(elem_id="stage"):
                    forming = gr.HTML(
                        "", elem_id="forming", visible=False, js_on_load=script("drafts.js")
                    )
                    video = _player(first)
                with gr.Column(elem_id="status"):
                    with gr.Row(elem_id="status-row"):
                        line = status_line()
                        switch = radio_choice("interpolation", visible="hidden")
                        controls["interpolation"] = switch  # shown with a video
                    with gr.Column(elem_id="result", visible=False) as result:
                        summary = gr.HTML(elem_id="summary", padding=False)
                        actions = action_row()
                        export_panel = ExportPanel.build(actions)
                _script("no-storage", client_text("no_storage"), script("browser_limits.js"))
                with gr.Tabs(elem_id="library", selected="examples" if examples else "history"):
                    strip = example_strip(examples) if examples else []
                    gallery = Gallery.build()
        with gr.Tabs(elem_id="panels", overflow_behavior="wrap"):
            controls |= _advanced(backend)
            player = Player(
                line, forming, video, result, summary, generate, drafts, stop, current, to_follow,
                playing, controls,
            )  # fmt: skip
            state = PageState(
                backend, photo, cached_photo, controls, player, gallery, session, random,
                interpolation, {each.name: each.video for each in examples}, max_followers,
            )  # fmt: skip
            batch_panel(state)
            import_panel(state)
            code_panel(state, bind_interpolation(state))
        kiosk(examples, backend.results)
        _scripts()
        # Last, since nothing after it mounts in a browser that blocks storage.
        session.render()  # type: ignore[no-untyped-call]
        bind_presets(motion, controls)
        opened = bind_settings_link(page, state, link)
        bind_framing(state, preview, window, opened)
        bind_generate(state)
        bind_placeholders(opened, controls, lambda: state.catalog)
        bind_seed_grid(state)
        bind_result_actions(state, actions)
        bind_export_panel(state, export_panel)
        bind_examples(examples, strip, state, bind_gallery_actions(page, state))
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
        # static/kiosk.js listens to this button.
        gr.Button(client_text("demo"), size="sm", elem_id="demo-switch", min_width=110, scale=0)
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
        seed = number_field("seed", "seed_drawn")
        random = Checkbox(True, label=client_text("seed_new"), elem_id="random")
    # A seed that is typed is not random.
    seed.input(None, None, random, js="() => [false]", api_visibility="private")
    return seed, random


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


def _scripts() -> None:
    """Scripts that serve the whole page: each one's file says what it does."""
    size_check = script("size_check.js").replace("MAX_BYTES = 0", f"MAX_BYTES = {MAX_BYTES}")
    _script("drop", client_text("drop"), script("drop_zone.js"))
    _script("too-large", f"<p>{client_text('too_large')}</p>", size_check)
    _script("number-input", "", script("number_input.js"))
    _script("labels", client_text("labels"), script("labels.js"))


def _script(elem_id: str, content: Any, code: str) -> None:
    """Element that holds the texts of a script and loads it."""
    gr.HTML(content, elem_id=elem_id, padding=False, js_on_load=code)


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
