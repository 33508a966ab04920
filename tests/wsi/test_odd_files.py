"""Other people's files that went wrong once: the right pixels and words of each."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from slidelift.service.cli import main
from slidelift.service.pipeline.failures import describe
from slidelift.service.processes.probing import probe
from slidelift.wsi.errors import UnsupportedPixelsError, WsiError
from slidelift.wsi.geometry import Region, Size
from slidelift.wsi.slide import Pixels, SlideInfo


@pytest.fixture
def odd(data) -> Path:
    return data / "odd"


@pytest.fixture
def seen(odd, open_slide):
    """Opens one of the files by the beginning of its name; its info and all pixels."""

    def see(name: str) -> tuple[SlideInfo, Pixels]:
        (path,) = odd.glob(f"{name}-*")
        reader = open_slide(path)
        return reader.info, reader.read_region(0, Region(0, 0, reader.info.size.width, reader.info.size.height))

    return see


def truth(folder: Path, name: str) -> np.ndarray:
    (path,) = folder.glob(f"truth-{name}-*")
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


@pytest.mark.parametrize(
    ("name", "tolerance", "word"),
    [("b01", 2, ""), ("b11", 0, "Orientation 6"), ("b15", 0, ""), ("e01", 8, "Orientation 6")],
)
def test_the_pixels_are_the_right_ones(odd, seen, name: str, tolerance: int, word: str) -> None:
    info, pixels = seen(name)
    assert np.abs(pixels - truth(odd, name)).max() <= tolerance
    assert word in " ".join(info.warnings)


def test_a_tiled_slide_is_turned_as_a_whole(odd, seen) -> None:
    info, pixels = seen("a25")
    assert (pixels == truth(odd, "b15")).all()  # the same picture
    assert any("Orientation 3" in warning for warning in info.warnings)


@pytest.mark.parametrize(("name", "word"), [("a10", "5 x 8-bit"), ("a15", "16-bit"), ("b20", "subsampled")])
def test_other_samples_are_refused_in_words(seen, name: str, word: str) -> None:
    with pytest.raises(UnsupportedPixelsError, match=word) as refusal:
        seen(name)
    assert "damaged" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "mpp", "objective", "word"),
    [
        ("c01", None, None, "PhysicalSizeX is not a number"),
        ("c04", (0.5, 0.5), None, "decimal comma"),
        ("c09", (0.5, 0.5), 20.0, "NominalMagnification is not a plain number"),
        ("c10", (0.5, 0.5), 20.0, ""),
        ("c13", (0.5, 0.5), None, "macro, 75 x 65 px"),
        ("c19", (0.5, 0.5), None, "NominalMagnification is not a number"),
    ],
)
def test_the_words_are_numbers_or_unknown(seen, name: str, mpp, objective: float | None, word: str) -> None:
    info, _ = seen(name)
    assert (info.size, info.mpp, info.objective) == (Size(300, 260), mpp, objective)
    assert word in " ".join(info.warnings)
    assert bool(info.warnings) == bool(word)


def test_a_damaged_profile_is_a_warning_and_is_not_carried(seen) -> None:
    info, _ = seen("d10")
    assert info.icc_profile is None
    assert any("colour profile" in warning for warning in info.warnings)


def test_every_file_is_probed_or_refused_with_a_code(odd) -> None:
    for path in sorted(odd.iterdir()):
        if path.suffix in (".md", ".geojson") or path.name.startswith("truth"):
            continue
        try:
            json.dumps(probe(path), allow_nan=False)
        except WsiError as error:
            assert describe(error).code.startswith("slide.")  # noqa: PT017 - either is right


@pytest.mark.parametrize("name", ["c01", "c04", "c13", "c19", "d10"])
def test_info_tells_it_as_json(odd, capsys, name: str) -> None:
    (path,) = odd.glob(f"{name}-*")
    main(["info", "--json", str(path)])
    json.loads(capsys.readouterr().out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
