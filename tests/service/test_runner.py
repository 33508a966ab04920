"""The parent's side of the processes that decode."""

import time
from pathlib import Path

import psutil
import pytest

from service.runner import probe


class StoppedError(Exception):
    pass


def test_a_probe_is_put_down_in_the_middle_when_the_service_stops(tmp_path: Path) -> None:
    slide = tmp_path / "slide.svs"
    slide.write_bytes(b"II*\0")
    before = {child.pid for child in psutil.Process().children()}
    asked = []

    def between() -> None:
        """Called while the child is still loading its decoders."""
        asked.append({child.pid for child in psutil.Process().children()} - before)
        raise StoppedError

    started = time.monotonic()
    with pytest.raises(StoppedError):
        probe(slide, between)
    assert len(asked[0]) == 1
    assert {child.pid for child in psutil.Process().children()} <= before
    assert time.monotonic() - started < 20
