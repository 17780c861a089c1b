"""A job table and a video of an earlier version of the program still open."""

import sqlite3
from contextlib import closing
from pathlib import Path

from svd_core.checkpoints.table import ASSETS
from svd_core.errors import InvalidImage
from svd_core.events import Failed, Succeeded
from svd_core.media.recipe import Recipe
from tests.fakes.work import front_queue

DUMP = Path(__file__).parent / "data" / "table_v1.sql"
MADE, REJECTED = "963d5ac115b0493a8b9144a79ebc8560", "c3d82e2a278a4b0686256c95674dbd37"


def test_jobs_of_an_old_table_come_back_as_they_were(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "jobs.sqlite")) as connection:
        connection.executescript(DUMP.read_text(encoding="utf-8"))
    with front_queue(tmp_path) as queue:
        made, rejected = queue.get(MADE), queue.get(REJECTED)
        assert [job.id for job in queue.of_owner("ann")] == [REJECTED, MADE]
    assert made.params is not None
    assert (made.params.seed, made.params.motion_bucket_id) == (7, 80)
    assert made.options.memo == '{"sheet": "a"}'
    assert isinstance(made.last, Succeeded)
    assert made.last.video.path == Path(f"/videos/{MADE}.mp4")
    assert isinstance(rejected.last, Failed)
    assert type(rejected.last.error) is InvalidImage
    assert (rejected.last.error.field, rejected.last.error.reason) == ("image", "damaged")


def test_the_recipe_of_an_old_video_is_read() -> None:
    recipe = Recipe.read(ASSETS / "examples" / "cat.mp4")
    assert recipe.model == "svd-nano"
    assert recipe.params.num_frames == 14
