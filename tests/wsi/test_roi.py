"""Regions of interest: accepted and refused GeoJSON, and exactly which tiles a polygon touches."""

import json
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from slidelift.wsi.errors import RoiError
from slidelift.wsi.geometry import Region, Size
from slidelift.wsi.roi import MAX_POINTS, Roi

SQUARE = [[[10, 10], [20, 10], [20, 20], [10, 20], [10, 10]]]
TILE, ROWS, COLUMNS = 8, 5, 6


def polygon(*rings: list) -> dict:
    return {"type": "Polygon", "coordinates": [[list(point) for point in ring] for ring in rings]}


def rows_of(value: dict, downsample: float = 1.0) -> tuple[str, ...]:
    source = Region(0, 0, TILE * COLUMNS, TILE * ROWS)
    return Roi.from_geojson(value).tile_rows(source, downsample, TILE, ROWS, COLUMNS)


def clipped(points: list, axis: int, limit: int, sign: int) -> list:
    """Clip a polygon to one side of a line (Sutherland and Hodgman), in fractions."""
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
def test_tile_is_touched_exactly_if_the_polygon_covers_a_part(triangle) -> None:
    assume(area(list(triangle)) > 0)
    found = rows_of(polygon([*triangle, triangle[0]]))
    truth = tuple("".join("01"[touches(list(triangle), r, c)] for c in range(COLUMNS)) for r in range(ROWS))
    assert found == truth


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 40), st.integers(0, 32), st.integers(1, 20), st.integers(1, 20), st.data())
def test_tiles_in_a_hole_are_not_touched(x, y, width, height, data) -> None:
    outer = [(-1, -1), (49, -1), (49, 41), (-1, 41), (-1, -1)]
    hole = [(x, y), (x, y + height), (x + width, y + height), (x + width, y), (x, y)]
    found = rows_of(polygon(outer, hole))
    for row in range(ROWS):
        for column in range(COLUMNS):
            tile = Region(column * TILE, row * TILE, TILE, TILE)
            assert found[row][column] == "01"[not Region(x, y, width, height).contains(tile)]


def test_slivers_and_specks_select_the_tiles_they_touch() -> None:
    sliver = polygon([(1, 3.0), (47, 3.0), (47, 3.0001), (1, 3.0)])
    speck = polygon([(17.2, 18.1), (17.3, 18.1), (17.3, 18.2), (17.2, 18.1)])
    assert rows_of(sliver) == ("111111", *["000000"] * 4)
    assert rows_of(speck) == ("000000", "000000", "001000", "000000", "000000")


def test_downsample_of_the_level_is_used() -> None:
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
def test_every_form_of_qupath_export_is_read(value, tmp_path) -> None:
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
        ({"type": "Feature", "geometry": None}, "no polygon"),
        ({"type": "Feature"}, "no polygon"),
        ({"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": None}] * 2}, "no polygon"),
        ({"type": "GeometryCollection", "geometries": []}, "no polygon"),
        ({"type": "MultiPolygon", "coordinates": []}, "no polygon"),
        ({"type": "FeatureCollection", "features": [None]}, "not GeoJSON"),
        ({"type": "FeatureCollection", "features": None}, "list of features"),
        ({"type": "FeatureCollection"}, "list of features"),
        ({"type": "GeometryCollection", "geometries": [None]}, "not GeoJSON"),
        ({"type": "GeometryCollection", "geometries": "x"}, "list of geometries"),
        ({"type": "Feature", "geometry": "POLYGON ((0 0, 1 0, 1 1, 0 0))"}, "not GeoJSON"),
        ({"type": "Polygon", "coordinates": None}, "list of rings"),
        ({"type": "Polygon", "coordinates": [None]}, "list of points"),
        ({"type": "Polygon", "coordinates": [[]]}, "open"),
        ({"type": "Polygon", "coordinates": [[None] * 4]}, "finite"),
        ({"type": "Polygon", "coordinates": [[{"x": 0, "y": 0}] * 4]}, "finite"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [1e9, 1], [1, 1], [0, 0]]]}, "up to 100,000,000"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [10**400, 1], [1, 1], [0, 0]]]}, "up to 100,000,000"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [-(10**9), 1], [1, 1], [0, 0]]]}, "up to 100,000,000"),
        (None, "not GeoJSON"),
        ("polygon", "not GeoJSON"),
        ({"type": ["Polygon"], "coordinates": SQUARE}, "no geometry"),
        ({"type": "LineString", "coordinates": SQUARE[0]}, "a LineString"),
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
def test_other_values_than_areas_are_refused_with_the_reason(value, says) -> None:
    with pytest.raises(RoiError, match=says):
        Roi.from_geojson(value)


