"""Tile layout of Deep Zoom images (DZI), as read by OpenSeadragon.

Level L of an image with the finest level M has ceil(size / 2 ** (M - L)) pixels; level 0 has one. Tiles don't overlap,
so that each shows one tile of a result.
"""

from dataclasses import dataclass

from slidelift.wsi.geometry import Region, Size

TILE_SIZE = 512


@dataclass(frozen=True, slots=True)
class DeepZoom:
    """Levels and tiles of an image of `size` pixels."""

    size: Size

    @property
    def max_level(self) -> int:
        """Number of the finest level, which has the image's size."""
        return (max(self.size.width, self.size.height) - 1).bit_length()

    def downsample(self, level: int) -> int:
        """Pixels of the image, along one side, per pixel of the level."""
        return 1 << (self.max_level - level)

    def level_size(self, level: int) -> Size:
        """Size of a level in pixels."""
        step = self.downsample(level)
        return Size(-(-self.size.width // step), -(-self.size.height // step))

    def tile(self, level: int, column: int, row: int) -> Region | None:
        """Region of a tile in pixels of its level; None if there is no such tile."""
        if not 0 <= level <= self.max_level or column < 0 or row < 0:
            return None
        size = self.level_size(level)
        tile = Region(column * TILE_SIZE, row * TILE_SIZE, TILE_SIZE, TILE_SIZE)
        tile = tile.intersect(Region(0, 0, size.width, size.height))
        return None if tile.is_empty else tile

    def descriptor(self, tile_format: str) -> str:
        """XML of the .dzi file."""
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f'<Image xmlns="http://schemas.microsoft.com/deepzoom/2008" Format="{tile_format}" Overlap="0" '
            f'TileSize="{TILE_SIZE}"><Size Width="{self.size.width}" Height="{self.size.height}"/></Image>\n'
        )
