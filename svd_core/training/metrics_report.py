"""Report of the metrics as a table: target, value and verdict."""

from collections.abc import Mapping

from svd_core.training.metrics import TARGETS, Figures, is_met, missed_targets

UNITS: Mapping[str, str] = {
    "vae_psnr": "dB",
    "first_frame_psnr": "dB",
    "consistency": "dB",
    "motion_order": "%",
    "noise_order": "%",
    "fps_order": "%",
    "seconds_per_clip": "s",
    "peak_memory_mb": "MB",
}
"""Shares are shown in percent. What has no unit here is a ratio."""

VERDICTS = {True: "met", False: "MISSED", None: ""}
WIDTH = 12


def format_report(found: Mapping[str, Figures], photos: Mapping[str, int]) -> str:
    """`found`: figures by subject, the one that is judged first; `photos`: how many each had."""
    first = next(iter(found))
    heads = [f"{'':22}{'target':>{WIDTH}}", *(f"{name:>{WIDTH}}" for name in found)]
    heads.insert(2, f"  {'':6}")
    counts = [f"{'photos':22}{'':{WIDTH}}", *(f"{photos[name]:>{WIDTH}}" for name in found)]
    counts.insert(2, f"  {'':6}")
    lines = ["".join(heads), "".join(counts)]
    for figure, target in TARGETS.items():
        cells = [f"{_labelled(figure):22}{_shown(figure, target):>{WIDTH}}"]
        cells += [f"{_shown(figure, figures[figure]):>{WIDTH}}" for figures in found.values()]
        cells.insert(2, f"  {VERDICTS[is_met(figure, found[first][figure])]:6}")
        lines.append("".join(cells))
    return "\n".join([*lines, "", *(_verdict(name, figures) for name, figures in found.items())])


def _labelled(figure: str) -> str:
    unit = UNITS.get(figure)
    return f"{figure} ({unit})" if unit else figure


def _shown(figure: str, value: float | None) -> str:
    if value is None:
        return "-"
    if UNITS.get(figure) == "%":
        return f"{100 * value:.0f}"
    return f"{value:.0f}" if UNITS.get(figure) == "MB" else f"{value:.2f}"


def _verdict(name: str, figures: Figures) -> str:
    short = missed_targets(figures)
    return f"{name} misses {', '.join(short)}." if short else f"{name} meets every target."
