"""Empty databases: SQLite, and PostgreSQL where a server is installed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from svd_core.database import Database
from svd_core.jobs.schema import METADATA
from tests.fakes import postgres


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    if reason := postgres.missing():
        pytest.skip(reason)
    with postgres.server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Of an empty database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'jobs.sqlite'}"
        return
    yield (found := request.getfixturevalue("postgres_url"))
    database = Database(found)
    with database.write() as connection:
        METADATA.drop_all(connection)
    database.close()
