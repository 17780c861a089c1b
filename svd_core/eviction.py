"""Fair eviction for a limit of space: the owner who holds most loses their oldest item first."""

import heapq
from collections import defaultdict, deque
from collections.abc import Iterable
from typing import NamedTuple


class Item(NamedTuple):
    """Something that uses space. `size`: in the unit of the limit, above 0."""

    name: str
    owner: str
    size: int


def evict(newest_first: Iterable[Item], limit: float) -> list[str]:
    """Names of the items to remove so that at most `limit` is left.

    The owner who holds most loses their oldest item first. The newest item of all stays, since a
    user waits for it.
    """
    queues: defaultdict[str, deque[Item]] = defaultdict(deque)
    sums: defaultdict[str, int] = defaultdict(int)
    newest: str | None = None
    for item in newest_first:
        newest = item.name if newest is None else newest
        queues[item.owner].append(item)
        sums[item.owner] += item.size
    total = sum(sums.values())
    heap = [(-size, owner) for owner, size in sums.items()]
    heapq.heapify(heap)
    evicted = []
    while total > limit and heap:
        _, owner = heapq.heappop(heap)
        oldest = queues[owner].pop()
        if oldest.name != newest:
            evicted.append(oldest.name)
            total -= oldest.size
            sums[owner] -= oldest.size
        if queues[owner]:
            heapq.heappush(heap, (-sums[owner], owner))
    return evicted
