"""Eviction: the owner who holds the most loses their oldest items first."""

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from svd_core.jobs.retention import Item, evict

HELD = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 50)), max_size=30)


def held(pairs: list[tuple[str, int]]) -> list[Item]:
    return [Item(f"{index}", owner, size) for index, (owner, size) in enumerate(pairs)]


def test_of_one_owner_the_oldest_go() -> None:
    assert evict(held([("a", 3)] * 5), 9) == ["4", "3"]


def test_whoever_holds_little_keeps_it() -> None:
    there = held([("a", 10), ("b", 10), ("b", 10), ("b", 10), ("a", 10)])
    assert evict(there, 40) == ["3"]
    assert evict(there, 30) in (["3", "4"], ["3", "2"])


def test_the_newest_stays_however_large() -> None:
    assert evict(held([("a", 100), ("b", 1)]), 10) == ["1"]
    assert evict(held([("a", 100)]), 0) == []
    assert evict([], 0) == []


@given(pairs=HELD, most=st.integers(0, 600))
def test_no_more_goes_than_has_to_and_nobody_who_holds_less(
    pairs: list[tuple[str, int]], most: int
) -> None:
    there = held(pairs)
    gone = set(evict(there, most))
    left = [each for each in there if each.name not in gone]
    sums: defaultdict[str, int] = defaultdict(int)
    for each in left:
        sums[each.owner] += each.size
    assert sum(sums.values()) <= most or [each.name for each in left] in ([], ["0"])
    if sum(each.size for each in there) <= most:
        assert not gone
    others = max((sums[owner] for owner in sums if owner != there[0].owner), default=0)
    for each in there:
        if each.name in gone:  # its owner held at least as much as any owner who kept all
            own = [e.size for e in there if e.name in gone and e.owner == each.owner]
            assert sums[each.owner] + sum(own) >= others
