"""ZeroGPU: a GPU is attached to one call of the Space, for a duration requested in advance."""

from collections.abc import Callable, Generator

import gradio as gr

from svd_core.errors import GenerationFailed, QueueFull, SvdError
from svd_core.event_stream import EventStream, Work, run_as_stream
from svd_core.events import Event, Failed
from svd_core.params import VideoRequest

WORKER_ERROR_TITLE = "ZeroGPU worker error"
"""Title of the platform's error if the process with the GPU has died."""


def run_on_zero_gpu(work: Work, seconds: Callable[[VideoRequest], int]) -> EventStream:
    """Run `work` in a process that is forked from this one and has a GPU.

    The process inherits the model that is loaded by then, and returns only picklable values.
    `seconds`: duration to request, after which the GPU is taken back. Call this before the page is
    launched, because it tells the platform that the Space uses a GPU.
    """
    import spaces  # installed on the platform only

    def duration(_: str, request: VideoRequest, *__: object, **___: object) -> int:
        return seconds(request)

    @spaces.GPU(duration=duration)  # type: ignore[untyped-decorator]
    def on_gpu(job_id: str, request: VideoRequest) -> Generator[Event]:
        yield from run_as_stream(work, job_id, request)

    def run(job_id: str, request: VideoRequest) -> Generator[Event]:
        try:
            yield from on_gpu(job_id, request)
        except gr.Error as error:
            yield Failed(refusal(error))

    return run


def refusal(error: gr.Error) -> SvdError:
    """The error for a GPU that was refused or taken back, with the platform's own message."""
    if error.title == WORKER_ERROR_TITLE:
        return GenerationFailed("gpu_taken_back")
    return QueueFull("gpu_refused", reason=str(error.message).strip())
