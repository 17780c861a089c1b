"""The check of the page's benchmark; its figures come from a browser, and no test judges them."""

from svd_core.benchmarks.page import TARGETS
from svd_core.benchmarks.targets import missed


def test_each_figure_is_judged_by_its_limit() -> None:
    limits = {target.figure: target.limit for target in TARGETS}
    assert missed(TARGETS, limits) == []
    assert missed(TARGETS, limits | {"framing_ms": 300.5}) == ["framing_ms"]
