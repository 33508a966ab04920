"""What a file says of sizes and magnifications, as numbers or as unknown with a warning: the one place for it.

Files say "NaN", "0,5", "20x", 0/0 or nothing. A value that can't be understood is unknown, as if the file had left it
out: a pixel size is never guessed. Warnings name the field and not the file's words, which may hold anybody's name.
"""

import math
import re
from fractions import Fraction

_DECIMAL = re.compile(r"[+-]?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})(?:[eE][+-]?\d{1,5})?", re.ASCII)
_COMMA = re.compile(r"[+-]?\d{1,40},\d{1,40}", re.ASCII)
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}", re.ASCII)
_TIMES = re.compile(r"(?P<number>.*?\d)\s*[xX\u00d7]|[xX\u00d7]\s*(?P<after>\d.*)", re.ASCII)
_MPP = 1e-4, 1e5
"""Wider than what is plausible, so that a wrong size is told to the user, who may confirm or correct it."""
_MAGNIFICATION = 0.1, 1000.0
_WHOLE = 1 << 40


class MetadataParser:
    """Turns words into numbers and keeps what has to be told about them."""

    def __init__(self) -> None:
        self._warnings: list[str] = []

    @property
    def warnings(self) -> tuple[str, ...]:
        """One sentence for each value that was not a plain number of its kind."""
        return tuple(dict.fromkeys(self._warnings))

    def warn(self, sentence: str) -> None:
        """Keep another sentence about what the file says."""
        self._warnings.append(sentence)

    def micrometres(self, said: object, name: str, unit: float | None = 1.0) -> float | None:
        """A pixel size in µm.

        Parameters
        ----------
        said
            A number, a word or a fraction (numerator, denominator); None or an empty word where the file says nothing.
        name
            What warnings call the value.
        unit
            µm in one unit of `said`; None where the file names a unit that is no length.
        """
        if said is None or said == "":
            return None
        if unit is None:
            self.warn(f"{name} has a unit that is no length; it is taken as unknown")
            return None
        return self._bounded(said, name, unit, _MPP)

    def pair(self, x: float | None, y: float | None) -> tuple[float, float] | None:
        """A size along both axes; one axis says nothing about the other."""
        if x is not None and y is not None:
            return x, y
        if x is not None or y is not None:
            self.warn("the pixel size is known along one axis alone; it is taken as unknown")
        return None

    def magnification(self, said: object, name: str) -> float | None:
        """An objective's magnification; "20x" is 20."""
        if isinstance(said, str) and (times := _TIMES.fullmatch(said.strip())):
            value = self._bounded(times["number"] or times["after"], name, 1.0, _MAGNIFICATION)
            if value is not None:
                self.warn(f"{name} is not a plain number; it was read as {value:g}")
            return value
        return None if said is None or said == "" else self._bounded(said, name, 1.0, _MAGNIFICATION)

    def whole(self, said: object, name: str) -> int | None:
        """A position or size in pixels, zero or more."""
        value = None if said is None or said == "" else self._number(said, name)
        if value is None or not (value.is_integer() and 0 <= value < _WHOLE):
            if value is not None:
                self.warn(f"{name} is no number of pixels; it is taken as unknown")
            return None
        return int(value)

    def _bounded(self, said: object, name: str, unit: float, bounds: tuple[float, float]) -> float | None:
        value = self._number(said, name)
        if value is None:
            return None
        value *= unit
        if not bounds[0] <= value <= bounds[1]:
            kind = "zero or negative" if value <= 0 else "too small to be true" if value < bounds[0] else "too large"
            self.warn(f"{name} is {kind}; it is taken as unknown")
            return None
        return value

    def _number(self, said: object, name: str) -> float | None:
        """A finite number."""
        value = _from_word(said.strip()) if isinstance(said, str) else _from_number(said)
        if value is None or not math.isfinite(value):
            self.warn(f"{name} is not a number; it is taken as unknown")
            return None
        if isinstance(said, str) and "," in said:
            self.warn(f"{name} has a decimal comma; it was read as {value:g}")
        return value


def is_positive(value: object) -> bool:
    """Whether this is a finite number above zero."""
    number = None if isinstance(value, str) else _from_number(value)
    return number is not None and math.isfinite(number) and number > 0


def _from_word(word: str) -> float | None:
    if _DECIMAL.fullmatch(word):
        return float(word)
    if _COMMA.fullmatch(word) and not _THOUSANDS.fullmatch(word):  # 1,234 may be either
        return float(word.replace(",", "."))
    return None


def _from_number(value: object) -> float | None:
    try:
        if isinstance(value, tuple) and len(value) == 2:
            return float(Fraction(*value))
        if isinstance(value, bool) or not isinstance(value, int | float | Fraction):
            return None
        return float(value)
    except (ArithmeticError, TypeError, ValueError):
        return None
