"""Fixtures of the slide readers' tests."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slidelift.wsi.readers import open_slide as reader_module
from slidelift.wsi.slide import SlideReader


@pytest.fixture
def open_slide() -> Iterator[Callable[[Path], SlideReader]]:
    """Function that opens slides, which are closed after the test."""
    opened: list[SlideReader] = []

    def open_and_remember(path: Path) -> SlideReader:
        opened.append(reader_module.open_slide(path))
        return opened[-1]

    yield open_and_remember
    for reader in opened:
        reader.close()
