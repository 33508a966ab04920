"""`slidelift models import` in real processes."""

import json
from pathlib import Path

import pytest
import tifffile
import torch

from slidelift.models.networks.srcnn import SRCNN


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLIDELIFT_MODELS_DIR", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """An SRCNN that returns the enlarged luma unchanged, saved as by yjn870's trainer."""
    network = SRCNN(features=2, mapped=2, kernel=1)
    with torch.no_grad():
        for layer in (network.conv1, network.conv2, network.conv3):
            layer.weight.zero_()
            middle = layer.weight.shape[-1] // 2
            layer.weight[0, 0, middle, middle] = 1
    torch.save(network.state_dict(), tmp_path / "srcnn_x2.pth")
    return tmp_path / "srcnn_x2.pth"


def test_imported_model_upscales_by_name(slidelift, folder, checkpoint, cmu, tmp_path) -> None:
    refused = slidelift("models", "import", checkpoint, "--name", "old-master")
    assert refused.code == 2
    assert "--scale N" in refused.err
    assert "Traceback" not in refused.err

    done = slidelift(
        "models", "import", checkpoint, "--name", "old-master", "--scale", 2, "--licence", "MIT", "--source-mpp", "1,2"
    )
    assert done.code == 0, done.err
    assert done.out.startswith("old-master: srcnn, x2")
    assert {path.name for path in folder.iterdir()} == {"old-master.json", "old-master.safetensors"}

    listed = slidelift("models")
    assert listed.code == 0
    assert "old-master: x2; srcnn, imported." in listed.out
    [card] = [card for card in json.loads(slidelift("models", "--json").out) if card["name"] == "old-master"]
    assert (card["licence"], card["source_mpp"], card["imported"]) == ("MIT", [1.0, 2.0], True)

    checkpoint.unlink()
    output = tmp_path / "out.ome.tiff"
    run = slidelift("upscale", cmu, output, "--model", "old-master", "--region", "900,1200,300,200", "--json")
    assert run.code == 0, run.err
    assert "trained for 1 to 2" in run.err
    report = json.loads(run.out)
    assert report["model"]["name"] == "old-master"
    with tifffile.TiffFile(output) as tiff:
        assert tiff.series[0].shape == (400, 600, 3)

    assert slidelift("models", "remove", "old-master").code == 0
    assert list(folder.iterdir()) == []
    gone = slidelift("upscale", cmu, tmp_path / "b.ome.tiff", "--model", "old-master")
    assert (gone.code, "no such model" in gone.err) == (2, True)


def test_damaged_card_is_reported_and_the_others_are_listed(slidelift, folder) -> None:
    folder.mkdir()
    (folder / "broken.json").write_text("{")
    done = slidelift("models")
    assert done.code == 1
    assert "compact-x4 (auto, balanced)" in done.out
    assert str(folder / "broken.json") in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["import", "none.pth"], "no such file"),
        (["import", "none.pth", "--name", "compact-x4"], "is taken"),
        (["import", "none.pth", "--source-mpp", "2,1"], "lower limit"),
        (["remove", "compact-x4"], "no imported model"),
    ],
)
def test_invalid_arguments_are_user_errors(slidelift, folder, arguments, message) -> None:
    done = slidelift("models", *arguments)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert "Traceback" not in done.err
