"""The layout of Deep Zoom (DZI): which part of a picture a viewer's tile shows; pure arithmetic.

After the format of Seadragon, as OpenSeadragon reads it: level L of a picture whose finest level is M has
ceil(size / 2 ** (M - L)) pixels, and level 0 has one. Tiles don't overlap: each is one tile of a result.
"""

from dataclasses import dataclass

from slidelift.wsi.geometry import Region, Size

TILE_SIZE = 512


@dataclass(frozen=True, slots=True)
class DeepZoom:
    """The tiles of a picture of `size` pixels."""

    size: Size

    @property
    def max_level(self) -> int:
        """The number of the level that has the picture's own size."""
        return (max(self.size.width, self.size.height) - 1).bit_length()

    def downsample(self, level: int) -> int:
        """Pixels of the picture, along one side, for each pixel of the level."""
        return 1 << (self.max_level - level)

    def level_size(self, level: int) -> Size:
        """Size of a level in its own pixels."""
        step = self.downsample(level)
        return Size(-(-self.size.width // step), -(-self.size.height // step))

    def tile(self, level: int, column: int, row: int) -> Region | None:
        """The tile's place in pixels of its level; None where there is no such tile."""
        if not 0 <= level <= self.max_level or column < 0 or row < 0:
            return None
        size = self.level_size(level)
        place = Region(column * TILE_SIZE, row * TILE_SIZE, TILE_SIZE, TILE_SIZE)
        shown = place.intersect(Region(0, 0, size.width, size.height))
        return None if shown.is_empty else shown

    def descriptor(self, tile_format: str) -> str:
        """The .dzi file: XML that names the size, and the format of the tiles."""
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f'<Image xmlns="http://schemas.microsoft.com/deepzoom/2008" Format="{tile_format}" Overlap="0" '
            f'TileSize="{TILE_SIZE}"><Size Width="{self.size.width}" Height="{self.size.height}"/></Image>\n'
        )
