"""Schema of the map of a result's tiles."""

from pydantic import BaseModel, Field


class BadTile(BaseModel):
    """A tile that could not be read or computed."""

    row: int
    column: int
    cause: str
    remedy: str


class TileMap(BaseModel):
    """Position of a result on its slide, and the outcome of each of its tiles."""

    complete: bool = Field(description="Whether the result is complete; false while the job runs.")
    stripes: list[bool] = Field(description="Whether each stripe is finished, from top to bottom.")
    place: tuple[float, float, float, float] = Field(
        description="x, y, width, height of the result in level-0 pixels of the slide."
    )
    width: int
    height: int
    scale: int
    tile: int = Field(description="Side length of a tile in pixels of the result.")
    mpp: tuple[float, float] | None = Field(description="µm per pixel (x, y) of the result.")
    map: list[str] = Field(
        description="One string per row of tiles, one letter per tile: t tissue, r rejected by its entropy, g glass, "
        "o outside the region of interest, s model output rejected and resampled, b bad, . pending."
    )
    consistency: list[list[float | None]] = Field(
        description="Per tile, RMSE in grey levels between the source and the downscaled model output, or null."
    )
    bad: list[BadTile]
