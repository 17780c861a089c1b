"""Depth sketches: what is drawn, and that every photo has a sound one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from svd_core.errors import SvdError
from svd_core.training.dataset import DepthShape, Point, draw_annotations, load_annotations, sources

ALL: tuple[Point, ...] = ((0, 0), (1, 0), (1, 1), (0, 1))
LEFT: tuple[Point, ...] = ((0, 0), (0.5, 0), (0.5, 1), (0, 1))
LOWER: tuple[Point, ...] = ((0, 0.5), (1, 0.5), (1, 1), (0, 1))


def test_a_pair_of_near_is_linear_inside_its_own_polygon() -> None:
    near, _ = draw_annotations((DepthShape((0, 0), ALL), DepthShape((0.2, 1.0), LOWER)), 8, 16)
    assert near.shape == (16, 8)
    assert near.dtype == torch.float32
    assert not near[:7].any()
    column = near[8:, 3]
    torch.testing.assert_close(column, torch.linspace(0.25, 0.95, 8))
    assert near[8:].eq(column[:, None]).all()


def test_a_later_shape_hides_the_earlier_ones() -> None:
    far, close = DepthShape((0.1, 0.1), ALL, 1), DepthShape((0.8, 0.8), LEFT)
    near, drift = draw_annotations((far, close), 20, 10)
    assert near[:, :9].allclose(torch.tensor(0.8))
    assert near[:, 11:].allclose(torch.tensor(0.1))
    assert not drift[:, :9].any()
    assert drift[:, 11:].eq(1).all()
    near, drift = draw_annotations((close, far), 20, 10)
    assert near.allclose(torch.tensor(0.1))
    assert drift.eq(1).all()


def test_edges_are_hard_and_where_the_polygon_has_them() -> None:
    _, drift = draw_annotations((DepthShape((0, 0), ALL), DepthShape((0, 0), LEFT, 1)), 200, 100)
    assert set(drift.unique().tolist()) == {0.0, 1.0}
    assert drift.sum(1).sub(100).abs().max() <= 1


def test_every_photo_has_a_sketch() -> None:
    assert set(load_annotations()) == {source.sha256[:12] for source in sources()}


@pytest.mark.parametrize("size", [(64, 36), (36, 64)])
def test_every_sketch_draws_values_in_range(size: tuple[int, int]) -> None:
    for name, shapes in load_annotations().items():
        for drawn in draw_annotations(shapes, *size):
            assert drawn.shape == size[::-1], name
            assert 0 <= drawn.min() <= drawn.max() <= 1, name


def test_no_shape_is_hidden_by_later_ones() -> None:
    for name, shapes in load_annotations().items():
        marks = [
            DepthShape((0, 0), shape.polygon, i / len(shapes)) for i, shape in enumerate(shapes)
        ]
        seen = draw_annotations(tuple(marks), 320, 320)[1].unique()
        assert seen.numel() == len(shapes), name


GOOD: dict[str, Any] = {"near": [0.1, 0.9], "polygon": [list(point) for point in ALL]}


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        ([GOOD | {"near": 1.5}], "near.*less than or equal to 1"),
        ([GOOD | {"near": [0.1]}], "near.*required"),
        ([GOOD | {"drift": -0.1}], "drift.*greater than or equal to 0"),
        ([GOOD | {"drift": "much"}], "drift.*valid number"),
        ([GOOD, {"near": 0, "polygon": [[0, 0], [1, 1]]}], "1.*polygon.*at least 3"),
        ([GOOD, {"near": 0, "polygon": [[0, 0], [1, 1], [2, 0]]}], "2, 0.*less than"),
        ([GOOD | {"far": 1}], "far.*[Uu]nexpected"),
        ([{"polygon": GOOD["polygon"]}], "near.*required"),
        ([{"near": 0}], "polygon.*required"),
        ([{"near": 0, "polygon": [[0, 0], [1, 0], [0, 1]]}], "does not cover"),
        ([], "does not cover"),
        (None, "valid array"),
    ],
)
def test_a_wrong_sketch_is_named(tmp_path: Path, shapes: Any, reason: str) -> None:
    path = tmp_path / "sketches.json"
    path.write_text(json.dumps({"0123456789ab": [GOOD], "ba9876543210": shapes}))
    with pytest.raises(SvdError, match=f"ba9876543210.*{reason}"):
        load_annotations(path)


def test_what_is_left_out_is_solid_and_even(tmp_path: Path) -> None:
    path = tmp_path / "sketches.json"
    path.write_text(json.dumps({"0123456789ab": [{"near": 0.3, "polygon": GOOD["polygon"]}]}))
    assert load_annotations(path) == {"0123456789ab": (DepthShape((0.3, 0.3), ALL),)}
