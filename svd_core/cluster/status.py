"""Status of the cluster for people: how many workers of which GPU, and with which checkpoint."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

from svd_core.checkpoints.catalog import ModelCatalog
from svd_core.engine.engine import EngineStatus
from svd_core.errors import SvdError
from svd_core.messages import Message


def cluster_status(
    model: str,
    live: Sequence[EngineStatus],
    loading: int = 0,
    error: SvdError | None = None,
    refused: Sequence[str] = (),
    *,
    unreachable: bool = False,
) -> EngineStatus:
    """The status of a cluster that runs `model`.

    `live`: what its workers say that can run jobs, `loading`: how many are on their way there.
    `error`: why the last one could not start. `refused`: hosts that run other code.
    """
    if live:
        catalog = next((each.catalog for each in live if each.catalog.stand_in is None), None)
        return replace(
            live[-1],
            device=device_text(live),
            catalog=catalog or live[-1].catalog,
            workers=len(live),
        )
    catalog = ModelCatalog.from_setting(model, cuda=True)
    failed = error is not None and not loading
    notice: str | None = None
    if unreachable:
        notice = Message("cluster_unreachable")
    elif error is not None and failed:
        notice = error.message
    elif refused and not loading:
        notice = Message("worker_other_release", host=refused[0])
    return EngineStatus(
        checkpoint=catalog.default,
        device="",
        state="failed" if failed else "loading",
        catalog=catalog,
        notice=notice,
        workers=loading,
    )


def device_text(live: Sequence[EngineStatus]) -> Message:
    """E.g. "3 x NVIDIA L4, 24 GB" or "2 x NVIDIA L4, 24 GB + 1 x NVIDIA H100, 80 GB"."""
    counts = Counter(status.device for status in live).most_common()
    texts = [Message("device_several", count=count, device=device) for device, count in counts]
    return reduce(lambda first, second: Message("devices", first=first, second=second), texts)
