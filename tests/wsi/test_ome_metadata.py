"""What an OME-XML says is read as numbers or as unknown; whatever it says, the slide opens or is refused in words."""

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

    def written(words: str | bytes) -> Path:
        path = tmp_path / "slide.ome.tif"
        pixels = formula_pixels(Region(0, 0, 96, 64))
        words = words.encode() if isinstance(words, str) else words
        with tifffile.TiffWriter(path) as tiff:
            options = {"photometric": "rgb", "tile": (32, 32), "metadata": None}
            tiff.write(pixels, subifds=1, description=words, **options)
            tiff.write(np.ascontiguousarray(pixels[::2, ::2]), subfiletype=1, **options)
        return path

    return written


@pytest.fixture
def info(write, open_slide):
    return lambda words: open_slide(write(words)).info


@pytest.mark.parametrize(
    "said", ["NaN", "INF", "-INF", "Infinity", "0", "-0.5", "1e400", "1e30", "1e-30", "1,234", "true"]
)
@pytest.mark.parametrize("axis", ["X", "Y", "XY"])
def test_a_size_that_can_not_be_is_unknown_and_told(info, said: str, axis: str) -> None:
    sizes = {"PhysicalSizeX": "0.5", "PhysicalSizeY": "0.5", **{f"PhysicalSize{one}": said for one in axis}}
    found = info(xml(" ".join(f'{name}="{value}"' for name, value in sizes.items())))
    assert found.mpp is None
    assert any(f"PhysicalSize{axis[0]}" in warning and "unknown" in warning for warning in found.warnings)
    json.dumps(found.as_dict(), allow_nan=False)


@pytest.mark.parametrize("said", ["about 0.5", "0.5.5", "John Doe", "0x10", "\u0660.\u0665", "1_0", "--1", "0.5 mm"])
def test_words_are_unknown_and_are_not_repeated(info, said: str) -> None:
    found = info(xml(f'PhysicalSizeX="{said}" PhysicalSizeY="{said}"'))
    assert found.mpp is None
    assert found.warnings
    assert said not in " ".join(found.warnings)


def test_a_missing_size_is_unknown_without_a_warning(info) -> None:
    found = info(xml(""))
    assert (found.mpp, found.objective, found.warnings) == (None, None, ())


def test_one_axis_says_nothing_of_the_other(info) -> None:
    found = info(xml('PhysicalSizeX="0.5"'))
    assert found.mpp is None
    assert any("one axis" in warning for warning in found.warnings)


@pytest.mark.parametrize(
    ("said", "mpp"), [("0,5", 0.5), ("0,251", 0.251), (" 0.25 ", 0.25), ("+2.5E-1", 0.25), (".25", 0.25), ("1.", 1.0)]
)
def test_a_size_is_read_and_a_comma_told(info, said: str, mpp: float) -> None:
    found = info(xml(f'PhysicalSizeX="{said}" PhysicalSizeY="{said}"'))
    assert found.mpp == (mpp, mpp)
    assert any("decimal comma" in warning for warning in found.warnings) == ("," in said)


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
def test_the_unit_is_honoured(info, unit: str, factor: float) -> None:
    value = 0.25 / factor
    words = " ".join(f'PhysicalSize{axis}="{value!r}" PhysicalSize{axis}Unit="{unit}"' for axis in "XY")
    assert info(xml(words)).mpp == pytest.approx((0.25, 0.25))


@pytest.mark.parametrize("unit", ["pixel", "reference frame", "parsec", ""])
def test_a_unit_that_is_no_length_makes_the_size_unknown(info, unit: str) -> None:
    found = info(xml(f'PhysicalSizeX="0.5" PhysicalSizeXUnit="{unit}" PhysicalSizeY="0.5"'))
    assert found.mpp is None
    assert any("unit" in warning for warning in found.warnings)


@pytest.mark.parametrize(
    ("said", "power"), [("20x", 20.0), ("20 X", 20.0), ("x40", 40.0), ("20\u00d7", 20.0), ("40", 40.0), ("2,5x", 2.5)]
)
def test_a_magnification_is_read_and_its_letter_told(info, said: str, power: float) -> None:
    found = info(xml(instrument=f'<Instrument><Objective ID="O" NominalMagnification="{said}"/></Instrument>'))
    assert found.objective == power
    assert bool(found.warnings) == (said != "40")


@pytest.mark.parametrize("said", ["NaN", "INF", "0", "-20", "1e30", "twenty", "20x40", "true", "x", "1e-9"])
def test_a_magnification_that_can_not_be_is_unknown_and_told(info, said: str) -> None:
    found = info(xml(instrument=f'<Instrument><Objective ID="O" NominalMagnification="{said}"/></Instrument>'))
    assert found.objective is None
    assert found.mpp == (0.5, 0.5)
    assert any("NominalMagnification" in warning for warning in found.warnings)


def test_the_settings_of_the_image_name_the_objective(info) -> None:
    assert info(xml(instrument=_INSTRUMENT, settings=_SETTINGS)).objective == 20.0


