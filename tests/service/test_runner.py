"""The parent's side of the processes that decode."""

import os
import time
from pathlib import Path

import psutil
import pytest

from service.runner import probe


class Stopped(Exception):
    pass


def test_a_probe_that_hangs_is_put_down_when_the_service_stops(tmp_path: Path) -> None:
    """A pipe that nobody writes to, as a slide on a disk that does not answer."""
    slide = tmp_path / "slide.svs"
    os.mkfifo(slide)
    before = {child.pid for child in psutil.Process().children()}
    end = time.monotonic() + 2

    def between() -> None:
        if time.monotonic() > end:
            raise Stopped

    with pytest.raises(Stopped):
        probe(slide, between)
    assert time.monotonic() < end + 5
    assert {child.pid for child in psutil.Process().children()} <= before
