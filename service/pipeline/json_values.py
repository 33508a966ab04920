"""Conversion of frozen dataclasses to JSON values and back, with a check of every value.

Supports what the pipeline stores: nested dataclasses, tuples, unions with None, strings, enumerations of strings,
booleans, integers and finite floats. Tuples are lists in JSON.
"""

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

Value = TypeVar("Value")


class JsonMismatchError(ValueError):
    """A JSON value is not of the expected type; the message names the member."""


def to_json(value: Any) -> Any:
    """Convert a dataclass, tuple, list or plain value; members keep the order of the fields."""
    if is_dataclass(value):
        return {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    return str(value) if isinstance(value, StrEnum) else value


def from_json(kind: type[Value], value: Any) -> Value:
    """Build a dataclass from parsed JSON; unknown members are ignored.

    Raises
    ------
    JsonMismatchError
        A member is missing or has another type, or a number is not finite.
    """
    built: Value = _convert(kind, value, "")
    return built


def _convert(kind: Any, value: Any, place: str) -> Any:
    if is_dataclass(kind):
        return _convert_object(kind, value, place)
    if get_origin(kind) in (Union, UnionType):
        return _convert_optional(kind, value, place)
    if get_origin(kind) is tuple:
        return _convert_tuple(get_args(kind), value, place)
    if kind is bool:
        is_valid = isinstance(value, bool)
    elif kind is int:
        is_valid = isinstance(value, int) and not isinstance(value, bool)
    elif kind is float:
        is_valid = _is_finite_number(value)
    elif isinstance(kind, type) and issubclass(kind, StrEnum):
        if value in set(kind):
            return kind(value)
        is_valid = False
    else:
        is_valid = isinstance(value, kind)
    if not is_valid:
        raise JsonMismatchError(f"{place or 'the value'} is not of type {kind.__name__}")
    return value


def _convert_object(kind: Any, value: Any, place: str) -> Any:
    if not isinstance(value, Mapping):
        raise JsonMismatchError(f"{place or 'the value'} is not an object")
    converted = {}
    for name, hint in _hints(kind).items():
        member = f"{place}.{name}" if place else name
        if name not in value:
            raise JsonMismatchError(f"{member} is missing")
        converted[name] = _convert(hint, value[name], member)
    return kind(**converted)


def _convert_optional(kind: Any, value: Any, place: str) -> Any:
    (inner,) = (one for one in get_args(kind) if one is not NoneType)
    return None if value is None else _convert(inner, value, place)


def _convert_tuple(kinds: tuple[Any, ...], value: Any, place: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise JsonMismatchError(f"{place} is not a list")
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        raise JsonMismatchError(f"{place} has {len(value)} values instead of {len(kinds)}")
    return tuple(
        _convert(kind, item, f"{place}[{index}]") for index, (kind, item) in enumerate(zip(kinds, value, strict=True))
    )


@cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _is_finite_number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # JSON allows integers beyond the range of a float
        return False
