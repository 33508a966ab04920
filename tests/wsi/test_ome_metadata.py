"""Tests of OME-XML metadata: valid, invalid and malformed."""

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile

from slidelift.wsi.errors import SlideUnreadableError, WsiError
from slidelift.wsi.geometry import Region, Size

MUTANTS = 200
_INSTRUMENT = (
    '<Instrument ID="Instrument:0"><Objective ID="Objective:0:0" NominalMagnification="2.0"/>'
    '<Objective ID="Objective:0:1" NominalMagnification="20.0"/></Instrument>'
)
_SETTINGS = '<InstrumentRef ID="Instrument:0"/><ObjectiveSettings ID="Objective:0:1"/>'


def xml(pixels: str = 'PhysicalSizeX="0.5" PhysicalSizeY="0.5"', instrument: str = "", settings: str = "") -> str:
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        'UUID="urn:uuid:00000000-0000-0000-0000-000000000001">'
        f'{instrument}<Image ID="Image:0" Name="slide">{settings}'
        '<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="96" SizeY="64" SizeC="3" SizeZ="1" SizeT="1" '
        f'Interleaved="true" {pixels}><Channel ID="Channel:0:0" SamplesPerPixel="3"/>'
        '<TiffData IFD="0" PlaneCount="1"/></Pixels></Image></OME>'
    )


@pytest.fixture
def write(tmp_path, formula_pixels):
    """Write an OME-TIFF of two levels with this OME-XML."""

    def written(text: str | bytes) -> Path:
        path = tmp_path / "slide.ome.tif"
        pixels = formula_pixels(Region(0, 0, 96, 64))
        text = text.encode() if isinstance(text, str) else text
        with tifffile.TiffWriter(path) as tiff:
            options = {"photometric": "rgb", "tile": (32, 32), "metadata": None}
            tiff.write(pixels, subifds=1, description=text, **options)
            tiff.write(np.ascontiguousarray(pixels[::2, ::2]), subfiletype=1, **options)
        return path

    return written


@pytest.fixture
def info(write, open_slide):
    return lambda text: open_slide(write(text)).info


@pytest.mark.parametrize(
    "value", ["NaN", "INF", "-INF", "Infinity", "0", "-0.5", "1e400", "1e30", "1e-30", "1,234", "true"]
)
@pytest.mark.parametrize("axis", ["X", "Y", "XY"])
def test_impossible_size_is_unknown_with_a_warning(info, value: str, axis: str) -> None:
    sizes = {"PhysicalSizeX": "0.5", "PhysicalSizeY": "0.5", **{f"PhysicalSize{one}": value for one in axis}}
    found = info(xml(" ".join(f'{name}="{value}"' for name, value in sizes.items())))
    assert found.mpp is None
    assert any(f"PhysicalSize{axis[0]}" in warning and "unknown" in warning for warning in found.warnings)
    json.dumps(found.as_dict(), allow_nan=False)


@pytest.mark.parametrize("value", ["about 0.5", "0.5.5", "John Doe", "0x10", "\u0660.\u0665", "1_0", "--1", "0.5 mm"])
def test_warning_does_not_quote_the_value(info, value: str) -> None:
    found = info(xml(f'PhysicalSizeX="{value}" PhysicalSizeY="{value}"'))
    assert found.mpp is None
    assert found.warnings
    assert value not in " ".join(found.warnings)


def test_missing_size_is_unknown_without_a_warning(info) -> None:
    found = info(xml(""))
    assert (found.mpp, found.objective, found.warnings) == (None, None, ())


def test_size_along_one_axis_only_is_unknown(info) -> None:
    found = info(xml('PhysicalSizeX="0.5"'))
    assert found.mpp is None
    assert any("one axis" in warning for warning in found.warnings)


