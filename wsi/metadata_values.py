"""Conversion of metadata values to numbers, with a warning for each value that is not understood.

Files hold values such as "NaN", "0,5", "20x" or 0/0. A value that is not understood counts as missing: a pixel size is
never guessed. Warnings name the field and never quote the value, which may contain a person's name.
"""

import math
import re
from fractions import Fraction

_DECIMAL = re.compile(r"[+-]?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})(?:[eE][+-]?\d{1,5})?", re.ASCII)
_DECIMAL_COMMA = re.compile(r"[+-]?\d{1,40},\d{1,40}", re.ASCII)
_THOUSANDS_COMMA = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}", re.ASCII)
_TIMES = re.compile(r"(?P<number>.*?\d)\s*[xX\u00d7]|[xX\u00d7]\s*(?P<after>\d.*)", re.ASCII)
_MPP_RANGE = 1e-4, 1e5
"""Wider than the plausible range, so that a wrong size is shown to the user, who may confirm or correct it."""
_MAGNIFICATION_RANGE = 0.1, 1000.0
_MAX_PIXEL_COUNT = 1 << 40


class MetadataParser:
    """Converts the values of one file and collects the warnings about them."""

    def __init__(self) -> None:
        self._warnings: list[str] = []

    @property
    def warnings(self) -> tuple[str, ...]:
        """One sentence for each value that was not a plain number of its kind, without repetitions."""
        return tuple(dict.fromkeys(self._warnings))

    def warn(self, message: str) -> None:
        """Add a warning about the file's metadata."""
        self._warnings.append(message)

    def pixel_size(self, value: object, name: str, unit: float | None = 1.0) -> float | None:
        """Pixel size in µm; None if unknown.

        Parameters
        ----------
        value
            A number, a string or a fraction (numerator, denominator); None or an empty string if the field is missing.
        name
            The field's name for warnings.
        unit
            Size of the value's unit in µm; None if the file gives a unit that is not a length.
        """
        if value is None or value == "":
            return None
        if unit is None:
            self.warn(f"{name} has a unit that is not a length; it is taken as unknown")
            return None
        return self._bounded(value, name, unit, _MPP_RANGE)

    def pixel_size_xy(self, x: float | None, y: float | None) -> tuple[float, float] | None:
        """Pixel size along both axes; None if one is unknown, since the axes may differ."""
        if x is not None and y is not None:
            return x, y
        if x is not None or y is not None:
            self.warn("the pixel size is known along one axis only; it is taken as unknown")
        return None

    def magnification(self, value: object, name: str) -> float | None:
        """Magnification of an objective; "20x" is 20. None if unknown."""
        if isinstance(value, str) and (times := _TIMES.fullmatch(value.strip())):
            number = self._bounded(times["number"] or times["after"], name, 1.0, _MAGNIFICATION_RANGE)
            if number is not None:
                self.warn(f"{name} is not a plain number; it was read as {number:g}")
            return number
        return None if value is None or value == "" else self._bounded(value, name, 1.0, _MAGNIFICATION_RANGE)

    def pixel_count(self, value: object, name: str) -> int | None:
        """Position or size in whole pixels, zero or more; None if unknown."""
        number = None if value is None or value == "" else self._number(value, name)
        if number is None:
            return None
        if not (number.is_integer() and 0 <= number < _MAX_PIXEL_COUNT):
            self.warn(f"{name} is not a number of pixels; it is taken as unknown")
            return None
        return int(number)

    def _bounded(self, value: object, name: str, unit: float, bounds: tuple[float, float]) -> float | None:
        number = self._number(value, name)
        if number is None:
            return None
        number *= unit
        if not bounds[0] <= number <= bounds[1]:
            problem = "zero or negative" if number <= 0 else "too small" if number < bounds[0] else "too large"
            self.warn(f"{name} is {problem}; it is taken as unknown")
            return None
        return number

    def _number(self, value: object, name: str) -> float | None:
        number = _parse(value.strip()) if isinstance(value, str) else _to_float(value)
        if number is None or not math.isfinite(number):
            self.warn(f"{name} is not a number; it is taken as unknown")
            return None
        if isinstance(value, str) and "," in value:
            self.warn(f"{name} has a decimal comma; it was read as {number:g}")
        return number


def is_positive(value: object) -> bool:
    """Whether this is a finite number above zero."""
    number = None if isinstance(value, str) else _to_float(value)
    return number is not None and math.isfinite(number) and number > 0


def _parse(text: str) -> float | None:
    if _DECIMAL.fullmatch(text):
        return float(text)
    if _DECIMAL_COMMA.fullmatch(text) and not _THOUSANDS_COMMA.fullmatch(text):  # 1,234 is ambiguous
        return float(text.replace(",", "."))
    return None


def _to_float(value: object) -> float | None:
    try:
        if isinstance(value, tuple) and len(value) == 2:
            return float(Fraction(*value))
        if isinstance(value, bool) or not isinstance(value, int | float | Fraction):
            return None
        return float(value)
    except (ArithmeticError, TypeError, ValueError):
        return None
