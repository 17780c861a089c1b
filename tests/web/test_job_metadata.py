"""Job metadata as it is stored: the keys of rows in use must not change."""

import json
from typing import cast

import pytest

from svd_core.jobs import Job, JobOptions
from svd_core.web.job_metadata import is_draft, read_memo, to_memo


class StoredJob:
    def __init__(self, memo: str) -> None:
        self.options = JobOptions(memo=memo)


def job(memo: str) -> Job:
    return cast(Job, StoredJob(memo))


def test_only_the_given_keys_are_stored() -> None:
    assert json.loads(to_memo(sheet="a", steps=None)) == {"sheet": "a", "steps": None}
    assert json.loads(to_memo(continues="b")) == {"continues": "b"}
    assert json.loads(to_memo(base="c", image_url="d", details=[{"loc": ["body"]}])) == {
        "base": "c", "image_url": "d", "details": [{"loc": ["body"]}]
    }  # fmt: skip


@pytest.mark.parametrize("memo", ["", "no JSON", "[1]", "null"])
def test_a_memo_without_metadata_is_empty(memo: str) -> None:
    assert read_memo(job(memo)) == {}
    assert not is_draft(job(memo))


def test_page_and_api_read_memos_of_each_other() -> None:
    assert is_draft(job(to_memo(sheet="a", steps=4)))
    assert "details" not in read_memo(job(to_memo(sheet="a", steps=4)))
    assert not is_draft(job(to_memo(base="c", image_url="", details=[])))
