"""Public Real-ESRGAN files: loading in all usual wrappers, upscaling, training and import."""

import csv
import json
import math
import os
import re
import shlex
import shutil
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from slidelift.models.networks.srvgg_compact import SRVGGNetCompact
from slidelift.models.upscaler import load_upscaler
from slidelift.models.zoo.weights import load_weights
from slidelift.wsi.geometry import Region

ROOT = Path(__file__).resolve().parents[2]
X4PLUS, ANIME = "rrdbnet-x4-37224a53", "rrdbnet-x4-a8196794"
"""Default names of the public files."""


@pytest.fixture(scope="module")
def public(data: Path) -> Path:
    """Folder of public weights, next to that of the real slides."""
    folder = data.parent / "weights" / "public"
    if not folder.is_dir():
        reason = f"{folder}: public weights not found"
        if os.environ.get("SLIDELIFT_REQUIRE_DATA"):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture(scope="module")
def x4plus(public: Path) -> dict[str, torch.Tensor]:
    return load_file(public / "RealESRGAN_x4plus.safetensors")


@pytest.fixture
def workspace(x4plus: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working folder with RealESRGAN_x4plus.pth as published and an empty models folder."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("SLIDELIFT_MODELS_DIR", str(tmp_path / "models"))
    torch.save({"params_ema": x4plus}, tmp_path / "RealESRGAN_x4plus.pth")
    return tmp_path


@pytest.fixture(scope="module")
def tissue(data: Path) -> np.ndarray:
    """Detail of a real slide, smaller than a tile."""
    return np.ascontiguousarray(tifffile.imread(data / "slides" / "cmu-0-small.tiff", level=0)[100:180, 200:296])


def differs(result: np.ndarray, source: np.ndarray) -> float:
    """Mean difference in grey levels between the result, reduced by four, and its source."""
    height, width, _ = source.shape
    return float(np.abs(result.reshape(height, 4, width, 4, 3).mean((1, 3)) - source).mean())


def documented_command(page: str, text: str) -> list[str]:
    """Arguments of the `slidelift` command of a documentation page that contains a text."""
    markdown = (ROOT / page).read_text("utf-8")
    (line,) = re.findall(
        rf"^slidelift .*{re.escape(text)}.*$|(?<=`)slidelift [^`\n]*{re.escape(text)}(?=`)", markdown, re.M
    )
    return shlex.split(line, comments=True)[1:]


@pytest.mark.parametrize(
    ("name", "shift"), [("RealESRGAN_x4plus.safetensors", 4.2), ("RealESRGAN_x4plus_anime_6B.pth", 3.0)]
)
def test_public_file_passes_the_self_test_with_a_warning(public, name, shift) -> None:
    weights = load_weights(public / name)
    assert weights.colour_shift == pytest.approx(shift, abs=0.05)
    assert weights.geometry.scale == 4
    (warning,) = weights.card().warnings
    assert warning.startswith(
        f"{weights.name} changes colours: in its self-test a plain colour shifted by {weights.colour_shift:g} of 255"
    )


def prefixed(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda state: state, id="bare"),
        pytest.param(lambda state: {"params_ema": state}, id="params_ema"),
        pytest.param(lambda state: {"params": state}, id="params"),
        pytest.param(lambda state: prefixed("generator.", state), id="generator."),
        pytest.param(lambda state: prefixed("model.", state), id="model."),
        pytest.param(lambda state: prefixed("module.", state), id="module."),
        pytest.param(lambda state: {"state_dict": prefixed("module.generator.", state), "epoch": 9}, id="nested"),
    ],
)
def test_x4plus_loads_in_every_usual_wrapper(
    x4plus, tmp_path, wrap: Callable[[dict[str, torch.Tensor]], dict[str, Any]]
) -> None:
    torch.save(wrap(x4plus), tmp_path / "wrapped.pth")
    assert load_weights(tmp_path / "wrapped.pth", self_test=False).name == X4PLUS


def test_x4plus_result_resembles_the_slide(workspace, tissue) -> None:
    upscaler = load_upscaler(str(workspace / "RealESRGAN_x4plus.pth"), device="cpu")
    (result,) = upscaler(tissue[None, :48, :40])
    assert result.shape == (192, 160, 3)
    assert differs(result, tissue[:48, :40]) < 8


