"""Parses a form with one file (multipart/form-data, RFC 7578) directly into the upload, without a temporary file."""

from collections.abc import Callable
from typing import Protocol

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from slidelift.service.errors import ServiceError, refusal

OTHER_FIELDS_MAX_BYTES = 2**16
PARTS_MAX = 100
OVERHEAD_BYTES = OTHER_FIELDS_MAX_BYTES + 2**14
"""Maximum difference between the size of a form and of its file."""
HEADER_MAX_BYTES = 2**13
"""Limit of the headers of one part; a file name has at most 255 bytes."""


class Appendable(Protocol):
    """Receives the bytes of the file."""

    def append(self, chunk: bytes) -> None:
        """Append a chunk."""


class FormFile:
    """Passes the file of a form to an upload, which begins when the file's name is known.

    Parameters
    ----------
    begin
        Called once with the file's name.
    """

    def __init__(self, content_type: str, begin: Callable[[str], Appendable]) -> None:
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if kind.lower() != b"multipart/form-data" or not boundary:
            raise refusal("upload.form", "expected multipart/form-data with a boundary: curl -F file=@slide.svs URL")
        self._begin = begin
        self._upload: Appendable | None = None
        self._in_file = self._ended = False
        self._header, self._value, self._disposition = b"", b"", b""
        self._parts = self._other_bytes = self._header_bytes = 0
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._part_begin,
                    "on_header_field": self._header_field,
                    "on_header_value": self._header_value,
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._headers_finished,
                    "on_part_data": self._part_data,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise refusal("upload.form", str(error)) from error

    def write(self, chunk: bytes) -> None:
        """Parse a chunk of the body; raises ServiceError upload.form, and errors of the upload."""
        if self._ended:
            self._count_other(len(chunk))  # the epilogue is ignored (RFC 2046 §5.1.1), within the limit
            return
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise refusal("upload.form", f"the form is malformed: {error}") from error

    def close(self) -> None:
        """Check the form at the end of the body; raises ServiceError upload.incomplete, upload.form."""
        if not self._ended:
            raise refusal("upload.incomplete", "the form ends before its last boundary; send it again")
        if self._upload is None:
            raise refusal("upload.form", "the form contains no file: curl -F file=@slide.svs URL")

    def _part_begin(self) -> None:
        self._parts += 1
        self._in_file, self._disposition, self._header, self._value = False, b"", b"", b""
        self._header_bytes = 0
        if self._parts > PARTS_MAX:
            raise refusal("upload.form", f"the form has more than {PARTS_MAX} parts")

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"filename")
        if name is None:
            return
        if self._upload is not None:
            raise refusal(
                "upload.form",
                "the form contains several files; send each separately, or one .zip of a slide",
            )
        try:
            text = name.decode("utf-8")
        except UnicodeDecodeError as error:
            raise _not_utf8() from error
        self._in_file, self._upload = True, self._begin(text)

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file and self._upload is not None:
            self._upload.append(data[start:end])
            return
        self._count_other(end - start)

    def _count_header(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > HEADER_MAX_BYTES:
            raise refusal("upload.form", f"the headers of a part have more than {HEADER_MAX_BYTES} bytes")

    def _count_other(self, size: int) -> None:
        self._other_bytes += size
        if self._other_bytes > OTHER_FIELDS_MAX_BYTES:
            raise refusal("upload.form", f"the other fields of the form have more than {OTHER_FIELDS_MAX_BYTES} bytes")

    def _end(self) -> None:
        self._ended = True


def _not_utf8() -> ServiceError:
    return refusal("upload.name", "the file name is not UTF-8")
