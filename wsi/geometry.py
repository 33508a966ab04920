"""Integer pixel arithmetic: sizes and regions, (x, y) and (width, height), frozen."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Size:
    """Width and height in pixels."""

    width: int
    height: int

    def halved(self, times: int = 1) -> "Size":
        """Floor division by 2 ** times, as pyramid levels shrink."""
        return Size(self.width >> times, self.height >> times)


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle of pixels; may reach outside its image until clipped."""

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
        """Its extent."""
        return Size(self.width, self.height)

    def as_box(self) -> tuple[int, int, int, int]:
        """x, y, width and height."""
        return self.x, self.y, self.width, self.height

    @property
    def is_empty(self) -> bool:
        """Whether no pixel is inside."""
        return self.width <= 0 or self.height <= 0

    def intersect(self, other: "Region") -> "Region":
        """The common part; empty (width or height 0) where there is none."""
        x, y = max(self.x, other.x), max(self.y, other.y)
        return Region(x, y, max(0, min(self.right, other.right) - x), max(0, min(self.bottom, other.bottom) - y))

    def contains(self, other: "Region") -> bool:
        """Whether `other` lies inside."""
        return self.intersect(other) == other

    def moved(self, dx: int, dy: int) -> "Region":
        """Shifted by whole pixels."""
        return Region(self.x + dx, self.y + dy, self.width, self.height)

    def scaled(self, factor: int) -> "Region":
        """Every coordinate multiplied."""
        return Region(self.x * factor, self.y * factor, self.width * factor, self.height * factor)
