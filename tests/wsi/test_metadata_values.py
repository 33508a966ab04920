"""Tests of the conversion of metadata values, and of the checks for invalid numbers."""

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
_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.fractions(),
    st.tuples(st.integers(), st.integers()), st.lists(st.floats()),
    st.from_regex(r"\s*[+-]?\d*[.,]?\d*([eE][+-]?\d+)?\s*[xX]?", fullmatch=True),
)  # fmt: skip


@settings(deadline=None)
@given(_VALUES)
def test_any_value_becomes_a_valid_number_or_none(value) -> None:
    parser = MetadataParser()
    mpp, power = parser.pixel_size(value, "size"), parser.magnification(value, "power")
    pixels = parser.pixel_count(value, "offset")
    for number in (mpp, power):
        assert number is None or (math.isfinite(number) and number > 0)
    assert pixels is None or pixels >= 0
    info = replace(_INFO, mpp=(mpp, mpp) if mpp else None, objective=power, warnings=parser.warnings)
    values = json.loads(json.dumps(info.as_dict(), allow_nan=False))
    assert SlideInfo.from_dict(values, "slide").mpp == info.mpp
    if value is not None and value != "" and None in (mpp, power, pixels):
        assert parser.warnings


@pytest.mark.parametrize(
    ("value", "expected"),
    [((1, 4), 0.25), (Fraction(1, 2), 0.5), (3, 3.0), ("0.2500", 0.25), ((1, 0), None), ((0, 1), None), (True, None)],
)
def test_numbers_and_fractions(value, expected: float | None) -> None:
    parser = MetadataParser()
    assert parser.pixel_size(value, "XResolution") == expected
    assert bool(parser.warnings) == (expected is None)


@pytest.mark.parametrize("value", ["1,234", "12,000", "1.234,5", "1,2,3", "0,"])
def test_ambiguous_comma_is_unknown(value: str) -> None:
    assert MetadataParser().pixel_size(value, "size") is None


def test_pixel_counts_are_whole_numbers() -> None:
    parser = MetadataParser()
    assert [parser.pixel_count(value, "offset") for value in ("0", "12", "12.0", 7)] == [0, 12, 12, 7]
    assert [parser.pixel_count(value, "offset") for value in ("-1", "1.5", "1e99", "NaN", "true", True)] == [None] * 6
    assert parser.warnings


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 0, -1.0, True, "0.5", 10**400])
def test_slide_info_refuses_invalid_numbers(number) -> None:
    for wrong in ({"mpp": (number, 0.5)}, {"mpp": (0.5, number)}, {"objective": number}):
        with pytest.raises(ValueError, match="invalid slide metadata"):
            replace(_INFO, **wrong)
    with pytest.raises(ValueError, match="invalid level"):
        Level(Size(100, 80), number)
    values = {**_INFO.as_dict(), "mpp": [number, 0.5], "objective": number}
    read = SlideInfo.from_dict(values, "slide")
    assert (read.mpp, read.objective) == (None, None)


@pytest.mark.parametrize("number", [math.nan, math.inf, 0.0, -1.0])
def test_image_metadata_refuses_invalid_numbers(number: float) -> None:
    metadata = ImageMetadata("uuid", "name", "software", "words", (Size(512, 512),), (0.5, 0.5), 20.0, (), None)
    for wrong in ({"mpp": (0.5, number)}, {"objective": number}):
        with pytest.raises(ValueError, match="can't hold"):
            replace(metadata, **wrong)


def test_slide_info_refuses_missing_levels_and_empty_levels() -> None:
    with pytest.raises(ValueError, match="0 levels"):
        replace(_INFO, levels=())
    with pytest.raises(ValueError, match="invalid level"):
        Level(Size(0, 80), 1.0)
