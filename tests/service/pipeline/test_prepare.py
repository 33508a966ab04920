"""Preparing a job loads and self-tests the model's weights once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from slidelift.models.networks.srvgg_compact import SRVGGNetCompact
from slidelift.models.zoo import weights as zoo_weights
from slidelift.service.errors import Cancelled
from slidelift.service.pipeline.progress import CancelToken, Progress
from slidelift.service.pipeline.request import UpscaleRequest
from slidelift.service.pipeline.upscale import upscale


@pytest.fixture
def user_weights(tmp_path: Path) -> Path:
    """A small compact network whose random weights change plain colours by less than two levels."""
    torch.manual_seed(0)
    path = tmp_path / "small.pth"
    network = SRVGGNetCompact(features=8, convolutions=3)
    with torch.no_grad():
        network.body[-1].weight *= 0.2
    torch.save({"params": network.state_dict()}, path)
    return path


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A record of each call that loads weights, which includes their self-test."""
    calls: list[str] = []
    original = zoo_weights.load_weights

    def load(*args: Any, **kwargs: Any) -> Any:
        calls.append("loaded and tested" if kwargs.get("self_test", True) else "loaded")
        return original(*args, **kwargs)

    monkeypatch.setattr(zoo_weights, "load_weights", load)
    return calls


ONCE = ["loaded and tested"]


def test_a_users_weights_are_loaded_and_tested_once_a_job(
    tmp_path: Path, write_png: Callable[..., Path], user_weights: Path, loads: list[str]
) -> None:
    upscale(UpscaleRequest(write_png(300, 200), tmp_path / "o.ome.tiff", model=str(user_weights), mpp=1.0))
    assert loads == ONCE


def test_a_catalog_model_is_loaded_once_a_job(tmp_path: Path, write_png: Callable[..., Path], loads: list[str]) -> None:
    upscale(UpscaleRequest(write_png(300, 200), tmp_path / "o.ome.tiff", model="compact-x2", mpp=1.0))
    assert loads == ONCE


def test_a_resumed_job_with_another_precision_loads_the_weights_once(
    tmp_path: Path,
    write_png: Callable[..., Path],
    user_weights: Path,
    loads: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slide, output = write_png(200, 5000), tmp_path / "o.ome.tiff"
    request = UpscaleRequest(slide, output, model=str(user_weights), mpp=1.0, entropy=0)
    token = CancelToken()

    def stop_after_a_stripe(progress: Progress) -> None:
        if progress.tiles_done >= 9:
            token.cancel()

    monkeypatch.setattr("slidelift.models.inference.choose_precision", lambda *_: "fp32")
    with pytest.raises(Cancelled):
        upscale(request, stop_after_a_stripe, token)
    loads.clear()
    asked: list[str] = []

    def choose(precision: str, *_: Any) -> str:
        asked.append(precision)
        return "bf16" if precision == "auto" else precision

    monkeypatch.setattr("slidelift.models.inference.choose_precision", choose)
    progress: list[Progress] = []
    upscale(request, progress.append)
    assert any(one.resumed_tiles for one in progress)
    assert asked == ["auto", "fp32"], "the stored precision is used"
    assert loads == ONCE
