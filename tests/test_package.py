"""The package as users install and import it."""

import inspect
import re
import subprocess
import sys
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import zarr
from PIL import Image

import slidelift
from slidelift.models.inference import NetworkUpscaler
from slidelift.models.networks.spec import Geometry
from slidelift.models.networks.table import NETWORKS
from slidelift.service.pipeline.options import DEFAULTS, OPTION_NAMES
from slidelift.wsi.geometry import Region

ROOT = Path(__file__).resolve().parent.parent


def python(code: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, ROOT]
    subprocess.run(command, check=True, capture_output=True)
    [built] = folder.glob("*.whl")
    return built


def test_the_wheel_installs_slidelift_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names} == {"slidelift", "slidelift-0.1.0.dist-info"}
    assert "slidelift/py.typed" in names
    for folder in ("wsi", "models", "service"):
        sources = {f"slidelift/{path.relative_to(ROOT)}" for path in (ROOT / folder).rglob("*.py")}
        assert sources <= set(names), sources - set(names)
    assert {"slidelift/service/web/index.html", "slidelift/models/zoo/weights/compact-x4.safetensors"} <= set(names)


def test_an_installed_wheel_runs_beside_folders_of_the_old_names(wheel: Path, tmp_path: Path) -> None:
    installed, work = tmp_path / "site", tmp_path / "work"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    work.mkdir()
    for name in ("models", "service", "wsi"):
        (work / f"{name}.py").write_text("raise ImportError('a module of the user')\n")
    code = f"import sys; sys.path.insert(0, {str(installed)!r}); import slidelift; print(slidelift.__file__); "
    code += "from slidelift.service.cli import main; main(['models'])"
    assert "compact-x4" in python(code, work)


def test_importing_the_package_loads_no_library(tmp_path: Path) -> None:
    heavy = "{'torch', 'numpy', 'pydantic', 'fastapi', 'tifffile', 'openslide', 'httpx'}"
    assert python(f"import sys, slidelift; print(*({heavy} & set(sys.modules)))", tmp_path) == ""


def test_every_public_name_loads_and_is_documented(tmp_path: Path) -> None:
    assert sorted(slidelift.__all__) == slidelift.__all__
    for name in slidelift.__all__:
        assert getattr(slidelift, name).__doc__
    readme = (ROOT / "README.md").read_text("utf-8")
    [section] = re.findall(r"^## In Python$(.*?)^## ", readme, re.MULTILINE | re.DOTALL)
    assert {name for name in slidelift.__all__ if re.search(rf"\b{name}\b", section)} == set(slidelift.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = slidelift.nothing
    assert set(slidelift.__all__) <= set(dir(slidelift))


@pytest.mark.parametrize("command", [["-m", "slidelift", "--version"], ["-m", "slidelift.service.cli", "--version"]])
def test_the_version_is_told(command: list[str], tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == f"slidelift {slidelift.__version__}\n"


def test_every_deliberate_error_has_one_root() -> None:
    from slidelift.service.jobs.errors import StoreError

    for error in (slidelift.WsiError, slidelift.ModelError, slidelift.ServiceError, slidelift.ClientError, StoreError):
        assert issubclass(error, slidelift.SlideliftError)


def picture(height: int = 300, width: int = 530) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([(x * y) % 251, (x ^ y) % 256, (3 * x + 5 * y) % 241], axis=2).astype(np.uint8)


@pytest.mark.parametrize("model", ["compact-x4-fast", "bicubic"])
def test_an_array_becomes_what_a_slide_of_its_pixels_becomes(model: str, cmu: Path, tmp_path: Path) -> None:
    reader = slidelift.open_slide(str(cmu))
    pixels = reader.read_region(0, Region(600, 900, 530, 300))
    reader.close()
    Image.fromarray(pixels).save(tmp_path / "slide.png")
    slidelift.upscale(
        str(tmp_path / "slide.png"), str(tmp_path / "out.ome.zarr"), model=model, mpp=1.0, entropy=0, device="cpu"
    )
    expected = zarr.open_array(tmp_path / "out.ome.zarr" / "0", mode="r")[:]
    upscaled = slidelift.upscale_array(pixels, model=model, device="cpu")
    assert (upscaled.dtype, upscaled.shape) == (np.uint8, (1200, 2120, 3))
    assert np.array_equal(upscaled, np.moveaxis(expected.reshape(3, 1200, 2120), 0, 2))


def test_a_loaded_model_of_cross_faded_tiles_serves_arrays_without_seams() -> None:
    torch.manual_seed(0)
    spec = NETWORKS["rrdbnet"]
    network = spec.build(features=8, growth=4, blocks=1, scale=4)
    with torch.no_grad():
        list(network.parameters())[-1].fill_(0.5)  # around grey, where nothing is clipped
    geometry = Geometry(4, halo=16, exact=False, fade=16)
    upscaler = NetworkUpscaler(network, geometry, name="small", fingerprint="0", device="cpu", precision="fp32")
    small = picture(40, 600)
    upscaled = slidelift.upscale_array(small, model=upscaler)
    whole = np.rint(upscaler(small[None])[0]).astype(float)
    assert upscaled.shape == (160, 2400, 3)
    inside = np.s_[64:-64, 64:-64]  # an array's edge is mirrored, a patch's is padded by the network
    assert whole[inside].std() > 1
    assert np.abs(upscaled - whole)[inside].max() <= 1


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)],
)
def test_an_array_of_another_form_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        slidelift.upscale_array(wrong, model="nearest")


def test_a_slide_is_upscaled_by_its_path_and_plain_keywords(cmu: Path, tmp_path: Path) -> None:
    area = {"type": "Polygon", "coordinates": [[[0, 0], [300, 0], [300, 300], [0, 300], [0, 0]]]}
    progress: list[object] = []
    report = slidelift.upscale(
        str(cmu), tmp_path / "out.ome.tiff", model="bicubic", roi=area, quality=80, on_progress=progress.append
    )
    assert progress
    with tifffile.TiffFile(tmp_path / "out.ome.tiff") as file:
        assert file.series[0].shape == (1200, 1200, 3)
    assert report.slide.width > 1200


def test_keywords_have_the_defaults_of_every_other_interface() -> None:
    parameters = inspect.signature(slidelift.upscale).parameters
    assert {name: parameters[name].default for name in OPTION_NAMES} == asdict(DEFAULTS)


def test_a_wrong_option_is_refused_before_the_slide_is_opened(tmp_path: Path) -> None:
    with pytest.raises(slidelift.ServiceError, match="quality 101"):
        slidelift.upscale("absent.svs", tmp_path / "o.ome.tiff", quality=101)
    with pytest.raises(ValueError, match="'slow' is not a valid Effort"):
        slidelift.upscale("absent.svs", tmp_path / "o.ome.tiff", effort="slow")
    with pytest.raises(slidelift.SlideError, match="no such file"):
        slidelift.upscale("absent.svs", tmp_path / "o.ome.tiff", model="bicubic")
