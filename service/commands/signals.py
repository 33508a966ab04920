"""Ctrl-C and SIGTERM set a cancel token."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from slidelift.service.pipeline.progress import CancelToken


@contextmanager
def signals_cancel(cancel: CancelToken) -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM set the token, so that work stops at its next check; a second one interrupts it.

    A KeyboardInterrupt alone could be lost, since Python discards exceptions raised inside a finaliser.
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
