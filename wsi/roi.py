"""Regions of interest: polygons with holes in level-0 pixels, as QuPath exports them in GeoJSON.

The test whether a polygon touches a tile is exact: an edge runs through the tile's open square, or no edge does and the
tile's centre lies inside. A sliver thinner than a pixel selects the tiles that it crosses, and a polygon along a tile's
border does not select the tile beyond.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from slidelift.wsi.errors import RoiError
from slidelift.wsi.geometry import Region, Size

MAX_POINTS = 100_000
MAX_FILE_BYTES = 64 << 20
_FARTHEST = 1e8
_DEEPEST = 16

Point = tuple[float, float]
Ring = tuple[Point, ...]
Polygon = tuple[Ring, ...]


@dataclass(frozen=True, slots=True)
class Roi:
    """Areas of level 0.

    Attributes
    ----------
    polygons
        Each its outer ring and then its holes; a ring's last point repeats its first. The region is their union.
    """

    polygons: tuple[Polygon, ...]

    @classmethod
    def from_geojson(cls, value: Any) -> "Roi":
        """Read a geometry, a Feature, a FeatureCollection or a list of Features.

        Features without a geometry (null, as RFC 7946 allows) and empty geometries are skipped. Of a point only x and y
        are read.

        Raises
        ------
        RoiError
            The value is not such an object, or contains geometries that are not areas; a ring is open or has values
            that are not finite numbers; there are no points, or more than 100,000.
        """
        polygons, points = [], 0
        for coordinates in _areas(value, 0):
            rings = _listed(coordinates, "a polygon is a list of rings")
            points += 1 + sum(len(_listed(ring, "a ring is a list of points")) for ring in rings)
            if points > MAX_POINTS:
                raise RoiError(f"the region of interest has more than {MAX_POINTS:,} points; simplify it")
            polygons.append(tuple(_ring(ring) for ring in rings))
        if not any(polygons):
            raise RoiError("the region of interest holds no polygon")
        return cls(tuple(polygon for polygon in polygons if polygon))

    @classmethod
    def read(cls, path: Path) -> "Roi":
        """Read a file of GeoJSON.

        Raises
        ------
        RoiError
            As `from_geojson`; or the file is not JSON, or larger than 64 MiB.
        OSError
            The file can't be read.
        """
        if path.stat().st_size > MAX_FILE_BYTES:
            raise RoiError(f"{path.name}: larger than {MAX_FILE_BYTES >> 20} MiB; simplify the region of interest")
        try:
            value = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise RoiError(f"{path.name}: not GeoJSON") from error
        return cls.from_geojson(value)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; not GeoJSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Roi":
        """Inverse of `as_dict`, also after a round trip through JSON."""
        return cls(
            tuple(
                tuple(tuple((float(x), float(y)) for x, y in ring) for ring in polygon)
                for polygon in values["polygons"]
            )
        )

    @property
    def points(self) -> int:
        """Number of points of all rings."""
        return sum(len(ring) for polygon in self.polygons for ring in polygon)

    @property
    def bounds(self) -> Region:
        """Smallest region of whole pixels that holds all polygons."""
        xs = [x for polygon in self.polygons for x, _ in polygon[0]]
        ys = [y for polygon in self.polygons for _, y in polygon[0]]
        left, top = math.floor(min(xs)), math.floor(min(ys))
        return Region(left, top, max(1, math.ceil(max(xs)) - left), max(1, math.ceil(max(ys)) - top))

    def clipped_bounds(self, size: Size, name: str) -> Region:
        """Return the smallest region of whole pixels that holds the polygons' parts on the slide.

        Parameters
        ----------
        size
            Of the slide's level 0; polygons are cut off at its edge, as QuPath does.
        name
            Of the slide, for messages.

        Raises
        ------
        RoiError
            All polygons lie outside the slide.
        """
        spots = [spot for polygon in self.polygons for spot in _clipped(polygon, size)]
        if not spots:
            there = self.bounds
            raise RoiError(
                f"{name}: the region of interest (x {there.x} to {there.right}, y {there.y} to {there.bottom}) lies "
                f"outside the slide's {size.width}x{size.height} pixels; give its points in pixels of level 0"
            )
        left, top = (math.floor(min(spot[axis] for spot in spots)) for axis in (0, 1))
        right, bottom = (math.ceil(max(spot[axis] for spot in spots)) for axis in (0, 1))
        left, top = min(left, size.width - 1), min(top, size.height - 1)
        return Region(left, top, max(1, right - left), max(1, bottom - top))

    def tile_rows(self, source: Region, downsample: float, tile: int, rows: int, columns: int) -> tuple[str, ...]:
        """Return one string per row of tiles, ``1`` where a polygon touches the tile, else ``0``.

        Parameters
        ----------
        source
            Region of the grid, in pixels of a level of that `downsample`. Tiles end at its edge.
        """
        touched = [bytearray(b"0" * columns) for _ in range(rows)]
        for polygon in self.polygons:
            for row, column in _touched(_on_grid(polygon, source, downsample), tile, source.size):
                touched[row][column] = ord("1")
        return tuple(row.decode("ascii") for row in touched)


def require_single_area(region: tuple[int, int, int, int] | None, roi: Roi | None) -> None:
    """Raise RoiError if both a region and a region of interest are given."""
    if region is not None and roi is not None:
        raise RoiError("give a region or a region of interest, not both")


def _areas(value: Any, depth: int) -> Iterator[Any]:
    """Yield the coordinates of every polygon; a Feature without a geometry has none."""
    if depth > _DEEPEST:
        raise RoiError("the region of interest is nested too deeply")
    if isinstance(value, list):
        for one in value:
            yield from _areas(one, depth + 1)
        return
    if not isinstance(value, dict):
        raise RoiError("the region of interest is not GeoJSON: expected an object with a type")
    kind = value.get("type")
    if kind == "Polygon":
        yield value.get("coordinates")
    elif kind == "MultiPolygon":
        yield from _listed(value.get("coordinates"), "a MultiPolygon is a list of polygons")
    elif kind == "Feature":
        if value.get("geometry") is not None:
            yield from _areas(value["geometry"], depth + 1)
    elif kind in ("FeatureCollection", "GeometryCollection"):
        key = "features" if kind == "FeatureCollection" else "geometries"
        for one in _listed(value.get(key), f"a {kind} has a list of {key}"):
            yield from _areas(one, depth + 1)
    else:
        raise RoiError(f"the region of interest holds {_shown(kind)}; only Polygon and MultiPolygon are areas")


def _shown(kind: Any) -> str:
    return f"a {kind}" if isinstance(kind, str) and kind.isalpha() and len(kind) <= 20 else "what is no geometry"


def _listed(value: Any, wanted: str) -> list[Any]:
    if not isinstance(value, list):
        raise RoiError(f"the region of interest is not GeoJSON: {wanted}")
    return value


def _ring(values: Sequence[Any]) -> Ring:
    ring = tuple(_point(value) for value in values)
    if len(ring) < 4 or ring[0] != ring[-1]:
        raise RoiError("a ring of the region of interest is open: four points or more, the last like the first")
    return ring


def _point(value: Any) -> Point:
    if not isinstance(value, list) or len(value) < 2 or not all(_is_number(one) for one in value[:2]):
        raise RoiError(
            f"a point of the region of interest is not two finite numbers up to {_FARTHEST:,.0f}, in level-0 pixels"
        )
    return float(value[0]), float(value[1])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _FARTHEST


def _on_grid(polygon: Polygon, source: Region, downsample: float) -> Iterator[tuple[Point, Point]]:
    """Yield the polygon's edges, in the level's pixels from the grid's corner."""
    for ring in polygon:
        points = [(x / downsample - source.x, y / downsample - source.y) for x, y in ring]
        yield from pairwise(points)