@pytest.mark.parametrize(
    "beside",
    [
        {"type": "Feature", "geometry": None, "properties": {"name": "no area"}},
        {"type": "Feature", "properties": {}},
        {"type": "Feature", "geometry": {"type": "GeometryCollection", "geometries": []}},
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": []}},
        {"type": "Feature", "geometry": {"type": "MultiPolygon", "coordinates": [[], []]}},
    ],
)
def test_feature_without_geometry_is_skipped(beside) -> None:
    good = {"type": "Feature", "geometry": polygon(*SQUARE)}
    alone = Roi.from_geojson(good)
    assert Roi.from_geojson({"type": "FeatureCollection", "features": [beside, good, beside]}) == alone
    assert Roi.from_geojson([beside, good]) == alone


def test_null_geometry_of_the_odd_files_is_skipped(data) -> None:
    file = data / "odd" / "h03-null-geometry.geojson"
    features = json.loads(file.read_text())["features"]
    good = [one for one in features if one["geometry"] is not None]
    assert 0 < len(good) < len(features)
    assert Roi.read(file) == Roi.from_geojson(good)


def test_heights_are_ignored_and_collections_are_read() -> None:
    high = {"type": "Polygon", "coordinates": [[[*point, 7.5, None] for point in SQUARE[0]]]}
    nested = {"type": "GeometryCollection", "geometries": [{"type": "GeometryCollection", "geometries": [high]}]}
    assert Roi.from_geojson({"type": "Feature", "geometry": nested}) == Roi.from_geojson(polygon(*SQUARE))


@pytest.mark.parametrize("text", [b"\xff", b"", b"[1, 2", b'{"type": "Polygon", "coordinates": 1e', b"\x00" * 9])
def test_invalid_json_is_refused_with_the_file_name(tmp_path, text) -> None:
    file = tmp_path / "a.geojson"
    file.write_bytes(text)
    with pytest.raises(RoiError, match=r"a\.geojson: not GeoJSON"):
        Roi.read(file)


def parts_in(triangle: list, width: int, height: int) -> list:
    points = [tuple(map(Fraction, point)) for point in triangle]
    for axis, limit, sign in ((0, 0, 1), (0, width, -1), (1, 0, 1), (1, height, -1)):
        points = clipped(points, axis, limit, sign) if points else []
    return points if area(points) > 0 else []


FAR = st.tuples(st.integers(-60, 80), st.integers(-60, 80))


@settings(deadline=None, max_examples=400)
@given(st.tuples(FAR, FAR, FAR), st.integers(1, 30), st.integers(1, 30))
def test_clipped_bounds_are_those_of_the_part_on_the_slide(triangle, width, height) -> None:
    assume(area(list(triangle)) > 0)
    roi = Roi.from_geojson(polygon([*triangle, triangle[0]]))
    points = parts_in(list(triangle), width, height)
    if not points:
        with pytest.raises(RoiError, match=f"outside the slide's {width}x{height}"):
            roi.clipped_bounds(Size(width, height), "a.svs")
        return
    found = roi.clipped_bounds(Size(width, height), "a.svs")
    lows, highs = ([side(point[axis] for point in points) for axis in (0, 1)] for side in (min, max))
    for truth, edge in zip((*lows, *highs), (found.x, found.y, found.right, found.bottom), strict=True):
        assert abs(truth - edge) < 1 + 1e-6
    assert (found.x, found.y) <= tuple(float(one) + 1e-6 for one in lows)
    assert Region(0, 0, width, height).contains(found)
    assert found.right >= float(highs[0]) - 1e-6
    assert found.bottom >= float(highs[1]) - 1e-6


