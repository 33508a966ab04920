"""Ctrl-C and SIGTERM as a token that long work looks at."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from slidelift.service.pipeline.progress import CancelToken


@contextmanager
def signals_cancel(cancel: CancelToken) -> Iterator[None]:
    """Ctrl-C and SIGTERM set the token, so that work stops where it loses nothing; a second one ends it at once.

    A KeyboardInterrupt would be lost where it is raised inside a finaliser.
    """

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        if cancel.is_set:
            raise KeyboardInterrupt
        cancel.cancel()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