@pytest.mark.parametrize(
    ("value", "mpp"), [("0,5", 0.5), ("0,251", 0.251), (" 0.25 ", 0.25), ("+2.5E-1", 0.25), (".25", 0.25), ("1.", 1.0)]
)
def test_decimal_comma_is_read_with_a_warning(info, value: str, mpp: float) -> None:
    found = info(xml(f'PhysicalSizeX="{value}" PhysicalSizeY="{value}"'))
    assert found.mpp == (mpp, mpp)
    assert any("decimal comma" in warning for warning in found.warnings) == ("," in value)


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        ("nm", 1e-3),
        ("\u00b5m", 1),
        ("\u03bcm", 1),
        ("mm", 1e3),
        ("cm", 1e4),
        ("m", 1e6),
        ("\u00c5", 1e-4),
        ("in", 25_400),
    ],
)
def test_units_of_length(info, unit: str, factor: float) -> None:
    value = 0.25 / factor
    text = " ".join(f'PhysicalSize{axis}="{value!r}" PhysicalSize{axis}Unit="{unit}"' for axis in "XY")
    assert info(xml(text)).mpp == pytest.approx((0.25, 0.25))


@pytest.mark.parametrize("unit", ["pixel", "reference frame", "parsec", ""])
def test_size_in_a_unit_that_is_not_a_length_is_unknown(info, unit: str) -> None:
    found = info(xml(f'PhysicalSizeX="0.5" PhysicalSizeXUnit="{unit}" PhysicalSizeY="0.5"'))
    assert found.mpp is None
    assert any("unit" in warning for warning in found.warnings)


@pytest.mark.parametrize(
    ("value", "power"), [("20x", 20.0), ("20 X", 20.0), ("x40", 40.0), ("20\u00d7", 20.0), ("40", 40.0), ("2,5x", 2.5)]
)
def test_magnification_with_a_letter_is_read_with_a_warning(info, value: str, power: float) -> None:
    found = info(xml(instrument=f'<Instrument><Objective ID="O" NominalMagnification="{value}"/></Instrument>'))
    assert found.objective == power
    assert bool(found.warnings) == (value != "40")


@pytest.mark.parametrize("value", ["NaN", "INF", "0", "-20", "1e30", "twenty", "20x40", "true", "x", "1e-9"])
def test_impossible_magnification_is_unknown_with_a_warning(info, value: str) -> None:
    found = info(xml(instrument=f'<Instrument><Objective ID="O" NominalMagnification="{value}"/></Instrument>'))
    assert found.objective is None
    assert found.mpp == (0.5, 0.5)
    assert any("NominalMagnification" in warning for warning in found.warnings)


def test_objective_settings_select_the_objective(info) -> None:
    assert info(xml(instrument=_INSTRUMENT, settings=_SETTINGS)).objective == 20.0


@pytest.mark.parametrize("settings", ["", _SETTINGS.replace("0:1", "0:7")])
def test_objective_is_unknown_if_several_are_possible(info, settings: str) -> None:
    found = info(xml(instrument=_INSTRUMENT, settings=settings))
    assert found.objective is None
    assert any("objective" in warning for warning in found.warnings)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_largest_image_is_the_slide_with_a_warning_about_others(tmp_path, formula_pixels, open_slide, position) -> None:
    slide = formula_pixels(Region(0, 0, 192, 128))
    images = [(slide[::4, ::4], 2.0), (slide[:64, :64], 4.0)]
    images.insert(position, (slide, 0.5))
    path = tmp_path / "many.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tiff:
        for pixels, mpp in images:
            sizes = {"PhysicalSizeX": mpp, "PhysicalSizeY": mpp, "Name": "label of John Doe"}
            tiff.write(np.ascontiguousarray(pixels), photometric="rgb", tile=(32, 32), metadata=sizes)
    reader = open_slide(path)
    assert (reader.info.size, reader.info.mpp) == (Size(192, 128), (0.5, 0.5))
    assert (reader.read_region(0, Region(0, 0, 192, 128)) == slide).all()
    assert any("2 more" in warning and "48 x 32 px" in warning for warning in reader.info.warnings)
    assert "Doe" not in " ".join(reader.info.warnings)


@pytest.mark.parametrize("axes", ["ZYXS", "TYXS"])
def test_warning_about_further_planes(tmp_path, formula_pixels, open_slide, axes: str) -> None:
    planes = np.stack([formula_pixels(Region(0, 0, 96, 64), level) for level in range(3)])
    path = tmp_path / "stack.ome.tif"
    tifffile.imwrite(path, planes, photometric="rgb", ome=True, metadata={"axes": axes})
    reader = open_slide(path)
    assert (reader.read_region(0, Region(0, 0, 96, 64)) == planes[0]).all()
    assert any("2 further planes" in warning for warning in reader.info.warnings)


