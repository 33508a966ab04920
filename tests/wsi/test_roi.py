"""Regions of interest: what is read, what is refused, and exactly which tiles are touched."""

import json
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from wsi.errors import RoiError
from wsi.geometry import Region
from wsi.roi import MAX_POINTS, Roi

SQUARE = [[[10, 10], [20, 10], [20, 20], [10, 20], [10, 10]]]
TILE, ROWS, COLUMNS = 8, 5, 6


def polygon(*rings: list) -> dict:
    return {"type": "Polygon", "coordinates": [[list(point) for point in ring] for ring in rings]}


def rows_of(value: dict, downsample: float = 1.0) -> tuple[str, ...]:
    source = Region(0, 0, TILE * COLUMNS, TILE * ROWS)
    return Roi.from_geojson(value).tile_rows(source, downsample, TILE, ROWS, COLUMNS)


def clipped(points: list, axis: int, limit: int, sign: int) -> list:
    """A polygon's part on one side of a line (Sutherland and Hodgman), in fractions."""
    kept = []
    for here, after in zip(points, [*points[1:], points[0]], strict=True):
        inside, next_inside = (sign * (point[axis] - limit) >= 0 for point in (here, after))
        if inside:
            kept.append(here)
        if inside != next_inside:
            share = Fraction(limit - here[axis]) / (after[axis] - here[axis])
            kept.append(tuple(a + share * (b - a) for a, b in zip(here, after, strict=True)))
    return kept


def area(points: list) -> Fraction:
    pairs = zip(points, [*points[1:], points[0]], strict=True) if points else ()
    return abs(sum((a[0] * b[1] - b[0] * a[1] for a, b in pairs), Fraction(0))) / 2


def touches(triangle: list, row: int, column: int) -> bool:
    points = [tuple(map(Fraction, point)) for point in triangle]
    for axis, number in ((0, column), (1, row)):
        for limit, sign in ((number * TILE, 1), ((number + 1) * TILE, -1)):
            points = clipped(points, axis, limit, sign) if points else []
    return area(points) > 0


CORNERS = st.tuples(st.integers(-4, TILE * COLUMNS + 4), st.integers(-4, TILE * ROWS + 4))


@settings(deadline=None, max_examples=300)
@given(st.tuples(CORNERS, CORNERS, CORNERS))
def test_a_tile_is_touched_if_and_only_if_the_polygon_covers_some_of_it(triangle) -> None:
    assume(area(list(triangle)) > 0)
    found = rows_of(polygon([*triangle, triangle[0]]))
    truth = tuple("".join("01"[touches(list(triangle), r, c)] for c in range(COLUMNS)) for r in range(ROWS))
    assert found == truth


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 40), st.integers(0, 32), st.integers(1, 20), st.integers(1, 20), st.data())
def test_a_hole_leaves_out_the_tiles_that_lie_in_it(x, y, width, height, data) -> None:
    outer = [(-1, -1), (49, -1), (49, 41), (-1, 41), (-1, -1)]
    hole = [(x, y), (x, y + height), (x + width, y + height), (x + width, y), (x, y)]
    found = rows_of(polygon(outer, hole))
    for row in range(ROWS):
        for column in range(COLUMNS):
            tile = Region(column * TILE, row * TILE, TILE, TILE)
            assert found[row][column] == "01"[not Region(x, y, width, height).contains(tile)]


def test_a_sliver_and_a_speck_select_what_they_touch() -> None:
    sliver = polygon([(1, 3.0), (47, 3.0), (47, 3.0001), (1, 3.0)])
    speck = polygon([(17.2, 18.1), (17.3, 18.1), (17.3, 18.2), (17.2, 18.1)])
    assert rows_of(sliver) == ("111111", *["000000"] * 4)
    assert rows_of(speck) == ("000000", "000000", "001000", "000000", "000000")


def test_levels_are_taken_into_account() -> None:
    assert rows_of(polygon([(0, 0), (16, 0), (16, 16), (0, 16), (0, 0)]), 2.0)[0] == "100000"


@pytest.mark.parametrize(
    "value",
    [
        {"type": "Polygon", "coordinates": SQUARE},
        {"type": "MultiPolygon", "coordinates": [SQUARE]},
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": SQUARE}, "properties": {"name": "x"}},
        {"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": polygon(*SQUARE)}]},
        {"type": "GeometryCollection", "geometries": [{"type": "Polygon", "coordinates": SQUARE}]},
        [{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": SQUARE}}],
    ],
)
def test_every_form_that_qupath_exports_is_read(value, tmp_path) -> None:
    file = tmp_path / "a.geojson"
    file.write_text(json.dumps(value))
    roi = Roi.read(file)
    assert roi.bounds == Region(10, 10, 10, 10)
    assert hash(roi) == hash(Roi.from_dict(json.loads(json.dumps(roi.as_dict()))))
    assert roi == Roi.from_dict(json.loads(json.dumps(roi.as_dict())))


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"type": "Point", "coordinates": [1, 2]}, "a Point"),
        ({"type": "<script>"}, "no geometry"),
        ({"type": "Feature", "geometry": None}, "not GeoJSON"),
        ({"type": "Feature"}, "not GeoJSON"),
        (7, "not GeoJSON"),
        ({"type": "FeatureCollection", "features": []}, "no polygon"),
        ({"type": "Polygon", "coordinates": []}, "no polygon"),
        ({"type": "Polygon", "coordinates": 3}, "list of rings"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 1]]]}, "open"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [0, 0]]]}, "open"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [1, float("nan")], [1, 1], [0, 0]]]}, "finite"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [1, float("inf")], [1, 1], [0, 0]]]}, "finite"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [1, "1"], [1, 1], [0, 0]]]}, "finite"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [True, 1], [1, 1], [0, 0]]]}, "finite"),
        ({"type": "Polygon", "coordinates": [[[0, 0]] * (MAX_POINTS + 1)]}, "100,000"),
    ],
)
def test_what_is_no_area_is_refused_with_its_reason(value, says) -> None:
    with pytest.raises(RoiError, match=says):
        Roi.from_geojson(value)


def test_nesting_without_end_is_refused(tmp_path) -> None:
    nested: dict = {"type": "Polygon", "coordinates": SQUARE}
    for _ in range(30):
        nested = {"type": "GeometryCollection", "geometries": [nested]}
    with pytest.raises(RoiError, match="deeply"):
        Roi.from_geojson(nested)
    file = tmp_path / "deep.geojson"
    file.write_text("[" * 100_000)
    with pytest.raises(RoiError, match="not GeoJSON"):
        Roi.read(file)
