"""Messages between a process and its children: frozen dataclasses, written as JSON, one line each.

`encode` makes the line of a message; `decode_request` and `decode_answer` make the message of a line. They check every
member against the type that its dataclass declares, so that no process acts on a malformed message.
"""

import base64
import json
import types
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from slidelift.service.errors import Problem
from slidelift.service.pipeline.image_source import ImageSource, TileFormat
from slidelift.service.pipeline.progress import Progress
from slidelift.service.pipeline.request import UpscaleRequest


@dataclass(frozen=True, slots=True)
class RunUpscale:
    """Upscale one slide; answered by any number of `ProgressChanged` and one `Upscaled` or `Failed`."""

    request: UpscaleRequest


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop the running upscale at the next batch; answered by the upscale's `Failed`."""


@dataclass(frozen=True, slots=True)
class ProbeSlide:
    """Open a slide and decode samples of it; answered by `Probed` or `Failed`."""

    path: Path
    name: str


@dataclass(frozen=True, slots=True)
class UnpackArchive:
    """Unpack the one slide of an archive; answered by `Unpacked` or `Failed`.

    Attributes
    ----------
    bundle
        The kind of archive, a value of `service.uploads.names.Bundle`.
    most_bytes, free_bytes
        Limits of the unpacked size: in all, and before the disk's reserve is touched.
    """

    archive: Path
    bundle: str
    target: Path
    most_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class DecodeTile:
    """Encode one Deep Zoom tile; answered by `TileDecoded` or `Failed`."""

    source: ImageSource
    level: int
    column: int
    row: int
    image_format: TileFormat


@dataclass(frozen=True, slots=True)
class ReadSize:
    """Read the size of an image; answered by `SizeRead` or `Failed`."""

    source: ImageSource


@dataclass(frozen=True, slots=True)
class ReadMap:
    """Read the tile map of a result; answered by `MapRead` or `Failed`."""

    source: ImageSource


@dataclass(frozen=True, slots=True)
class ProgressChanged:
    """The running upscale has advanced."""

    progress: Progress


@dataclass(frozen=True, slots=True)
class Upscaled:
    """The report of a finished upscale."""

    report: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Probed:
    """Facts of a slide, see `service.jobs.slide.SlideFacts.from_probe`."""

    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Unpacked:
    """The main file of an unpacked slide, relative to the target folder."""

    file: str


@dataclass(frozen=True, slots=True)
class TileDecoded:
    """One encoded tile."""

    data: bytes


@dataclass(frozen=True, slots=True)
class SizeRead:
    """Width and height of the finest level in pixels."""

    width: int
    height: int


@dataclass(frozen=True, slots=True)
class MapRead:
    """The tile map of a result, see `service.pipeline.tile_decoder.TileDecoder.map`."""

    map: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failed:
    """The request could not be carried out."""

    problem: Problem


DecodeRequest = DecodeTile | ReadSize | ReadMap
Request = RunUpscale | Cancel | ProbeSlide | UnpackArchive | DecodeRequest
Answer = ProgressChanged | Upscaled | Probed | Unpacked | TileDecoded | SizeRead | MapRead | Failed


class MalformedMessageError(Exception):
    """A line that is not a message of this protocol."""


def encode(message: Request | Answer) -> str:
    """Make the line of a message, with its line break.

    Raises
    ------
    TypeError
        A member has no form in JSON.
    """
    return json.dumps({"kind": type(message).__name__, **_to_plain(message)}, default=_to_plain) + "\n"


def decode_request(line: str) -> Request:
    """Make the message to a child of a line.

    Raises
    ------
    MalformedMessageError
        The line is not JSON, is no request, or a member is missing, unknown or of another type.
    ServiceError
        A value of the request is out of its range.
    """
    message: Request = _decode(line, get_args(Request))
    return message


def decode_answer(line: str) -> Answer:
    """Make the message of a child of a line.

    Raises
    ------
    MalformedMessageError
        The line is not JSON, is no answer, or a member is missing, unknown or of another type.
    """
    message: Answer = _decode(line, get_args(Answer))
    return message


def _decode(line: str, kinds: tuple[type, ...]) -> Any:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise MalformedMessageError("not JSON") from error
    name = values.pop("kind", None) if isinstance(values, dict) else None
    for kind in kinds:
        if kind.__name__ == name:
            return _reader_of(kind)(values)
    raise MalformedMessageError("no known kind of message")


def _to_plain(value: Any) -> Any:
    """Values that JSON cannot hold; enumerations are strings already."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    raise TypeError(f"{type(value).__name__} has no form in a message")


@cache
def _reader_of(kind: Any) -> Callable[[Any], Any]:
    """Make the function that makes values of type `kind` from plain JSON; it raises MalformedMessageError."""
    origin = get_origin(kind)
    if kind is Any:
        return lambda value: value
    if origin in (Union, types.UnionType):
        return _optional_reader(get_args(kind))
    if origin is Literal:
        return lambda value: value if value in get_args(kind) else _refuse(f"not one of {get_args(kind)}")
    if origin is tuple:
        return _tuple_reader(get_args(kind))
    if origin is dict:
        return lambda value: value if isinstance(value, dict) else _refuse("not an object")
    if is_dataclass(kind):
        return _dataclass_reader(kind)
    return _scalar_reader(kind)


def _optional_reader(kinds: tuple[Any, ...]) -> Callable[[Any], Any]:
    (kind,) = (one for one in kinds if one is not type(None))  # messages have no other unions
    read = _reader_of(kind)
    return lambda value: None if value is None else read(value)


def _tuple_reader(kinds: tuple[Any, ...]) -> Callable[[Any], Any]:
    readers = [_reader_of(kind) for kind in kinds if kind is not Ellipsis]
    is_open_ended = kinds[-1] is Ellipsis

    def read(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            _refuse("not a list")
        if is_open_ended:
            return tuple(map(readers[0], value))
        if len(value) != len(readers):
            _refuse(f"not a list of {len(readers)}")
        return tuple([reader(one) for reader, one in zip(readers, value, strict=True)])

    return read


def _dataclass_reader(kind: Any) -> Callable[[Any], Any]:
    annotations = get_type_hints(kind)
    readers = {field.name: _reader_of(annotations[field.name]) for field in fields(kind)}

    def read(value: Any) -> Any:
        if not isinstance(value, dict) or value.keys() != readers.keys():
            _refuse(f"not the members of {kind.__name__}")
        values = {}
        for name, reader in readers.items():
            try:
                values[name] = reader(value[name])
            except MalformedMessageError as error:
                raise MalformedMessageError(f"{name}: {error}") from None
        return kind(**values)

    return read


def _scalar_reader(kind: type) -> Callable[[Any], Any]:
    if kind in _NUMBERS_AND_STRINGS:
        accepted = _NUMBERS_AND_STRINGS[kind]
        return lambda value: value if type(value) in accepted else _refuse(f"not of type {kind.__name__}")
    if kind is bytes:
        make: Callable[[str], Any] = _bytes_of
    elif issubclass(kind, (Path, Enum)):
        make = kind
    else:
        raise TypeError(f"{kind.__name__} has no form in a message")

    def read(value: Any) -> Any:
        if not isinstance(value, str):
            _refuse("not a string")
        try:
            return make(value)
        except ValueError:
            return _refuse(f"not of type {kind.__name__}")

    return read


_NUMBERS_AND_STRINGS: dict[type, tuple[type, ...]] = {str: (str,), bool: (bool,), int: (int,), float: (float, int)}


def _bytes_of(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _refuse(what: str) -> NoReturn:
    raise MalformedMessageError(what)
