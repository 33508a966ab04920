"""A region of interest: polygons with holes in level-0 pixels, as QuPath exports them in GeoJSON.

Which tiles a polygon touches is decided exactly: a tile is touched where an edge runs through its open square, or where
none does and its middle lies inside. So a sliver thinner than a pixel selects what it crosses, and a polygon along a
tile's border does not select the tile beyond.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from wsi.errors import RoiError
from wsi.geometry import Region

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
        Each its outer ring and then its holes; a ring's last point is its first. What lies in any of them is in.
    """

    polygons: tuple[Polygon, ...]

    @classmethod
    def from_geojson(cls, value: Any) -> "Roi":
        """Read a geometry, a Feature, a FeatureCollection or a list of Features.

        Raises
        ------
        RoiError
            It is none of these, holds anything but areas, a ring is open or not of finite numbers, there are more than
            100,000 points, or none.
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
            As `from_geojson`; or it is no JSON, or larger than 64 MiB.
        OSError
            It can't be read.
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
        """Inverse of `as_dict`, also of what JSON has made of it."""
        return cls(
            tuple(
                tuple(tuple((float(x), float(y)) for x, y in ring) for ring in polygon)
                for polygon in values["polygons"]
            )
        )

    @property
    def points(self) -> int:
        """How many points all rings have together."""
        return sum(len(ring) for polygon in self.polygons for ring in polygon)

    @property
    def bounds(self) -> Region:
        """The least region of whole pixels that holds all polygons."""
        xs = [x for polygon in self.polygons for x, _ in polygon[0]]
        ys = [y for polygon in self.polygons for _, y in polygon[0]]
        left, top = math.floor(min(xs)), math.floor(min(ys))
        return Region(left, top, max(1, math.ceil(max(xs)) - left), max(1, math.ceil(max(ys)) - top))

    def tile_rows(self, source: Region, downsample: float, tile: int, rows: int, columns: int) -> tuple[str, ...]:
        """For each tile of a grid, ``1`` where a polygon touches it, else ``0``.

        Parameters
        ----------
        source
            Where the grid begins, in pixels of a level that has `downsample` level-0 pixels for each of its own.
        """
        touched = [bytearray(b"0" * columns) for _ in range(rows)]
        for polygon in self.polygons:
            for row, column in _touched(_on_grid(polygon, source, downsample), tile, rows, columns):
                touched[row][column] = ord("1")
        return tuple(row.decode("ascii") for row in touched)


def _areas(value: Any, depth: int) -> Iterator[Any]:
    """Coordinates of every polygon."""
    if depth > _DEEPEST:
        raise RoiError("the region of interest is nested too deeply")
    if isinstance(value, list):
        for one in value:
            yield from _areas(one, depth + 1)
        return
    if not isinstance(value, dict):
        raise RoiError("the region of interest is not GeoJSON: an object with a type is wanted")
    kind = value.get("type")
    if kind == "Polygon":
        yield value.get("coordinates")
    elif kind == "MultiPolygon":
        yield from _listed(value.get("coordinates"), "a MultiPolygon is a list of polygons")
    elif kind == "Feature":
        yield from _areas(value.get("geometry"), depth + 1)
    elif kind in {"FeatureCollection", "GeometryCollection"}:
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
        raise RoiError("a point of the region of interest is not two finite numbers, in level-0 pixels")
    return float(value[0]), float(value[1])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _FARTHEST


def _on_grid(polygon: Polygon, source: Region, downsample: float) -> Iterator[tuple[Point, Point]]:
    """The polygon's edges, in the level's pixels from the grid's corner."""
    for ring in polygon:
        points = [(x / downsample - source.x, y / downsample - source.y) for x, y in ring]
        yield from pairwise(points)


def _touched(edges: Iterable[tuple[Point, Point]], tile: int, rows: int, columns: int) -> Iterator[tuple[int, int]]:
    crossings: dict[int, list[float]] = {}
    for (x1, y1), (x2, y2) in edges:
        if y1 > y2:
            x1, y1, x2, y2 = x2, y2, x1, y1
        first, last = max(0, math.floor(y1 / tile)), min(rows - 1, math.floor(y2 / tile))
        for row in range(first, last + 1):
            top, bottom = row * tile, (row + 1) * tile
            if y2 <= top or (y1 == y2 and y1 == top):  # along the row's border only: not in its open strip
                continue
            xs = sorted(_x_at(x1, y1, x2, y2, y) for y in (max(y1, top), min(y2, bottom))) if y1 < y2 else (x1, x2)
            left, right = min(xs), max(xs)
            start = math.floor(left / tile)
            stop = math.ceil(right / tile) if left < right or left % tile else start
            yield from ((row, column) for column in range(max(0, start), min(columns, stop)))
            middle = (row + 0.5) * tile
            if y1 <= middle < y2:
                crossings.setdefault(row, []).append(_x_at(x1, y1, x2, y2, middle))
    for row, found in crossings.items():
        found.sort()
        for enter, leave in zip(found[::2], found[1::2], strict=True):
            start, stop = math.ceil(enter / tile - 0.5), math.ceil(leave / tile - 0.5)
            yield from ((row, column) for column in range(max(0, start), min(columns, stop)))


def _x_at(x1: float, y1: float, x2: float, y2: float, y: float) -> float:
    """Where an edge that is not level has the height `y`; rounded once."""
    return (x1 * (y2 - y1) + (y - y1) * (x2 - x1)) / (y2 - y1)
