"""The gain to expect of a model on a slide: what it measured on sources that are compressed as strongly. No torch."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from slidelift.models.zoo.catalog import ModelCard

NOT_COMPRESSED = "none"
"""The label of sources that were not compressed, among the keys of `ModelCard.gains`."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """Measured gains over bicubic of the same source, for the measured source that is most like a slide's.

    Attributes
    ----------
    quality
        JPEG quality that was measured: the slide's, or the next lower one; None for a source that is not compressed.
    least, greatest
        PSNR-Y in dB above bicubic, over the evaluation sets.
    beyond
        True where the slide is compressed more strongly than anything that was measured.
    """

    quality: int | None
    least: float
    greatest: float
    beyond: bool = False

    @property
    def text(self) -> str:
        """For the middle of a sentence."""
        source = (
            "sources that are not compressed" if self.quality is None else f"sources at JPEG quality {self.quality}"
        )
        span = f"{self.least:+.2f}" if self.least == self.greatest else f"{self.least:+.2f} to {self.greatest:+.2f}"
        return f"{span} dB PSNR against bicubic, measured on held-out {source}"


def measured_qualities(gains: Mapping[str, Mapping[str, float]]) -> list[int]:
    """The JPEG qualities at which any set was measured, from the lowest."""
    labels = {label for by_source in gains.values() for label in by_source}
    return sorted(int(label.removeprefix("Q")) for label in labels if label != NOT_COMPRESSED)


def expected_gain(card: ModelCard, quality: int | None) -> Expectation | None:
    """What a model gained on sources of this JPEG quality, or of the next lower one that was measured.

    Parameters
    ----------
    quality
        The slide's, 1 to 100; None for a slide that is not compressed.

    Returns
    -------
    Expectation or None
        None where nothing was measured.
    """
    qualities = measured_qualities(card.gains)
    if quality is None:
        found = [by_source[NOT_COMPRESSED] for by_source in card.gains.values() if NOT_COMPRESSED in by_source]
        return _over(None, found)
    if not qualities:
        return None
    below = [one for one in qualities if one <= quality]
    nearest = max(below, default=qualities[0])
    label = f"Q{nearest}"
    found = [by_source[label] for by_source in card.gains.values() if label in by_source]
    return _over(nearest, found, beyond=not below)


def _over(quality: int | None, gains: Iterable[float], *, beyond: bool = False) -> Expectation | None:
    found = list(gains)
    return Expectation(quality, min(found), max(found), beyond) if found else None
