"""Sizes and regions in whole pixels, as (x, y) and (width, height)."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Size:
    """Width and height in pixels."""

    width: int
    height: int

    def halved(self, times: int = 1) -> "Size":
        """Floor division by 2 ** times, as for the levels of a pyramid."""
        return Size(self.width >> times, self.height >> times)


@dataclass(frozen=True, slots=True)
class Region:
    """Rectangle of pixels, which may reach outside of its image."""

    x: int
    y: int
    width: int
    height: int

    @property
    def right(self) -> int:
        """First column after the region."""
        return self.x + self.width

    @property
    def bottom(self) -> int:
        """First row after the region."""
        return self.y + self.height

    @property
    def size(self) -> Size:
        """Width and height."""
        return Size(self.width, self.height)

    def as_box(self) -> tuple[int, int, int, int]:
        """x, y, width and height."""
        return self.x, self.y, self.width, self.height

    @property
    def is_empty(self) -> bool:
        """Whether the region has no pixels."""
        return self.width <= 0 or self.height <= 0

    def intersect(self, other: "Region") -> "Region":
        """Intersection of two regions; its width or height is 0 if they don't overlap."""
        x, y = max(self.x, other.x), max(self.y, other.y)
        return Region(x, y, max(0, min(self.right, other.right) - x), max(0, min(self.bottom, other.bottom) - y))

    def contains(self, other: "Region") -> bool:
        """Whether `other` lies inside of this region."""
        return self.intersect(other) == other

    def moved(self, dx: int, dy: int) -> "Region":
        """The region shifted by (dx, dy)."""
        return Region(self.x + dx, self.y + dy, self.width, self.height)

    def scaled(self, factor: int) -> "Region":
        """The region with every coordinate multiplied."""
        return Region(self.x * factor, self.y * factor, self.width * factor, self.height * factor)