def test_missing_plane_is_refused(write, open_slide) -> None:
    path = write(xml().replace('SizeZ="1"', 'SizeZ="2"').replace('IFD="0"', 'IFD="0" FirstZ="1"'))
    with pytest.raises(SlideUnreadableError, match="no data"):
        open_slide(path)


@pytest.mark.parametrize("name", ["SizeZ", "SizeT", "SizeC"])
@pytest.mark.parametrize("value", ["1000000000", "99999999999999", "-3", "1.5"])
def test_huge_counts_are_refused_before_memory_is_allocated(write, open_slide, name, value: str) -> None:
    path = write(re.sub(rf'{name}="\d"', f'{name}="{value}"', xml()))
    with pytest.raises(SlideUnreadableError, match=r"slide\.ome\.tif: its OME-XML gives"):
        open_slide(path)


@pytest.mark.parametrize(
    "text",
    [
        xml()[:200],
        xml()[:200] + "</OME>",
        xml().replace("<Channel", "<Channel <"),
        xml().replace('Name="slide"', 'Name="&undefined;"'),
        xml().replace("</Image>", "</Picture>"),
    ],
)
def test_malformed_xml_gives_a_warning_and_a_readable_slide(info, text: str) -> None:
    found = info(text)
    assert [level.size for level in found.levels] == [Size(96, 64), Size(48, 32)]
    assert found.mpp is None
    assert any("OME-XML is malformed" in warning for warning in found.warnings)


def test_entity_expansion_is_bounded(write, open_slide) -> None:
    bomb = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    document = f'<!DOCTYPE OME [<!ENTITY e0 "lol">{bomb}]>'
    text = xml().replace("?>", "?>" + document).replace('Name="slide"', 'Name="&e11;"')
    assert open_slide(write(text)).info.mpp is None


def mutated(text: str, chance: random.Random) -> bytes:
    """Apply one to three mutations: change a value, remove an attribute or element, truncate, insert bytes."""
    bad = ["", "NaN", "-1", "0", "1e99", "0,5", "20x", "true", "\u00b5", "&lt;", "&bad;", "99999999999", "Objective:9"]
    for _ in range(chance.randint(1, 3)):
        attributes = list(re.finditer(r'[\w:]+="[^"]*"', text))
        elements = list(re.finditer(r"<[^>]+>", text))
        kind = chance.randrange(6)
        if kind <= 1 and attributes:
            found = chance.choice(attributes)
            value = chance.choice(bad) if chance.random() < 0.8 else str(chance.randint(-5, 100_000))
            text = f'{text[: found.start()]}{found[0].partition("=")[0]}="{value}"{text[found.end() :]}'
        elif kind == 2 and attributes:
            found = chance.choice(attributes)
            text = text[: found.start()] + text[found.end() :]
        elif kind == 3 and elements:
            found = chance.choice(elements)
            text = text[: found.start()] + chance.choice(["", found[0] * 2, "<!-- "]) + text[found.end() :]
        elif kind == 4:
            text = text[: chance.randrange(len(text) + 1)] + chance.choice(["", "</OME>"])
        else:
            place = chance.randrange(len(text) + 1)
            text = text[:place] + chance.choice(["&", "<", "\x00", '"', "\udcff", "]]>", "&e;"]) + text[place:]
    return text.encode("utf-8", "surrogateescape")


def test_mutated_xml_opens_or_is_refused_with_a_message(write, open_slide) -> None:
    chance, opened = random.Random(14), 0
    valid = xml(instrument=_INSTRUMENT, settings=_SETTINGS)
    for _ in range(MUTANTS):
        path = write(mutated(valid, chance))
        try:
            reader = open_slide(path)
            json.dumps(reader.info.as_dict(), allow_nan=False)
            size = reader.info.size
            reader.read_region(0, Region(0, 0, size.width, size.height))
            opened += 1
        except WsiError:
            continue
    assert MUTANTS // 4 < opened < MUTANTS