def _touched(edges: Iterable[tuple[Point, Point]], tile: int, size: Size) -> Iterator[tuple[int, int]]:
    """Yield rows and columns of touched tiles, some more than once; tiles end at the edge of `size`."""
    rows, columns = -(-size.height // tile), -(-size.width // tile)
    crossings: dict[int, list[float]] = {}
    for (x1, y1), (x2, y2) in edges:
        if y1 > y2:
            x1, y1, x2, y2 = x2, y2, x1, y1
        first, last = max(0, math.floor(y1 / tile)), min(rows - 1, math.floor(y2 / tile))
        for row in range(first, last + 1):
            top, bottom = row * tile, min((row + 1) * tile, size.height)
            # outside the row's open strip, or along its border
            if y2 <= top or y1 >= bottom or (y1 == y2 and y1 == top):
                continue
            xs = sorted(_x_at(x1, y1, x2, y2, y) for y in (max(y1, top), min(y2, bottom))) if y1 < y2 else (x1, x2)
            left, right = min(xs), max(xs)
            if left < size.width:
                start = math.floor(left / tile)
                stop = math.ceil(right / tile) if left < right or left % tile else start
                yield from ((row, column) for column in range(max(0, start), min(columns, stop)))
            middle = (top + bottom) / 2
            if y1 <= middle < y2:
                crossings.setdefault(row, []).append(_x_at(x1, y1, x2, y2, middle))
    for row, at_middle in crossings.items():
        at_middle.sort()
        for enter, leave in zip(at_middle[::2], at_middle[1::2], strict=True):
            start, stop = _columns_before(enter, tile, size.width), _columns_before(leave, tile, size.width)
            yield from ((row, column) for column in range(start, stop))


def _columns_before(x: float, tile: int, width: int) -> int:
    """Count the columns of tiles whose centre is left of `x`."""
    whole, rest = divmod(width, tile)
    count = min(max(0, math.ceil(x / tile - 0.5)), whole)
    return count + (rest > 0 and whole * tile + rest / 2 < x)


def _clipped(polygon: Polygon, size: Size) -> Iterator[Point]:
    """Yield points whose bounding box is that of the polygon's part inside a rectangle at the origin.

    These are the ends of the clipped edges, and the corners of the rectangle that the polygon covers.
    """
    edges = [edge for ring in polygon for edge in pairwise(ring)]
    for edge in edges:
        yield from _edge_inside(*edge, size)
    for corner in ((0, 0), (size.width, 0), (0, size.height), (size.width, size.height)):
        if _covers_corner(edges, *corner):
            yield corner


def _edge_inside(start: Point, end: Point, size: Size) -> tuple[Point, ...]:
    """Clip an edge to the open rectangle (Liang and Barsky); an edge along its border has no part inside."""
    enter, leave = 0.0, 1.0
    for axis, limit in ((0, size.width), (1, size.height)):
        step = end[axis] - start[axis]
        if step == 0:
            if not 0 < start[axis] < limit:
                return ()
            continue
        first, last = sorted(((0 - start[axis]) / step, (limit - start[axis]) / step))
        enter, leave = max(enter, first), min(leave, last)
    if enter > leave or (enter == leave and start != end):
        return ()
    return tuple(
        (_between(start[0], end[0], share, size.width), _between(start[1], end[1], share, size.height))
        for share in (enter, leave)
    )


def _between(start: float, end: float, share: float, limit: int) -> float:
    """Interpolate a coordinate along an edge; the ends are exact."""
    value = start if share == 0 else end if share == 1 else start + share * (end - start)
    return min(max(value, 0), limit)


def _covers_corner(edges: Iterable[tuple[Point, Point]], x: int, y: int) -> bool:
    """Whether the polygon covers a rectangle's corner, tested just inside, nearest to the horizontal side."""
    covered = False
    for (x1, y1), (x2, y2) in edges:
        if y1 > y2:
            x1, y1, x2, y2 = x2, y2, x1, y1
        if (y1 <= 0 < y2) if y == 0 else (y1 < y <= y2):
            crossing = _x_at(x1, y1, x2, y2, y)
            covered ^= crossing <= 0 if x == 0 else crossing < x
    return covered


def _x_at(x1: float, y1: float, x2: float, y2: float, y: float) -> float:
    """Return x of a non-horizontal edge at `y`; rounded once."""
    return (x1 * (y2 - y1) + (y - y1) * (x2 - x1)) / (y2 - y1)
