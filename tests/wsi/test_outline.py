"""Outlines of tiles: each tile is covered once, holes are cut out, no ring touches itself."""

import json
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from slidelift.wsi.geometry import Size
from slidelift.wsi.outline import geojson, outlines

MASKS = arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9)))


def area(ring: list) -> float:
    return sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in pairwise(ring)) / 2


def inside(ring: list, x: float, y: float) -> bool:
    """Even-odd rule, by the ring's vertical edges to the left of the point."""
    sides = pairwise(ring)
    return sum(x1 == x2 < x and min(y1, y2) < y < max(y1, y2) for (x1, y1), (x2, y2) in sides) % 2 == 1


@settings(deadline=None, max_examples=150)
@given(MASKS)
def test_polygons_cover_every_tile_once_and_nothing_else(mask) -> None:
    polygons = outlines(mask)
    for row, column in np.ndindex(mask.shape):
        at = column + 0.5, row + 0.5
        found = [inside(outer, *at) and not any(inside(hole, *at) for hole in holes) for outer, *holes in polygons]
        assert sum(found) == mask[row, column]
    assert sum(area(ring) for polygon in polygons for ring in polygon) == mask.sum()


@settings(deadline=None, max_examples=150)
@given(MASKS)
def test_rings_are_closed_simple_and_correctly_oriented(mask) -> None:
    for outer, *holes in outlines(mask):
        assert area(outer) > 0
        assert all(area(hole) < 0 for hole in holes)
        for ring in (outer, *holes):
            assert ring[0] == ring[-1]
            assert len(set(ring)) == len(ring) - 1 >= 4
            steps = [(x2 - x1, y2 - y1) for (x1, y1), (x2, y2) in pairwise(ring)]
            assert all((dx == 0) != (dy == 0) for dx, dy in steps)
            ahead = zip(steps, [*steps[1:], steps[0]], strict=True)
            assert all((one[0] == 0) != (two[0] == 0) for one, two in ahead)


@settings(deadline=None, max_examples=50)
@given(MASKS, st.integers(1, 6), st.integers(1, 6))
def test_geojson_area_equals_that_of_the_clipped_tiles(mask, right, below) -> None:
    size = Size((mask.shape[1] - 1) * 6 + right, (mask.shape[0] - 1) * 6 + below)
    found = json.loads(json.dumps(geojson({"Tissue": (mask, (1, 2, 3)), "None": (mask & False, (0, 0, 0))}, 6, size)))
    assert found["type"] == "FeatureCollection"
    total = 0.0
    for feature in found["features"]:
        assert feature["type"] == "Feature"
        assert feature["properties"] == {
            "objectType": "annotation",
            "classification": {"name": "Tissue", "color": [1, 2, 3]},
        }
        assert feature["geometry"]["type"] == "Polygon"
        total += sum(area(ring) for ring in feature["geometry"]["coordinates"])
    assert total == mask.repeat(6, axis=0).repeat(6, axis=1)[: size.height, : size.width].sum()


def test_a_ring_of_tiles_around_two_that_meet_at_a_corner_has_two_holes() -> None:
    mask = np.ones((4, 4), bool)
    mask[1, 1] = mask[2, 2] = False
    ((_, *holes),) = outlines(mask)
    assert sorted(area(hole) for hole in holes) == [-1, -1]