@pytest.mark.parametrize("settings", ["", _SETTINGS.replace("0:1", "0:7")])
def test_an_objective_is_not_guessed_among_several(info, settings: str) -> None:
    found = info(xml(instrument=_INSTRUMENT, settings=settings))
    assert found.objective is None
    assert any("objective" in warning for warning in found.warnings)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_the_largest_image_is_the_slide_and_the_others_are_told(tmp_path, formula_pixels, open_slide, position) -> None:
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
def test_further_planes_are_told(tmp_path, formula_pixels, open_slide, axes: str) -> None:
    planes = np.stack([formula_pixels(Region(0, 0, 96, 64), level) for level in range(3)])
    path = tmp_path / "stack.ome.tif"
    tifffile.imwrite(path, planes, photometric="rgb", ome=True, metadata={"axes": axes})
    reader = open_slide(path)
    assert (reader.read_region(0, Region(0, 0, 96, 64)) == planes[0]).all()
    assert any("2 further planes" in warning for warning in reader.info.warnings)


def test_a_plane_that_is_not_there_is_refused_not_shown_black(write, open_slide) -> None:
    path = write(xml().replace('SizeZ="1"', 'SizeZ="2"').replace('IFD="0"', 'IFD="0" FirstZ="1"'))
    with pytest.raises(SlideUnreadableError, match="no data"):
        open_slide(path)


@pytest.mark.parametrize("name", ["SizeZ", "SizeT", "SizeC"])
@pytest.mark.parametrize("said", ["1000000000", "99999999999999", "-3", "1.5"])
def test_counts_without_bound_are_refused_before_a_list_is_made_of_them(write, open_slide, name, said: str) -> None:
    path = write(re.sub(rf'{name}="\d"', f'{name}="{said}"', xml()))
    with pytest.raises(SlideUnreadableError, match=r"slide\.ome\.tif: its OME-XML gives"):
        open_slide(path)


@pytest.mark.parametrize(
    "words",
    [
        xml()[:200],
        xml()[:200] + "</OME>",
        xml().replace("<Channel", "<Channel <"),
        xml().replace('Name="slide"', 'Name="&undefined;"'),
        xml().replace("</Image>", "</Picture>"),
    ],
)
def test_a_malformed_xml_is_told_and_the_slide_stays_readable(info, words: str) -> None:
    found = info(words)
    assert [level.size for level in found.levels] == [Size(96, 64), Size(48, 32)]
    assert found.mpp is None
    assert any("OME-XML is malformed" in warning for warning in found.warnings)


def test_entities_do_not_grow_without_bound(write, open_slide) -> None:
    bomb = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    document = f'<!DOCTYPE OME [<!ENTITY e0 "lol">{bomb}]>'
    words = xml().replace("?>", "?>" + document).replace('Name="slide"', 'Name="&e11;"')
    assert open_slide(write(words)).info.mpp is None


def mutated(words: str, chance: random.Random) -> bytes:
    """The XML with one to three of: another attribute's value, an element or attribute less, an end cut off, bytes."""
    odd = ["", "NaN", "-1", "0", "1e99", "0,5", "20x", "true", "\u00b5", "&lt;", "&bad;", "99999999999", "Objective:9"]
    for _ in range(chance.randint(1, 3)):
        attributes = list(re.finditer(r'[\w:]+="[^"]*"', words))
        elements = list(re.finditer(r"<[^>]+>", words))
        kind = chance.randrange(6)
        if kind <= 1 and attributes:
            found = chance.choice(attributes)
            value = chance.choice(odd) if chance.random() < 0.8 else str(chance.randint(-5, 100_000))
            words = f'{words[: found.start()]}{found[0].partition("=")[0]}="{value}"{words[found.end() :]}'
        elif kind == 2 and attributes:
            found = chance.choice(attributes)
            words = words[: found.start()] + words[found.end() :]
        elif kind == 3 and elements:
            found = chance.choice(elements)
            words = words[: found.start()] + chance.choice(["", found[0] * 2, "<!-- "]) + words[found.end() :]
        elif kind == 4:
            words = words[: chance.randrange(len(words) + 1)] + chance.choice(["", "</OME>"])
        else:
            place = chance.randrange(len(words) + 1)
            words = words[:place] + chance.choice(["&", "<", "\x00", '"', "\udcff", "]]>", "&e;"]) + words[place:]
    return words.encode("utf-8", "surrogateescape")


def test_every_mutant_opens_or_is_refused_in_words(write, open_slide) -> None:
    chance, opened = random.Random(14), 0
    sound = xml(instrument=_INSTRUMENT, settings=_SETTINGS)
    for _ in range(MUTANTS):
        path = write(mutated(sound, chance))
        try:
            reader = open_slide(path)
            json.dumps(reader.info.as_dict(), allow_nan=False)
            size = reader.info.size
            reader.read_region(0, Region(0, 0, size.width, size.height))
            opened += 1
        except WsiError:
            continue
    assert MUTANTS // 4 < opened < MUTANTS
