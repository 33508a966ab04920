"""What a command writes to its terminal: words to the person, results to whatever reads them."""

import sys


def say(text: str) -> None:
    """A line for the person at the terminal; standard output is for results."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def tell(text: str) -> None:
    """A line of result."""
    print(text, flush=True)  # noqa: T201
