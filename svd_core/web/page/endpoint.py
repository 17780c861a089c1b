"""Public endpoint `/generate` of the page, for Gradio clients and MCP."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from svd_core.errors import Cancelled, SvdError
from svd_core.events import Event, Failed, Progress, Stopped, Succeeded, Video
from svd_core.web.page.backend import Backend
from svd_core.web.page.formatting import duration, progress_text, summary
from svd_core.web.page.i18n import Texts, texts_for


def endpoint(backend: Backend) -> Callable[..., tuple[Path, int, str]]:
    """The function behind `/generate`; its signature and docstring are what clients read."""

    def generate(
        image: bytes | None,
        seed: Any = None,
        motion_bucket_id: Any = None,
        noise_aug_strength: Any = None,
        fps: Any = None,
        playback_fps: Any = None,
        num_frames: Any = None,
        num_inference_steps: Any = None,
        min_guidance_scale: Any = None,
        max_guidance_scale: Any = None,
        decode_chunk_size: Any = None,
        orientation: Any = None,
        fit: Any = None,
        focus_x: Any = None,
        focus_y: Any = None,
        speed: Any = None,
        interpolation: Any = None,
        model: Any = None,
        request: gr.Request = None,  # type: ignore[assignment]  # how Gradio asks for it
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - how Gradio asks for it
    ) -> tuple[Path, int, str]:
        """
        Turn a photo into a short video with Stable Video Diffusion. It takes seconds to minutes.

        Args:
            image: the photo, of any common format, at most 20 MB and 40 megapixels.
            seed: 0 to 4294967295; the same seed makes the same video; drawn if left out.
            motion_bucket_id: how much moves, 1 to 255: 40 is calm, 127 usual, 200 lively.
            noise_aug_strength: noise on the photo, 0 to 10, usually 0.02: more frees the motion.
            fps: frames per second the motion is made for and played at, 1 to 100.
            playback_fps: frames per second to play at, if it should differ from fps.
            num_frames: length in frames, 2 to 50; the model's own number if left out.
            num_inference_steps: denoising steps, 1 to 100; the model's own number if left out.
            min_guidance_scale: guidance at the first frame, 0 to 20; the model's own if left out.
            max_guidance_scale: guidance at the last frame, 0 to 20; the model's own if left out.
            decode_chunk_size: frames decoded at once, 1 to 50; planned by memory if left out.
            orientation: "landscape", "portrait" or "square"; "auto" takes the nearest to the photo.
            fit: "crop" fills the frame and cuts what is over, "pad" keeps the whole photo.
            focus_x: what a crop keeps: 0 is the left edge, 0.5 the middle, 1 the right edge.
            focus_y: what a crop keeps: 0 is the top edge, 0.5 the middle, 1 the bottom edge.
            speed: "exact", or "fast" and "turbo", which take fewer steps and change the picture.
            interpolation: "2x" or "4x" adds in-between frames for smooth playback; "off" adds none.
            model: the checkpoint, if this server has several; its usual one if left out.

        Returns:
            The video as mp4, the seed that made it, and a sentence about it.
        """
        values = {
            "seed": seed,
            "motion_bucket_id": motion_bucket_id,
            "noise_aug_strength": noise_aug_strength,
            "fps": fps,
            "playback_fps": playback_fps,
            "num_frames": num_frames,
            "num_inference_steps": num_inference_steps,
            "min_guidance_scale": min_guidance_scale,
            "max_guidance_scale": max_guidance_scale,
            "decode_chunk_size": decode_chunk_size,
            "orientation": orientation,
            "fit": fit,
            "focus_x": focus_x,
            "focus_y": focus_y,
            "speed": speed,
            "interpolation": interpolation,
            "model": model,
        }
        t = texts_for(request)
        try:
            for event in backend.submit(image, values, address=_address(request)).events():
                if isinstance(event, Progress):
                    _report(progress, event, t)
                else:
                    video = _video(event)
        except SvdError as error:
            sentence = t.message(error.message, labels=False)
            raise gr.Error(sentence, print_exception=False) from None
        done = t("done", elapsed=duration(video.elapsed_s, t))
        return video.path, video.seed, f"{summary(video, t)} {done}"

    return generate


def _address(request: gr.Request | None) -> str | None:
    """Address of the client. Gradio's queue hands on the request, but no context variable."""
    client = None if request is None else request.client
    return None if client is None else str(client.host)


def _video(event: Event) -> Video:
    """The video of a job's last event. Raises `SvdError` if the job ended without one."""
    match event:
        case Succeeded(video):
            return video
        case Failed(error):
            raise error
        case Stopped():
            raise Cancelled("cancelled_by_other")
        case _:
            raise AssertionError(event)


def _report(progress: gr.Progress, event: Progress, t: Texts) -> None:
    counted = (event.step, event.total) if event.total else None
    progress(counted, desc=progress_text(event, t))