@pytest.mark.parametrize(
    ("name", "shift"),
    [
        (ANIME, 3.04),  # 20 s per tile on one core
        pytest.param(X4PLUS, 4.21, marks=[pytest.mark.soak, pytest.mark.timeout(600)]),  # 60 s per tile
    ],
)
def test_readmes_command_upscales_and_the_report_warns(
    slidelift, workspace, public, tissue, write_pyramid, name, shift
) -> None:
    if name == ANIME:
        shutil.copyfile(public / "RealESRGAN_x4plus_anime_6B.pth", workspace / "RealESRGAN_x4plus.pth")
    write_pyramid(workspace / "slide.svs", tissue, levels=1)
    done = slidelift(*documented_command("README.md", "--model RealESRGAN_x4plus.pth"), cwd=workspace, timeout=500)
    assert done.code == 0, done.err
    report = json.loads((workspace / "out.report.json").read_text("utf-8"))
    assert (report["model"]["name"], report["tiles"]["tissue"], report["tiles"]["bad"]) == (name, 1, [])
    (warning,) = [warning for warning in report["warnings"] if "changes colours" in warning]
    levels = float(
        re.match(f"{name} changes colours: in its self-test a plain colour shifted by ([0-9.]+) of 255", warning)[1]
    )
    assert levels == pytest.approx(shift, abs=0.05)
    assert f"warning: {warning}" in done.err
    assert escape(warning) in (workspace / "out.report.html").read_text("utf-8")
    result = tifffile.imread(workspace / "out.ome.tiff", level=0)
    assert result.shape == (320, 384, 3)
    assert differs(result, tissue) < 12  # anime_6B makes glass whiter by eight


def test_training_starts_from_the_public_file(slidelift, workspace, data, x4plus) -> None:
    """The documented command, reduced to two iterations."""
    (workspace / "patches").mkdir()
    with Image.open(data / "slides" / "prostate-with-ink.jpeg") as slide:
        slide.convert("RGB").crop((1900, 300, 2060, 460)).save(workspace / "patches" / "tissue.png")
    settings = ["autoencoder.iterations=1"]
    for stage in (0, 1):
        settings += [f"stages.{stage}.{text}" for text in ("iterations=1", "batch=1", "learning_rate=1e-6")]
    line = documented_command("docs/models.md", "--set init=RealESRGAN_x4plus.pth")
    line += ["--smoke", "--images", "patches", "--out", "run", "--device", "cpu"]
    done = slidelift(*line, *(word for setting in settings for word in ("--set", setting)), cwd=workspace, timeout=250)
    assert done.code == 0, done.err
    assert f"Started from {X4PLUS}." in done.err
    with (workspace / "run" / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["stage"] for row in rows] == ["manifold", "real-esrnet", "real-esrgan"]
    assert all(math.isfinite(float(row["total"])) for row in rows)
    weights = workspace / done.out.strip()
    with safe_open(weights, "pt") as file:
        assert f"Started from {X4PLUS}." in file.metadata()["notes"]
    trained = load_file(weights)
    assert trained.keys() == x4plus.keys()
    assert all(torch.allclose(trained[key].float(), x4plus[key].float(), atol=1e-3) for key in trained)
    assert "changes colours: in its self-test" in done.err


def test_imported_public_file_is_listed_with_its_warning(slidelift, workspace, public) -> None:
    done = slidelift("models", "import", public / "RealESRGAN_x4plus_anime_6B.pth", "--name", "anime")
    assert done.code == 0, done.err
    assert done.out == "anime: rrdbnet, x4, 4467779 parameters\n"
    assert "warning: anime changes colours: in its self-test a plain colour shifted by 3.0" in done.err
    [card] = [card for card in json.loads(slidelift("models", "--json").out) if card["name"] == "anime"]
    assert card["colour_shift"] == pytest.approx(3.04, abs=0.02)


@pytest.mark.parametrize("levels", [1, 3])
def test_report_of_an_imported_model_warns_from_two_levels_on(
    slidelift, tmp_path, monkeypatch, write_pyramid, formula_pixels, levels
) -> None:
    monkeypatch.setenv("SLIDELIFT_MODELS_DIR", str(tmp_path / "models"))
    network = SRVGGNetCompact(features=2, convolutions=0, scale=2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.body[-1].bias += levels / 255
    save_file(network.state_dict(), tmp_path / "tinted.safetensors")
    imported = slidelift("models", "import", tmp_path / "tinted.safetensors", "--name", "tinted")
    assert imported.code == 0, imported.err
    slide = write_pyramid(tmp_path / "slide.tiff", formula_pixels(Region(0, 0, 100, 80)), levels=1)
    done = slidelift("upscale", slide, tmp_path / "out.ome.tiff", "--model", "tinted", "--json")
    assert done.code == 0, done.err
    warnings = [warning for warning in json.loads(done.out)["warnings"] if "changes colours" in warning]
    expected = (
        "tinted changes colours: in its self-test a plain colour shifted by 3 of 255 levels, so the result's colours "
        "differ from the slide's"
    )
    assert warnings == ([expected] if levels == 3 else [])
    assert (expected in imported.err) == (expected in done.err) == (levels == 3)
