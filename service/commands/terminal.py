"""What a command writes to its terminal: words to the person, results to whatever reads them."""

import sys
from typing import TextIO


def say(text: str) -> None:
    """A line for the person at the terminal; standard output is for results."""
    _write(text, sys.stderr)


def tell(text: str) -> None:
    """A line of result."""
    _write(text, sys.stdout)


def _write(text: str, stream: TextIO) -> None:
    """Write a line; what the stream's encoding can't say, such as a name in Latin-1, as escapes."""
    encoding = stream.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
