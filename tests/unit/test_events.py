"""What a job reports."""

from pathlib import Path

from svd_core.events import Progress, Stage, Video


def test_a_video_knows_its_length() -> None:
    video = Video(
        path=Path("a.mp4"),
        width=512,
        height=288,
        num_frames=14,
        fps=7,
        seed=1,
        model="svd-nano",
        elapsed_s=9.0,
    )
    assert video.duration_s == 2.0


def test_stages_come_in_the_order_of_the_work() -> None:
    assert [stage.value for stage in Stage] == [
        "queued", "fetching", "loading", "encoding", "denoising", "decoding", "writing",
    ]  # fmt: skip
    assert f"{Progress(stage=Stage.LOADING).stage}" == "loading"
