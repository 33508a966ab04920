"""A word of a file is a number or unknown; no slide holds a number that is not one."""

import json
import math
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slidelift.wsi.geometry import Size
from slidelift.wsi.metadata_values import MetadataParser
from slidelift.wsi.ome_xml import ImageMetadata
from slidelift.wsi.slide import Level, SlideInfo

_INFO = SlideInfo("slide", "test", (Level(Size(100, 80), 1.0),), (0.5, 0.5), 20.0, None)
_WORDS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.fractions(),
    st.tuples(st.integers(), st.integers()), st.lists(st.floats()),
    st.from_regex(r"\s*[+-]?\d*[.,]?\d*([eE][+-]?\d+)?\s*[xX]?", fullmatch=True),
)  # fmt: skip


@settings(deadline=None)
@given(_WORDS)
def test_whatever_is_said_becomes_a_number_that_can_be_written_or_unknown(said) -> None:
    quantities = MetadataParser()
    mpp, power = quantities.pixel_size(said, "size"), quantities.magnification(said, "power")
    pixels = quantities.pixel_count(said, "offset")
    for number in (mpp, power):
        assert number is None or (math.isfinite(number) and number > 0)
    assert pixels is None or pixels >= 0
    info = replace(_INFO, mpp=(mpp, mpp) if mpp else None, objective=power, warnings=quantities.warnings)
    told = json.loads(json.dumps(info.as_dict(), allow_nan=False))
    assert SlideInfo.from_dict(told, "slide").mpp == info.mpp
    if said is not None and said != "" and None in (mpp, power, pixels):
        assert quantities.warnings


@pytest.mark.parametrize(
    ("said", "micrometres"),
    [((1, 4), 0.25), (Fraction(1, 2), 0.5), (3, 3.0), ("0.2500", 0.25), ((1, 0), None), ((0, 1), None), (True, None)],
)
def test_numbers_and_fractions_are_read(said, micrometres: float | None) -> None:
    quantities = MetadataParser()
    assert quantities.pixel_size(said, "XResolution") == micrometres
    assert bool(quantities.warnings) == (micrometres is None)


@pytest.mark.parametrize("said", ["1,234", "12,000", "1.234,5", "1,2,3", "0,"])
def test_a_comma_that_may_part_thousands_is_not_guessed(said: str) -> None:
    assert MetadataParser().pixel_size(said, "size") is None


def test_offsets_are_whole_pixels() -> None:
    quantities = MetadataParser()
    assert [quantities.pixel_count(said, "offset") for said in ("0", "12", "12.0", 7)] == [0, 12, 12, 7]
    assert [quantities.pixel_count(said, "offset") for said in ("-1", "1.5", "1e99", "NaN", "true", True)] == [None] * 6
    assert quantities.warnings


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 0, -1.0, True, "0.5", 10**400])
def test_no_slide_holds_a_number_that_is_none(number) -> None:
    for wrong in ({"mpp": (number, 0.5)}, {"mpp": (0.5, number)}, {"objective": number}):
        with pytest.raises(ValueError, match="invalid slide metadata"):
            replace(_INFO, **wrong)
    with pytest.raises(ValueError, match="invalid level"):
        Level(Size(100, 80), number)
    told = {**_INFO.as_dict(), "mpp": [number, 0.5], "objective": number}
    read = SlideInfo.from_dict(told, "slide")
    assert (read.mpp, read.objective) == (None, None)


@pytest.mark.parametrize("number", [math.nan, math.inf, 0.0, -1.0])
def test_what_goes_into_a_results_metadata_is_checked_before_the_work(number: float) -> None:
    facts = ImageMetadata("uuid", "name", "software", "words", (Size(512, 512),), (0.5, 0.5), 20.0, (), None)
    for wrong in ({"mpp": (0.5, number)}, {"objective": number}):
        with pytest.raises(ValueError, match="can't hold"):
            replace(facts, **wrong)


def test_no_slide_is_without_levels_or_pixels() -> None:
    with pytest.raises(ValueError, match="0 levels"):
        replace(_INFO, levels=())
    with pytest.raises(ValueError, match="invalid level"):
        Level(Size(0, 80), 1.0)
