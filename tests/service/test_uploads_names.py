"""Invalid or misleading slide names are refused by all upload methods."""

import base64
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from slidelift.service.settings import Settings

Call = Callable[..., httpx.Response]
ODD = [
    "\n",
    "\r",
    "\r\n",
    "\t",
    "\0",
    "\x1b",
    "\x7f",
    "\x85",
    "\u2028",
    "\u2029",
    "\u202e",
    "\u2066",
    "\u200f",
    "\ufeff",
]
NAMES = [*(f"a{odd}b.svs" for odd in ODD), *(f"a.svs{odd}" for odd in ODD), *(f"{odd}a.svs" for odd in ODD)]
NAMES += ["\n", "a.dzi\n", "a\n.dzi.svs"]


@pytest.mark.parametrize("name", NAMES)
def test_name_with_a_control_character_is_refused_by_put(
    call: Call, settings: Settings, tiff: bytes, name: str
) -> None:
    answer = call("PUT", f"/v1/slides/{quote(name, safe='')}", content=tiff)
    assert (answer.status_code, answer.json()["code"]) == (422, "upload.name"), answer.text
    assert list((settings.data_dir / "uploads").glob("*/")) == []


@pytest.mark.parametrize("name", NAMES)
def test_name_with_a_control_character_is_refused_in_pieces(call: Call, name: str) -> None:
    encoded = base64.b64encode(name.encode()).decode()
    headers = {"Tus-Resumable": "1.0.0", "Upload-Length": "5", "Upload-Metadata": f"filename {encoded}"}
    answer = call("POST", "/v1/uploads", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "upload.name")


@pytest.mark.parametrize("name", [name for name in NAMES if not set(name) & set("\r\n\0")])
def test_name_with_a_control_character_is_refused_in_a_form(call: Call, tiff: bytes, name: str) -> None:
    head = f'--XX\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
    kind = {"Content-Type": "multipart/form-data; boundary=XX"}
    answer = call("POST", "/v1/slides", content=head + tiff + b"\r\n--XX--\r\n", headers=kind)
    assert answer.status_code in (400, 422)
    assert answer.json()["code"] in ("upload.name", "upload.form")


@pytest.mark.parametrize("name", NAMES)
def test_name_with_a_control_character_is_refused_of_an_address(
    tmp_path: Path, open_app: Callable[..., object], client: Callable[[object], Call], tiff: bytes, name: str
) -> None:
    (tmp_path / "a.svs").write_bytes(tiff)
    call = client(open_app(upload_roots=(tmp_path,)))
    answer = call("POST", "/v1/slides", json={"uri": f"file://{tmp_path}/a.svs", "name": name})
    assert (answer.status_code, answer.json()["code"]) == (422, "upload.name"), answer.text


@pytest.mark.parametrize("name", ["Patient Müller 7.svs", "病理.svs", "a.dzi.svs", "é à (2).tiff", "_files"])
def test_other_names_are_accepted(call: Call, tiff: bytes, name: str) -> None:
    answer = call("PUT", f"/v1/slides/{quote(name, safe='')}", content=tiff)
    assert (answer.status_code, answer.json().get("name")) == (201, name)
