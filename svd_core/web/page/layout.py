"""What is on the page, and which action each part sets off."""

from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from svd_core.engine import EngineStatus
from svd_core.jobs import JobQueue
from svd_core.params import VideoParams
from svd_core.web.page import actions, words
from svd_core.web.page.components import Clip, Kept, Photo, Tick
from svd_core.web.page.dials import fine_dials, main_dials
from svd_core.web.page.endpoint import endpoint
from svd_core.web.page.examples import Example, find_examples

UNLISTED: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""For events that are the page's own business."""

SHOW_PROGRESS = """() => {
    document.getElementById("progress").scrollIntoView({block: "nearest"});
}"""


def build_page(
    queue: JobQueue, status: Callable[[], EngineStatus], examples: Path, watchers: int
) -> gr.Blocks:
    """The page, not launched yet.

    `status` is asked whenever a visitor opens the page, and every other second while the model
    loads. `examples`: a folder for `find_examples`. `watchers`: how many jobs may be watched at
    once; each takes a thread.
    """
    found = find_examples(examples)
    # Shown from where they lie, by a path that is open to everyone, instead of being copied.
    gr.set_static_paths([path for example in found for path in (example.photo, example.video)])
    with gr.Blocks(title=words.TITLE, analytics_enabled=False, delete_cache=(3600, 86_400)) as page:
        _header(page, status)
        with gr.Row(elem_id="studio"):
            with gr.Column(elem_id="ask"):
                photo = _photo(found)
                generate, stop, random, dials = _controls()
            with gr.Column(elem_id="answer"):
                view = actions.View(
                    progress=gr.HTML(f"<p>{words.HINT}</p>", elem_id="progress", padding=False),
                    video=_player(found),
                    summary=gr.HTML(elem_id="summary", padding=False),
                    seed=dials["seed"],
                    generate=generate,
                    stop=stop,
                    job=gr.State(None),
                    kept=Kept(None, storage_key="svd-job", secret="svd-job"),  # noqa: S106
                )
                if found:
                    _examples(found, photo, view)
        _wire(page, queue, view, photo, random, dials, watchers)
    return page  # type: ignore[no-any-return]  # entering Blocks is untyped


def _header(page: gr.Blocks, status: Callable[[], EngineStatus]) -> None:
    """Title, the line about model and device, and a banner if something is to be known."""
    with gr.Row(elem_id="top"):
        gr.HTML(f"<h1>{words.TITLE}</h1><p>{words.TAGLINE}</p>", elem_id="header", padding=False)
        device = gr.HTML(elem_id="device", padding=False)
    notice = gr.HTML(elem_id="notice", padding=False, visible=False)
    timer = gr.Timer(2.0)

    def refresh() -> tuple[str, gr.HTML, gr.Timer]:
        now = status()
        banner = gr.HTML(words.notice_html(now), visible=bool(now.notice))
        return words.device_html(now), banner, gr.Timer(active=now.state == "loading")

    gr.on([page.load, timer.tick], refresh, None, [device, notice, timer], queue=False, **UNLISTED)


def _photo(found: list[Example]) -> Photo:
    return Photo(
        str(found[0].photo) if found else None,
        label="Photo",
        sources=["upload", "clipboard", "webcam"],
        buttons=["fullscreen"],
        height=280,
        elem_id="photo",
    )


def _controls() -> tuple[gr.Button, gr.Button, Tick, dict[str, Component]]:
    dials = main_dials()
    with gr.Row(elem_id="seeds"):
        dials["seed"].render()  # type: ignore[no-untyped-call]
        random = Tick(True, label="New seed for every video", elem_id="random")
    with gr.Row(elem_id="buttons"):
        large: dict[str, Any] = {"size": "lg", "min_width": 80}
        generate = gr.Button("Generate", variant="primary", scale=3, elem_id="generate", **large)
        stop = gr.Button("Stop", scale=1, interactive=False, elem_id="stop", **large)
    with gr.Accordion("Fine control", open=False, elem_id="fine"):
        dials |= fine_dials()
    return generate, stop, random, dials


def _player(found: list[Example]) -> Clip:
    return Clip(
        str(found[0].video) if found else None,
        label="Video",
        autoplay=True,
        loop=True,
        interactive=False,
        buttons=["download"],
        height=420,
        elem_id="video",
    )


def _examples(found: list[Example], photo: Photo, view: actions.View) -> None:
    """A click shows a photo with its finished video: nothing is run, nothing is cached."""
    gr.HTML("<h2>Examples, each with the video made from it</h2>", padding=False)
    with gr.Row(elem_id="examples"):
        for example in found:
            button = gr.Button(example.name, icon=str(example.photo), min_width=120)
            shown = (str(example.photo), str(example.video), "", words.example_html(example.name))
            button.click(
                lambda shown=shown: shown,
                None,
                [photo, view.video, view.summary, view.progress],
                queue=False,
                **UNLISTED,
            )


def _wire(
    page: gr.Blocks,
    queue: JobQueue,
    view: actions.View,
    photo: Photo,
    random: Tick,
    dials: dict[str, Component],
    watchers: int,
) -> None:
    def on_generate(given: dict[Component, Any]) -> Iterator[actions.Changes]:
        values = {name: given[dial] for name, dial in dials.items()}
        if given[random]:
            del values["seed"]
        yield from actions.generate(queue, view, given[photo], values)

    def on_open(kept: Any) -> Iterator[actions.Changes]:
        job = actions.find(queue, kept)
        if job is None:
            yield gr.skip()  # a generator that yields nothing would empty every output
        else:
            yield {photo: None}
            yield from actions.watch(job, view)

    watching: dict[str, Any] = {"concurrency_limit": watchers, "concurrency_id": "watch"}
    view.generate.click(
        on_generate, {photo, random, *dials.values()}, view.outputs, **watching, **UNLISTED
    )
    # On a phone the progress is below the fold; where it is in sight already, nothing moves.
    view.generate.click(None, js=SHOW_PROGRESS, api_visibility="private")
    page.load(on_open, view.kept, [photo, *view.outputs], **watching, **UNLISTED)
    view.stop.click(partial(actions.stop, queue), view.job, None, queue=False, **UNLISTED)
    # An own field for the photo: the visible one may show an example, which must be no default.
    public, sent = gr.Button(visible=False), Photo(label="Photo", visible=False)
    public.click(
        endpoint(queue),
        [sent, *(dials[field.name] for field in fields(VideoParams))],
        [view.video, view.seed, view.summary],
        api_name="generate",
        **watching,
    )
