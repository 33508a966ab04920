"""Kinds of arguments that several commands take."""

import argparse
import math


def positive(text: str) -> float:
    """A finite number above zero."""
    value = float(text)
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def whole(text: str) -> int:
    """A whole number above zero."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above zero")
    return value


def entropy(text: str) -> float:
    """Bits of the entropy of 256 grey levels."""
    value = float(text)
    if not 0 <= value <= 8:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 8 bits")
    return value


def quality(text: str) -> int:
    """JPEG quality."""
    value = int(text)
    if not 1 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and 100")
    return value


def region(text: str) -> tuple[int, int, int, int]:
    """X,Y,WIDTH,HEIGHT in pixels."""
    try:
        x, y, width, height = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not X,Y,WIDTH,HEIGHT in whole pixels") from None
    return x, y, width, height
