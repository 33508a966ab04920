"""Uploads as forms (multipart/form-data)."""

import contextlib
import hashlib
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from slidelift.service.errors import ServiceError
from slidelift.service.settings import Settings
from slidelift.service.uploads.form import OTHER_FIELDS_MAX_BYTES, FormFile

Call = Callable[..., httpx.Response]
KIND = "multipart/form-data; boundary=XX"


def form(*parts: tuple[str, bytes], end: bytes = b"--XX--\r\n") -> bytes:
    heads = (
        f"--XX\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode() + data + b"\r\n"
        for disposition, data in parts
    )
    return b"".join(heads) + end


def post(call: Call, body: bytes, kind: str = KIND) -> httpx.Response:
    return call("POST", "/v1/slides", content=body, headers={"Content-Type": kind})


def leftovers(settings: Settings) -> list[Path]:
    return [path for folder in ("slides", "uploads") for path in (settings.data_dir / folder).glob("*/")]


def test_form_becomes_a_slide(call: Call, settings: Settings, tiff: bytes) -> None:
    answer = call("POST", "/v1/slides", files={"file": ("Patient Müller.svs", tiff)}, data={"note": "hi"})
    assert answer.status_code == 201, answer.text
    slide = answer.json()
    assert (slide["name"], slide["sha256"]) == ("Patient Müller.svs", hashlib.sha256(tiff).hexdigest())
    assert answer.headers["location"] == f"/v1/slides/{slide['id']}"
    assert answer.headers["repr-digest"].startswith("sha-256=:")
    assert (settings.data_dir / "slides" / slide["id"] / "slide.svs").read_bytes() == tiff
    assert len(leftovers(settings)) == 1


class Kept:
    def __init__(self) -> None:
        self.name, self.data = "", b""

    def begin(self, name: str) -> "Kept":
        self.name = name
        return self

    def append(self, chunk: bytes) -> None:
        self.data += chunk


def test_file_does_not_depend_on_the_chunks_of_the_body() -> None:
    chance = random.Random(3)
    data = chance.randbytes(3000) + b"\r\n--X\r\n--XY\r\n\r\n--" + chance.randbytes(500)
    body = form(('name="a"', b"1"), ('name="file"; filename="s.svs"', data), ('name="b"', b"2"))
    for _ in range(60):
        kept = Kept()
        parser = FormFile(KIND, kept.begin)
        rest = body
        while rest:
            size = chance.randrange(1, 400)
            parser.write(rest[:size])
            rest = rest[size:]
        parser.close()
        assert (kept.name, kept.data) == ("s.svs", data)


FILE = ('name="file"; filename="a.svs"', b"II*\0")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "upload.incomplete"),
        (b"garbage", 400, "upload.form"),
        (form(FILE, end=b""), 400, "upload.incomplete"),
        (form(('name="file"', b"x")), 400, "upload.form"),
        (form(FILE, FILE), 400, "upload.form"),
        (form(('name="x"', bytes(OTHER_FIELDS_MAX_BYTES + 1)), FILE), 400, "upload.form"),
        (form(*[('name="x"', b"")] * 200, FILE), 400, "upload.form"),
        (form(('name="file"; filename="../a.svs"', b"x")), 422, "upload.name"),
        (form(('name="file"; filename=""', b"x")), 422, "upload.name"),
        (form(('name="file"; filename="a.mrxs"', b"x")), 422, "slide.multi-file"),
        (form(('name="file"; filename="a.svs"', b"")), 422, "upload.empty"),
        (form(('name="file"; filename="a.svs"', b"text")), 422, "slide.unreadable"),
        (form(FILE).replace(b"a.svs", b"\xff.svs"), 422, "upload.name"),
        (form(FILE).replace(b"form-data", b"x" * 9000), 400, "upload.form"),
        (form(('name="file"; filename="a.svs"', bytes(9 * 2**20))), 413, "upload.too-large"),
    ],
)
def test_form_without_one_complete_slide_is_refused_and_leaves_nothing(
    call: Call, settings: Settings, body: bytes, status: int, code: str
) -> None:
    answer = post(call, body)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert leftovers(settings) == []


def test_form_without_content_length_is_limited(call: Call, settings: Settings) -> None:
    def pieces() -> Iterator[bytes]:
        yield form(FILE, end=b"")[:-2]
        while True:
            yield bytes(2**20)

    async def streamed():  # type: ignore[no-untyped-def]
        for piece in pieces():
            yield piece

    answer = call("POST", "/v1/slides", content=streamed(), headers={"Content-Type": KIND})
    assert (answer.status_code, answer.json()["code"]) == (413, "upload.too-large")
    assert leftovers(settings) == []


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("multipart/form-data", 400),
        ("multipart/form-data; boundary=", 400),
        ("multipart/form-data; boundary=" + "x" * 5000, 400),
        ("multipart/mixed; boundary=XX", 415),
        ("text/plain", 415),
        ("", 415),
        ("application/octet-stream", 415),
    ],
)
def test_other_bodies_are_refused(call: Call, kind: str, status: int) -> None:
    assert post(call, form(FILE), kind).status_code == status


def test_malformed_forms_cause_no_internal_error() -> None:
    chance = random.Random(11)
    whole = form(('name="a"', b"1"), FILE)
    for _ in range(2000):
        body = bytearray(whole)
        for _ in range(chance.randrange(1, 6)):
            body[chance.randrange(len(body))] = chance.randrange(256)
        kept = Kept()
        with contextlib.suppress(ServiceError):  # any other exception would be an internal error
            parser = FormFile(KIND, kept.begin)
            parser.write(bytes(body))
            parser.close()


@pytest.mark.parametrize("file", ["pyproject.toml", "constraints.txt"])
def test_form_parser_version_limits_headers(file: str) -> None:
    """Versions before 0.0.31 accept endless headers."""
    text = (Path(__file__).resolve().parents[2] / file).read_text("utf-8")
    found = re.search(r"python-multipart[>=]=(\d+)\.(\d+)\.(\d+)", text)
    assert found
    assert tuple(map(int, found.groups())) >= (0, 0, 31)


def test_part_headers_are_limited() -> None:
    parser = FormFile(KIND, Kept().begin)
    parser._parser.max_header_size = parser._parser.max_header_count = 2**40  # the parser without its own limits
    parser.write(b"--XX\r\nContent-Disposition: " + b"x" * 8000)
    with pytest.raises(ServiceError, match="headers of a part"):
        parser.write(b"x" * 1000)
