"""Status of the cluster for people: how many workers of which GPU, and with which checkpoint."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from svd_core.checkpoints.catalog import ModelCatalog
from svd_core.engine.engine import EngineStatus
from svd_core.errors import SvdError

UNREACHABLE_NOTICE = (
    "The GPU machines cannot be reached just now; videos are made as soon as they are back."
)


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
    notice = None
    if unreachable:
        notice = UNREACHABLE_NOTICE
    elif error is not None and failed:
        notice = error.message
    elif refused and not loading:
        notice = (
            f"The machine {refused[0]} runs another release of this program, so it makes no "
            "videos; install the release of the server there."
        )
    return EngineStatus(
        checkpoint=catalog.default,
        device="",
        state="failed" if failed else "loading",
        catalog=catalog,
        notice=notice,
        workers=loading,
    )


def device_text(live: Sequence[EngineStatus]) -> str:
    """E.g. "3 x NVIDIA L4, 24 GB" or "2 x NVIDIA L4, 24 GB + 1 x NVIDIA H100, 80 GB"."""
    counts = Counter(status.device for status in live)
    return " + ".join(f"{count} x {device}" for device, count in counts.most_common())
