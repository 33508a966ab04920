"""Which model suits a slide, from which level, and why: asked by the command line, the API and the page alike.

Needs neither torch nor a decoder, only what the slide says of itself and the models' cards.
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
"""µm per pixel of a 40x scan: what a result should come nearest to where nothing else is asked for."""
_TOLERANCE = 0.05
"""A slide's µm per pixel is written with about three digits."""


_LADDER: Mapping[Effort, tuple[Effort, ...]] = {
    Effort.FAST: (Effort.FAST, Effort.BALANCED, Effort.BEST),
    Effort.BALANCED: (Effort.BALANCED, Effort.FAST, Effort.BEST),
    Effort.BEST: (Effort.BEST, Effort.BALANCED, Effort.FAST),
}
"""Where no model of the wanted effort fits, the next is taken."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """An answer, or the reason why there is none.

    Attributes
    ----------
    model, level, scale
        None where no model is worth its time on this slide.
    mpp
        µm per pixel of the result.
    reason
        One or two sentences for the user.
    warnings
        What lowers the expectation, one sentence each.
    """

    model: str | None
    level: int | None
    scale: int | None
    mpp: float | None
    reason: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Offer:
    """One model on one level."""

    card: ModelCard
    level: int
    scale: int
    source_mpp: float
    expectation: Expectation | None

    @property
    def mpp(self) -> float:
        return self.source_mpp / self.scale


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
    """Choose a shipped network for a slide; never an interpolation, never a resolution that the slide has.

    Parameters
    ----------
    mpp
        µm per pixel of level 0, given or confirmed by the user.
    target_mpp
        Wanted µm per pixel of the result; None for what comes nearest to a 40x scan.
    level
        The source level, where the user chose one.
    effort
        "fast", "balanced" or "best", which is what measured best on sources compressed as the slide is.
    device
        "cuda" or "cpu". On CUDA the small network saves no time, so that "fast" is "balanced" there.
    is_dark
        True for a slide that is mostly black, as in fluorescence.
    cards
        What to choose from; None for the catalog.

    Raises
    ------
    PixelSizeMissingError, PixelSizeImplausibleError
        The slide's µm per pixel is not known, and `mpp` is None.
    PlanError
        The slide has no such level.
    """
    require_level(info, level)
    own = info.trusted_mpp(mpp)[0]
    if is_dark:
        return _none("Most of the slide is black, as in fluorescence; the networks were trained on brightfield stains.")
    if device == "cuda" and effort is Effort.FAST:
        effort = Effort.BALANCED
    levels = range(len(info.levels)) if level is None else [level]
    networks = [card for card in (catalog().values() if cards is None else cards) if card.effort is not None]
    every = [offer for number in levels for card in networks for offer in _offers(info, own, number, card)]
    finer = [one for one in every if one.mpp < own * (1 - _TOLERANCE)]
    wanted = [one for one in finer if target_mpp is None or abs(one.mpp / target_mpp - 1) <= _TOLERANCE]
    fitting = [one for one in wanted if _suits(one)] or ([] if own < _least(networks) else _nearest_level(wanted))
    better = [one for one in fitting if one.expectation is None or one.expectation.least > 0]
    if not better:
        return _none(_why_not(own, target_mpp, wanted, finer, fitting, networks))
    best = min(better, key=lambda one: _rank(one, target_mpp, effort))
    return Recommendation(
        best.card.name, best.level, best.scale, best.mpp, _reason(best), compression_warnings(best.card, info)
    )


def expectation(card: ModelCard, info: SlideInfo) -> Expectation | None:
    """What the model gained on sources compressed as this slide is; None where either is not known."""
    found = info.compression
    if card.kind is ModelKind.INTERPOLATION or found is None or found.codec in (Codec.JPEG_2000, Codec.OTHER):
        return None
    return expected_gain(card, found.quality)


def _offers(info: SlideInfo, own: float, level: int, card: ModelCard) -> Iterator[_Offer]:
    source = own * info.levels[level].downsample
    for scale in card.scales:
        yield _Offer(card, level, scale, source, expectation(card, info))


def _suits(offer: _Offer) -> bool:
    least, greatest = offer.card.source_mpp or (0.0, math.inf)
    return least <= offer.source_mpp <= greatest


def _least(networks: Iterable[ModelCard]) -> float:
    """The finest source that any network was trained for."""
    return min((card.source_mpp[0] for card in networks if card.source_mpp), default=0.0)


def _nearest_level(offers: list[_Offer]) -> list[_Offer]:
    """For a slide between or beyond the networks' ranges: those of the finest level."""
    finest = min((one.level for one in offers), default=0)
    return [one for one in offers if one.level == finest]


def _rank(offer: _Offer, target_mpp: float | None, effort: Effort) -> tuple[float, ...]:
    """The finest source first, then the wanted resolution, then the effort; the best is what measured best."""
    off = abs(math.log(offer.mpp / (target_mpp or _FINE_MPP)))
    found = offer.expectation
    gain = found.least if found and effort is Effort.BEST else 0.0
    assert offer.card.effort is not None  # noqa: S101 - networks without one are no candidates
    return offer.level, round(off, 1), -gain, _LADDER[effort].index(Effort(offer.card.effort))


def _reason(offer: _Offer) -> str:
    card = offer.card
    found = f"{card.name} makes {offer.mpp:.3g} µm per pixel of the {offer.source_mpp:.3g} of level {offer.level}"
    return f"{found}; {offer.expectation.words}." if offer.expectation else f"{found}."


def compression_warnings(card: ModelCard, info: SlideInfo) -> tuple[str, ...]:
    """What the slide's compression takes from the expectation, one sentence each; for the report too."""
    found = expectation(card, info)
    if found is None:
        return (_UNKNOWN,) if card.gains and card.kind is ModelKind.NETWORK else ()
    quality = info.compression.quality if info.compression else None
    if found.beyond and quality is not None:
        return (
            f"the slide is compressed to about JPEG quality {quality}, and {card.name} was measured down to quality "
            f"{found.quality}: expect less",
        )
    return ()


_UNKNOWN = "how strongly the slide is compressed is not known; strong compression takes most of the gain"


def _why_not(
    own: float,
    target_mpp: float | None,
    wanted: list[_Offer],
    finer: list[_Offer],
    fitting: list[_Offer],
    networks: list[ModelCard],
) -> str:
    if fitting:
        return "No model measured better than bicubic on sources that are compressed as strongly as this slide."
    if target_mpp is not None and target_mpp > own * (1 - _TOLERANCE):
        return f"The slide has {own:.3g} µm per pixel, which is as fine as the {target_mpp:.3g} that are asked for."
    if target_mpp is not None and not wanted:
        within = ", ".join(f"{value:.3g}" for value in sorted({one.mpp for one in finer}))
        return f"No model makes {target_mpp:.3g} µm per pixel of this slide; within reach: {within or 'none'}."
    if own < _least(networks):
        return f"The slide has {own:.3g} µm per pixel, already as fine as a model would make it: little to gain."
    return "The chosen level is no coarser than what the slide has after enlargement: little to gain."


def _none(reason: str) -> Recommendation:
    return Recommendation(None, None, None, None, reason)