def test_hole_over_the_slides_edge_is_excluded() -> None:
    """A frame around the slide, whose hole leaves only a strip of the slide."""
    outer = [(-10, -10), (110, -10), (110, 110), (-10, 110), (-10, -10)]
    hole = [(-5, -5), (-5, 105), (80, 105), (80, -5), (-5, -5)]
    roi = Roi.from_geojson(polygon(outer, hole))
    assert roi.clipped_bounds(Size(100, 100), "a") == Region(80, 0, 20, 100)
    with pytest.raises(RoiError, match="outside"):
        roi.clipped_bounds(Size(70, 100), "a")
    whole = polygon([(0, 0), (100, 0), (100, 100), (0, 100), (0, 0)])
    assert Roi.from_geojson(whole).clipped_bounds(Size(100, 100), "a") == Region(0, 0, 100, 100)


@settings(deadline=None, max_examples=200)
@given(st.tuples(CORNERS, CORNERS, CORNERS), st.integers(1, TILE * COLUMNS), st.integers(1, TILE * ROWS))
def test_polygon_outside_the_slide_touches_no_tile(triangle, width, height) -> None:
    """Tiles end at the slide's edge."""
    assume(area(list(triangle)) > 0)
    rows, columns = -(-height // TILE), -(-width // TILE)
    roi = Roi.from_geojson(polygon([*triangle, triangle[0]]))
    found = roi.tile_rows(Region(0, 0, width, height), 1.0, TILE, rows, columns)
    inside = parts_in(list(triangle), width, height)
    truth = tuple("".join("01"[bool(inside) and touches(inside, r, c)] for c in range(columns)) for r in range(rows))
    assert found == truth


KINDS = ["Polygon", "MultiPolygon", "Feature", "FeatureCollection", "GeometryCollection", "Point"]
NUMBERS = st.one_of(st.integers(-50, 90), st.floats(), st.integers(), st.none(), st.text(max_size=3), st.booleans())
RINGS = st.lists(st.lists(NUMBERS, max_size=4), max_size=6).map(lambda ring: [*ring, *ring[:1]])
ANYTHING = st.recursive(
    st.one_of(NUMBERS, RINGS, st.lists(RINGS, max_size=2), st.just(SQUARE)),
    lambda parts: st.one_of(
        st.lists(parts, max_size=3),
        st.fixed_dictionaries(
            {"type": st.one_of(st.sampled_from(KINDS), parts)},
            optional=dict.fromkeys(("coordinates", "geometry", "geometries", "features"), parts),
        ),
    ),
    max_leaves=12,
)


@settings(deadline=None, max_examples=500)
@given(ANYTHING)
def test_any_json_is_read_or_refused(value) -> None:
    try:
        roi = Roi.from_geojson(value)
        found = roi.clipped_bounds(Size(40, 32), "a.svs")
    except RoiError:
        return
    assert Region(0, 0, 40, 32).contains(found)
    roi.tile_rows(found, 1.0, TILE, -(-found.height // TILE), -(-found.width // TILE))


def test_deep_nesting_is_refused(tmp_path) -> None:
    nested: dict = {"type": "Polygon", "coordinates": SQUARE}
    for _ in range(30):
        nested = {"type": "GeometryCollection", "geometries": [nested]}
    with pytest.raises(RoiError, match="deeply"):
        Roi.from_geojson(nested)
    file = tmp_path / "deep.geojson"
    file.write_text("[" * 100_000)
    with pytest.raises(RoiError, match="not GeoJSON"):
        Roi.read(file)
