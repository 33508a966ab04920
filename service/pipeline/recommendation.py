"""Recommend a model and a source level for a slide, with the reason.

Uses only the slide's metadata and the models' cards; needs neither torch nor a decoder.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from slidelift.models.zoo.catalog import ModelCard, ModelKind, catalog
from slidelift.models.zoo.expectation import Expectation, expected_gain
from slidelift.service.pipeline.options import Effort
from slidelift.wsi.slide import Codec, SlideInfo
from slidelift.wsi.tiling import require_level

_FINE_MPP = 0.25
"""µm per pixel of a 40x scan: the resolution aimed at if the request gives none."""
_TOLERANCE = 0.05
"""Slides state their µm per pixel with about three digits."""

_EFFORT_ORDER: Mapping[Effort, tuple[Effort, ...]] = {
    Effort.FAST: (Effort.FAST, Effort.BALANCED, Effort.BEST),
    Effort.BALANCED: (Effort.BALANCED, Effort.FAST, Effort.BEST),
    Effort.BEST: (Effort.BEST, Effort.BALANCED, Effort.FAST),
}
"""Efforts in the order in which models are tried."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A recommended model, or the reason why none is recommended.

    Attributes
    ----------
    model, level, scale
        None if no model would improve this slide.
    mpp
        µm per pixel of the result.
    reason
        One or two sentences for the user.
    warnings
        Reasons to expect less than the published gain, one sentence each.
    """

    model: str | None
    level: int | None
    scale: int | None
    mpp: float | None
    reason: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Candidate:
    """One model at one scale on one level."""

    card: ModelCard
    level: int
    scale: int
    source_mpp: float
    expectation: Expectation | None

    @property
    def mpp(self) -> float:
        return self.source_mpp / self.scale

    @property
    def is_in_trained_range(self) -> bool:
        lowest, highest = self.card.source_mpp or (0.0, math.inf)
        return lowest <= self.source_mpp <= highest


def recommend(
    info: SlideInfo,
    *,
    mpp: float | None = None,
    target_mpp: float | None = None,
    level: int | None = None,
    effort: Effort = Effort.BALANCED,
    device: str = "cpu",
    is_dark: bool = False,
    cards: Iterable[ModelCard] | None = None,
) -> Recommendation:
    """Choose a network for a slide; never an interpolation, and never a resolution that the slide already has.

    Parameters
    ----------
    mpp
        µm per pixel of level 0, given or confirmed by the user.
    target_mpp
        Wanted µm per pixel of the result; None for the one nearest to a 40x scan.
    level
        The source level, if the user chose one.
    effort
        "fast", "balanced" or "best"; the last is the model that measured best on sources compressed like the slide.
    device
        "cuda" or "cpu". On CUDA the small network saves no time, so "fast" equals "balanced" there.
    is_dark
        True for a slide that is mostly black, as in fluorescence.
    cards
        Cards to choose from; None for the catalog.

    Raises
    ------
    PixelSizeMissingError, PixelSizeImplausibleError
        The slide's µm per pixel is not known, and `mpp` is None.
    NoSuchLevelError
        The slide has no such level.
    """
    require_level(info, level)
    slide_mpp = info.resolve_mpp(mpp)[0]
    if is_dark:
        return _none("Most of the slide is black, as in fluorescence; the networks were trained on brightfield stains.")
    if device == "cuda" and effort is Effort.FAST:
        effort = Effort.BALANCED
    levels = range(len(info.levels)) if level is None else [level]
    networks = [card for card in (catalog().values() if cards is None else cards) if card.effort is not None]
    every = [one for number in levels for card in networks for one in _candidates(info, slide_mpp, number, card)]
    finer = [one for one in every if one.mpp < slide_mpp * (1 - _TOLERANCE)]
    reaching = [one for one in finer if target_mpp is None or abs(one.mpp / target_mpp - 1) <= _TOLERANCE]
    suited = [one for one in reaching if one.is_in_trained_range]
    if not suited and slide_mpp >= _finest_source(networks):
        suited = _of_finest_level(reaching)
    better = [one for one in suited if one.expectation is None or one.expectation.least > 0]
    if not better:
        return _none(_why_not(slide_mpp, target_mpp, reaching, finer, suited, networks))
    best = min(better, key=lambda one: _rank(one, target_mpp, effort))
    return Recommendation(
        best.card.name, best.level, best.scale, best.mpp, _reason(best), compression_warnings(best.card, info)
    )


def expectation(card: ModelCard, info: SlideInfo) -> Expectation | None:
    """Gain measured on sources compressed like this slide; None if the compression or the gain is not known."""
    compression = info.compression
    if (
        card.kind is ModelKind.INTERPOLATION
        or compression is None
        or compression.codec in (Codec.JPEG_2000, Codec.OTHER)
    ):
        return None
    return expected_gain(card, compression.quality)


def _candidates(info: SlideInfo, slide_mpp: float, level: int, card: ModelCard) -> Iterator[_Candidate]:
    for scale in card.scales:
        yield _Candidate(card, level, scale, slide_mpp * info.levels[level].downsample, expectation(card, info))


def _finest_source(networks: Iterable[ModelCard]) -> float:
    """Smallest µm per pixel of a source that any network was trained for."""
    return min((card.source_mpp[0] for card in networks if card.source_mpp), default=0.0)


def _of_finest_level(candidates: list[_Candidate]) -> list[_Candidate]:
    """Candidates of the finest level, for a slide between or beyond the ranges that the networks were trained for."""
    finest = min((one.level for one in candidates), default=0)
    return [one for one in candidates if one.level == finest]


def _rank(candidate: _Candidate, target_mpp: float | None, effort: Effort) -> tuple[float, ...]:
    """Sort by the finest source, then the wanted resolution, then the measured gain (for "best"), then the effort."""
    distance = abs(math.log(candidate.mpp / (target_mpp or _FINE_MPP)))
    expected = candidate.expectation
    gain = expected.least if expected and effort is Effort.BEST else 0.0
    assert candidate.card.effort is not None  # noqa: S101 - models without one are no candidates
    return candidate.level, round(distance, 1), -gain, _EFFORT_ORDER[effort].index(Effort(candidate.card.effort))


def _reason(candidate: _Candidate) -> str:
    result = (
        f"{candidate.card.name} makes {candidate.mpp:.3g} µm per pixel from level {candidate.level}, which has "
        f"{candidate.source_mpp:.3g}"
    )
    return f"{result}; {candidate.expectation.text}." if candidate.expectation else f"{result}."


def compression_warnings(card: ModelCard, info: SlideInfo) -> tuple[str, ...]:
    """Warnings that the slide's compression lowers the expected gain; also for the report."""
    expected = expectation(card, info)
    if expected is None:
        return (_UNKNOWN,) if card.gains and card.kind is ModelKind.NETWORK else ()
    quality = info.compression.quality if info.compression else None
    if expected.beyond and quality is not None:
        return (
            f"the slide is compressed to about JPEG quality {quality}, and {card.name} was measured down to quality "
            f"{expected.quality}: expect less",
        )
    return ()


_UNKNOWN = "the slide's compression is not known; strong compression takes away most of the gain"


def _why_not(
    slide_mpp: float,
    target_mpp: float | None,
    reaching: list[_Candidate],
    finer: list[_Candidate],
    suited: list[_Candidate],
    networks: list[ModelCard],
) -> str:
    if suited:
        return "No model measured better than bicubic on sources that are compressed as strongly as this slide."
    if target_mpp is not None and target_mpp > slide_mpp * (1 - _TOLERANCE):
        return f"The slide has {slide_mpp:.3g} µm per pixel, which is as fine as the requested {target_mpp:.3g}."
    if target_mpp is not None and not reaching:
        within = ", ".join(f"{value:.3g}" for value in sorted({one.mpp for one in finer}))
        return f"No model makes {target_mpp:.3g} µm per pixel of this slide; within reach: {within or 'none'}."
    if slide_mpp < _finest_source(networks):
        return f"The slide has {slide_mpp:.3g} µm per pixel, already as fine as a model would make it: little to gain."
    return "The slide already has the resolution that a model would give to the chosen level: little to gain."


def _none(reason: str) -> Recommendation:
    return Recommendation(None, None, None, None, reason)
