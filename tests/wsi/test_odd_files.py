"""Regression tests with unusual files of other programs."""

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
def odd_files(data) -> Path:
    return data / "odd"


@pytest.fixture
def read_file(odd_files, open_slide):
    """Opens a file by the prefix of its name; returns its metadata and all pixels."""

    def see(name: str) -> tuple[SlideInfo, Pixels]:
        (path,) = odd_files.glob(f"{name}-*")
        reader = open_slide(path)
        return reader.info, reader.read_region(0, Region(0, 0, reader.info.size.width, reader.info.size.height))

    return see


def truth(folder: Path, name: str) -> np.ndarray:
    (path,) = folder.glob(f"truth-{name}-*")
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


@pytest.mark.parametrize(
    ("name", "tolerance", "message"),
    [("b01", 2, ""), ("b11", 0, "Orientation 6"), ("b15", 0, ""), ("e01", 8, "Orientation 6")],
)
def test_pixels_of_unusual_files(odd_files, read_file, name: str, tolerance: int, message: str) -> None:
    info, pixels = read_file(name)
    assert np.abs(pixels - truth(odd_files, name)).max() <= tolerance
    assert message in " ".join(info.warnings)


def test_tiled_slide_is_rotated_as_a_whole(odd_files, read_file) -> None:
    info, pixels = read_file("a25")
    assert (pixels == truth(odd_files, "b15")).all()  # the same image
    assert any("Orientation 3" in warning for warning in info.warnings)


@pytest.mark.parametrize(("name", "message"), [("a10", "5 x 8-bit"), ("a15", "16-bit"), ("b20", "subsampled")])
def test_unsupported_samples_are_refused_with_a_message(read_file, name: str, message: str) -> None:
    with pytest.raises(UnsupportedPixelsError, match=message) as refusal:
        read_file(name)
    assert "damaged" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "mpp", "objective", "message"),
    [
        ("c01", None, None, "PhysicalSizeX is not a number"),
        ("c04", (0.5, 0.5), None, "decimal comma"),
        ("c09", (0.5, 0.5), 20.0, "NominalMagnification is not a plain number"),
        ("c10", (0.5, 0.5), 20.0, ""),
        ("c13", (0.5, 0.5), None, "macro, 75 x 65 px"),
        ("c19", (0.5, 0.5), None, "NominalMagnification is not a number"),
    ],
)
def test_metadata_of_unusual_files(read_file, name: str, mpp, objective: float | None, message: str) -> None:
    info, _ = read_file(name)
    assert (info.size, info.mpp, info.objective) == (Size(300, 260), mpp, objective)
    assert message in " ".join(info.warnings)
    assert bool(info.warnings) == bool(message)


def test_damaged_profile_is_dropped_with_a_warning(read_file) -> None:
    info, _ = read_file("d10")
    assert info.icc_profile is None
    assert any("colour profile" in warning for warning in info.warnings)


def test_probe_succeeds_or_fails_with_a_slide_error_code(odd_files) -> None:
    for path in sorted(odd_files.iterdir()):
        if path.suffix in (".md", ".geojson") or path.name.startswith("truth"):
            continue
        try:
            json.dumps(probe(path), allow_nan=False)
        except WsiError as error:
            assert describe(error).code.startswith("slide.")  # noqa: PT017 - both outcomes are valid


@pytest.mark.parametrize("name", ["c01", "c04", "c13", "c19", "d10"])
def test_info_command_prints_valid_json(odd_files, capsys, name: str) -> None:
    (path,) = odd_files.glob(f"{name}-*")
    main(["info", "--json", str(path)])
    json.loads(capsys.readouterr().out, parse_constant=lambda message: pytest.fail(f"{message} is no JSON"))
