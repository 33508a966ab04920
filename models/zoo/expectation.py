"""Expected gain of a model on a slide, from measurements on sources of similar compression. Does not import torch."""

from collections.abc import Mapping
from dataclasses import dataclass

from slidelift.models.zoo.catalog import ModelCard

NOT_COMPRESSED = "none"
"""Label of uncompressed sources in `ModelCard.gains`."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """Range of measured gains over bicubic, for the measured compression closest to the slide's.

    Attributes
    ----------
    quality
        Measured JPEG quality: the slide's, or the next lower one; None for uncompressed sources.
    least, greatest
        Gain of PSNR-Y over bicubic in dB, over the evaluation sets.
    beyond
        True if the slide is compressed more strongly than any measured source.
    """

    quality: int | None
    least: float
    greatest: float
    beyond: bool = False

    @property
    def text(self) -> str:
        """Phrase for messages."""
        source = "uncompressed sources" if self.quality is None else f"sources at JPEG quality {self.quality}"
        span = f"{self.least:+.2f}" if self.least == self.greatest else f"{self.least:+.2f} to {self.greatest:+.2f}"
        return f"{span} dB PSNR against bicubic, measured on held-out {source}"


def measured_qualities(gains: Mapping[str, Mapping[str, float]]) -> list[int]:
    """Return the JPEG qualities measured for any set, in ascending order."""
    labels = {label for by_source in gains.values() for label in by_source}
    return sorted(int(label.removeprefix("Q")) for label in labels if label != NOT_COMPRESSED)


def expected_gain(card: ModelCard, quality: int | None) -> Expectation | None:
    """Return a model's measured gain on sources of this JPEG quality, or of the next lower measured one.

    Parameters
    ----------
    quality
        The slide's, 1 to 100; None for an uncompressed slide.

    Returns
    -------
    Expectation or None
        None without measurements.
    """
    if quality is None:
        return _expectation(card, None, NOT_COMPRESSED)
    if not (qualities := measured_qualities(card.gains)):
        return None
    below = [one for one in qualities if one <= quality]
    nearest = max(below, default=qualities[0])
    return _expectation(card, nearest, f"Q{nearest}", beyond=not below)


def _expectation(card: ModelCard, quality: int | None, label: str, *, beyond: bool = False) -> Expectation | None:
    gains = [by_source[label] for by_source in card.gains.values() if label in by_source]
    return Expectation(quality, min(gains), max(gains), beyond) if gains else None
