"""`slidelift train` and `slidelift sweep` in real processes."""

import csv
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from slidelift.service.cli import main


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """Four small images of real tissue."""
    folder = tmp_path_factory.mktemp("patches")
    with Image.open(data / "slides" / "prostate-with-ink.jpeg") as slide:
        for number in range(4):
            slide.convert("RGB").crop((1900 + 160 * number, 300, 2060 + 160 * number, 460)).save(
                folder / f"{number}.png"
            )
    return folder


def test_killed_training_ends_with_the_same_weights(slidelift, patches, tmp_path) -> None:
    train = ["train", "espcn", "--smoke", "--set", "stages.0.iterations=400", "--images", patches, "--device", "cpu"]
    train += ["--checkpoint-seconds", "0.01"]
    whole = slidelift(*train, "--out", tmp_path / "whole")
    assert whole.code == 0, whole.err
    weights = Path(whole.out.strip())
    command = [sys.executable, "-m", "slidelift", *map(str, train), "--out", str(tmp_path / "killed")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    log = tmp_path / "killed" / "log.csv"
    while not (log.exists() and log.read_text().count("\n") > 4):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (tmp_path / "killed" / weights.name).exists()
    again = slidelift(*train, "--out", tmp_path / "killed")
    assert again.code == 0, again.err
    expected, resumed = load_file(weights), load_file(tmp_path / "killed" / weights.name)
    assert all(torch.equal(expected[key], resumed[key]) for key in expected)
    with log.open(newline="") as file:
        assert [row["iteration"] for row in csv.DictReader(file)] == [str(n) for n in range(50, 401, 50)]
    with safe_open(weights, "pt") as file:
        assert file.metadata()["recipe"] == "espcn"


def test_sweep_over_corruption_and_q(slidelift, patches, tmp_path) -> None:
    done = slidelift(
        "sweep", "srgan-sqe", "--smoke", "--images", patches, "--held-out", patches, "--out", tmp_path,
        "--corruption", "0,0.5", "--q", "0.5,2", "--device", "cpu", "--set", "stages.0.iterations=5",
    )  # fmt: skip
    assert done.code == 0, done.err
    with (tmp_path / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["corruption"], row["q"]) for row in rows] == [
        ("0.0", "0.5"),
        ("0.0", "2.0"),
        ("0.5", "0.5"),
        ("0.5", "2.0"),
    ]
    measured = np.array([[float(row[name]) for name in ("psnr_y", "ms_ssim", "qilv", "rrmse")] for row in rows])
    assert np.isfinite(measured).all()
    assert len({tuple(row) for row in measured.tolist()}) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compact-x5", "--images", "{patches}"], "did you mean"),
        (["compact-x4"], "--images"),
        (["compact-x4", "--images", "nowhere"], "nowhere"),
        (["compact-x4", "--images", "{patches}", "--set", "stages.0.crop=512"], "each side needs 576"),
        (["compact-x4", "--images", "{patches}", "--set", "init=none.pth", "--smoke"], "none.pth"),
        (
            ["srgan", "--images", "{patches}", "--set", "vgg=none.pth", "--smoke", "--set", "stages.0.iterations=1"],
            "none.pth",
        ),
    ],
)
def test_invalid_arguments_are_user_errors(capsys, patches, tmp_path, arguments, message) -> None:
    given = [argument.replace("{patches}", str(patches)) for argument in arguments]
    assert main(["train", *given, "--out", str(tmp_path / "run"), "--device", "cpu"]) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert out == ""
