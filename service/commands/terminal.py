"""Output of the commands: results to standard output, messages for the user to standard error."""

import sys
from typing import TextIO


def print_message(text: str) -> None:
    """Print a line for the user to standard error."""
    _print(text, sys.stderr)


def print_result(text: str) -> None:
    """Print a line of a result to standard output."""
    _print(text, sys.stdout)


def _print(text: str, stream: TextIO) -> None:
    """Print a line; characters that the stream's encoding lacks, as in a file name in Latin-1, become escapes."""
    encoding = stream.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
