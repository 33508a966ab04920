"""The outline of a set of tiles: rectilinear polygons with holes, and the GeoJSON that QuPath reads.

Tiles that share a side are one polygon. Where two tiles meet only at a corner, the ring is split there, so that no ring
touches itself, as the Simple Features of the OGC require.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from slidelift.wsi.geometry import Size

Corner = tuple[int, int]
Ring = list[Corner]
"""Corners (x, y) of the grid; the last one repeats the first."""

_RIGHT, _DOWN, _LEFT, _UP = (1, 0), (0, 1), (-1, 0), (0, -1)


def outlines(cells: NDArray[np.bool_]) -> list[list[Ring]]:
    """Trace the true cells (rows, columns); each polygon is its outer ring and then its holes, in grid corners.

    With y pointing down, outer rings run clockwise and holes counter-clockwise.
    """
    labels, count = scipy.ndimage.label(cells)
    outer: dict[int, Ring] = {}
    holes: dict[int, list[Ring]] = {label: [] for label in range(1, count + 1)}
    for ring in _rings(cells):
        label = int(labels[_cell_beside(ring)])
        if _doubled_area(ring) > 0:
            outer[label] = ring
        else:
            holes[label].append(ring)
    return [[outer[label], *holes[label]] for label in sorted(outer)]


def geojson(
    classes: Mapping[str, tuple[NDArray[np.bool_], tuple[int, int, int]]], side: int, size: Size
) -> dict[str, Any]:
    """Make a FeatureCollection of QuPath annotations in pixels.

    Parameters
    ----------
    classes
        Name of the class -> its tiles (rows, columns), and its colour.
    side
        Of a tile.
    size
        Of the image; tiles at its right and lower edge are cut off there.
    """
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [_pixels(ring, side, size) for ring in polygon]},
            "properties": {
                "objectType": "annotation",
                "classification": {"name": name, "color": list(colour)},
            },
        }
        for name, (cells, colour) in classes.items()
        for polygon in outlines(cells)
    ]
    return {"type": "FeatureCollection", "features": features}


def _pixels(ring: Ring, side: int, size: Size) -> list[list[int]]:
    return [[min(x * side, size.width), min(y * side, size.height)] for x, y in ring]


def _rings(cells: NDArray[np.bool_]) -> list[Ring]:
    """Return simple rings along the borders, with the cells to their right."""
    leaving: dict[Corner, list[Corner]] = {}
    padded = np.pad(cells, 1)
    inside = padded[1:-1, 1:-1]
    for step, corner, other in (
        (_RIGHT, (0, 0), padded[:-2, 1:-1]),
        (_DOWN, (1, 0), padded[1:-1, 2:]),
        (_LEFT, (1, 1), padded[2:, 1:-1]),
        (_UP, (0, 1), padded[1:-1, :-2]),
    ):
        for row, column in np.argwhere(inside & ~other).tolist():
            leaving.setdefault((column + corner[0], row + corner[1]), []).append(step)
    rings = []
    while leaving:
        start = next(iter(leaving))
        rings += _split(_walk(leaving, start))
    return [_straightened(ring) for ring in rings]


def _walk(leaving: dict[Corner, list[Corner]], start: Corner) -> Ring:
    """Follow the border from `start` back to it; where two edges leave a corner, take the right one."""
    ring, here, step = [start], start, leaving[start][0]
    while True:
        steps = leaving[here]
        turned = (-step[1], step[0])
        step = turned if turned in steps else steps[0]
        steps.remove(step)
        if not steps:
            del leaving[here]
        here = here[0] + step[0], here[1] + step[1]
        ring.append(here)
        if here == start:
            return ring


def _split(ring: Ring) -> list[Ring]:
    """Split a ring at corners that it passes twice."""
    rings, path, at = [], list[Corner](), dict[Corner, int]()
    for corner in ring:
        if corner in at:
            first = at[corner]
            rings.append([*path[first:], corner])
            for passed in path[first + 1 :]:
                del at[passed]
            del path[first + 1 :]
        else:
            at[corner] = len(path)
            path.append(corner)
    return rings


def _straightened(ring: Ring) -> Ring:
    """Remove the corners at which a ring does not turn."""
    body = ring[:-1]
    kept = [
        here
        for before, here, after in zip([body[-1], *body], body, [*body[1:], body[0]], strict=False)
        if (here[0] - before[0]) * (after[1] - here[1]) != (here[1] - before[1]) * (after[0] - here[0])
    ]
    return [*kept, kept[0]]


def _doubled_area(ring: Sequence[Corner]) -> int:
    return sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in pairwise(ring))


def _cell_beside(ring: Ring) -> tuple[int, int]:
    """Return row and column of the cell to the right of the ring's first edge."""
    (x1, y1), (x2, y2) = ring[0], ring[1]
    if y1 == y2:
        return (y1, x1) if x2 > x1 else (y1 - 1, x1 - 1)
    return (y1, x1 - 1) if y2 > y1 else (y1 - 1, x1)
