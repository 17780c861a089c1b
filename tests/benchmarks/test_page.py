"""The check of the page's benchmark; its figures come from a browser, and no test judges them."""

from svd_core.benchmarks.page import TARGETS, missed


def test_each_figure_is_judged_by_its_limit() -> None:
    assert missed(TARGETS) == []
    assert missed(TARGETS | {"framing_ms": 300.5}) == ["framing_ms"]
