"""Seed a job table with many finished jobs, copies of the first one."""

import sqlite3
from contextlib import closing
from pathlib import Path

COPIES = """
WITH RECURSIVE past(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM past WHERE n < ?)
INSERT INTO svd_jobs
SELECT {columns} FROM past, (SELECT * FROM svd_jobs ORDER BY number LIMIT 1)
"""

OWN = {"id": "printf('%032x', n)", "number": "-n", "bytes": "0"}
"""What copies cannot share. The video is not theirs, so that it does not go with them."""


def copy_first_job(table: Path, count: int) -> None:
    """Copy the first job of SQLite's `table`, which is over, `count` times. Whoever serves the
    table may go on meanwhile."""
    with closing(sqlite3.connect(table, timeout=30)) as connection, connection:
        names = [row[1] for row in connection.execute("PRAGMA table_info(svd_jobs)")]
        columns = ", ".join(OWN.get(name, name) for name in names)
        connection.execute(COPIES.format(columns=columns), [count])
