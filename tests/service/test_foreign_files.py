"""Uploads of one owner cannot show pixels of another owner's slides."""

import importlib.util
import io
import os
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import numpy as np
import pytest
import tifffile
from fastapi import FastAPI
from PIL import Image

from slidelift.service.app import create_app
from slidelift.service.auth.tokens import Scope, new_token
from slidelift.service.cli import main
from slidelift.service.settings import Settings

Call = Callable[..., httpx.Response]
SIDE = 256
SECRET = np.full((SIDE, SIDE, 3), (255, 0, 255), np.uint8)
OWN = np.full((SIDE, SIDE, 3), 40, np.uint8)


class Lab:
    """A service with tokens and the real probe, and clients of its users."""

    def __init__(self, app: FastAPI, client: Callable[[FastAPI], Call]) -> None:
        self.context, self._call = app.state.context, client(app)

    def user(self) -> Call:
        token, secret = new_token("lab", frozenset({Scope.READ, Scope.WRITE}), time.time())
        self.context.store.add_token(token)
        headers = {"Authorization": f"Bearer {secret}"}
        return lambda method, url, **options: self._call(method, url, headers=headers, **options)


@pytest.fixture
def lab(settings: Settings, client: Callable[[FastAPI], Call]) -> Iterator[Lab]:
    app = create_app(settings.model_copy(update={"auth": "on"}))
    yield Lab(app, client)
    app.state.context.decoders.close()
    app.state.context.store.close()


@pytest.fixture(scope="session")
def dicom() -> ModuleType:
    place = Path(__file__).with_name("dicom_for_tests.py")
    spec = importlib.util.spec_from_file_location("dicom_for_tests", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tiff_of(pixels: np.ndarray, description: str = "") -> bytes:
    made = io.BytesIO()
    options = {"photometric": "rgb", "tile": (SIDE, SIDE), "compression": "deflate", "metadata": None}
    tifffile.imwrite(made, pixels, description=description or None, **options)
    return made.getvalue()


def ome(body: str) -> str:
    return (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="Pixels:0" '
        f'DimensionOrder="XYCZT" Type="uint8" SizeX="{SIDE}" SizeY="{SIDE}" SizeC="3" SizeZ="1" SizeT="1">'
        f'<Channel ID="Channel:0:0" SamplesPerPixel="3"/>{body}</Pixels></Image></OME>'
    )


def planes_in(name: str | Path) -> str:
    return ome(f'<TiffData IFD="0" PlaneCount="1"><UUID FileName="{name}">urn:uuid:another</UUID></TiffData>')


def tarred(files: Mapping[str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return made.getvalue()


def vms(image: str | Path) -> bytes:
    values = {
        "ImageFile": image,
        "MapFile": image,
        "NoLayers": 1,
        "NoJpegColumns": 1,
        "NoJpegRows": 1,
        "SourceLens": 20,
    }
    values |= {"PhysicalWidth": 100000, "PhysicalHeight": 50000}
    return ("[Virtual Microscope Specimen]\n" + "".join(f"{key}={value}\n" for key, value in values.items())).encode()


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json().get("code")


def picture(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB"))


def test_ome_tiff_that_refers_to_a_slide_of_another_owner_is_refused(lab: Lab) -> None:
    alice, bob = lab.user(), lab.user()
    secret = bob("PUT", "/v1/slides/secret.ome.tif", content=tiff_of(SECRET, ome("<TiffData/>"))).json()["id"]
    where = lab.context.storage.slide_path(lab.context.store.slide(secret))
    for name in (where, f"../{secret}/{where.name}", f"../../../slides/{secret}/{where.name}"):
        answer = alice("PUT", "/v1/slides/mine.ome.tif", content=tiff_of(OWN, planes_in(name)))
        assert code(answer) == (422, "slide.foreign-file")
        assert answer.json()["detail"].startswith("mine.ome.tif: its OME-XML says")
    assert alice("GET", "/v1/slides").json()["slides"] == []


def test_file_stored_before_the_check_existed_shows_no_other_slide(lab: Lab) -> None:
    alice, bob = lab.user(), lab.user()
    secret = bob("PUT", "/v1/slides/secret.ome.tif", content=tiff_of(SECRET, ome("<TiffData/>"))).json()["id"]
    mine = alice("PUT", "/v1/slides/mine.ome.tif", content=tiff_of(OWN, ome("<TiffData/>"))).json()["id"]
    places = {one: lab.context.storage.slide_path(lab.context.store.slide(one)) for one in (secret, mine)}
    assert (picture(bob("GET", f"/v1/slides/{secret}_files/8/0_0.png"))[:, :, 1] < 10).all()
    places[mine].chmod(0o600)
    places[mine].write_bytes(tiff_of(OWN, planes_in(places[secret])))
    answer = alice("GET", f"/v1/slides/{mine}_files/8/0_0.png")
    assert answer.status_code == 422, answer.text
    assert answer.json()["code"] == "slide.foreign-file"


@pytest.mark.parametrize("name", ["mine.svs", "mine.tif", "mine"])
def test_index_file_under_any_name_leads_to_no_other_slide(lab: Lab, name: str) -> None:
    alice, bob = lab.user(), lab.user()
    made = io.BytesIO()
    Image.fromarray(SECRET).save(made, "JPEG", restart_marker_blocks=8, subsampling=0)
    secret = bob("PUT", "/v1/slides/secret.jpg", content=made.getvalue()).json()["id"]
    where = lab.context.storage.slide_path(lab.context.store.slide(secret))
    for image in (os.path.relpath(where, where.parent.parent / "x"), where):
        answer = alice("PUT", f"/v1/slides/{name}", content=vms(image))
        assert code(answer) == (422, "slide.foreign-file")
        assert answer.json()["detail"].startswith(f"{name} names a file elsewhere")
        answer = alice("PUT", "/v1/slides/mine.tar", content=tarred({"s.vms": vms(image), "a.jpg": made.getvalue()}))
        assert code(answer) == (422, "upload.bundle")


def test_vms_with_its_images_in_one_archive_is_accepted(lab: Lab) -> None:
    alice = lab.user()
    made = io.BytesIO()
    noise = Image.effect_noise((512, 256), 60).convert("RGB")
    noise.save(made, "JPEG", restart_marker_blocks=8, subsampling=0)
    answer = alice("PUT", "/v1/slides/scan.tar", content=tarred({"s.vms": vms("a.jpg"), "a.jpg": made.getvalue()}))
    assert answer.status_code == 201, answer.text
    assert (answer.json()["vendor"], answer.json()["width"]) == ("hamamatsu", 512)


def test_dicom_slide_is_one_series_beside_other_files(lab: Lab, dicom: ModuleType) -> None:
    alice: Any = lab.user()
    fine = Image.effect_noise((256, 128), 60).convert("RGB")
    series = {
        "D/fine.bin": dicom.instance(fine, "1.2.840.99", 1, 0.5),
        "D/coarse": dicom.instance(fine.resize((128, 64)), "1.2.840.99", 2, 1.0),
    }
    beside = {"D/notes.txt": b"x", "D/broken.dcm": bytes(128) + b"DICM", "D/thumb.jpg": b"x", "DICOMDIR": b"x"}
    answer = alice("PUT", "/v1/slides/case.tar", content=tarred({**series, **beside}))
    assert answer.status_code == 201, answer.text
    assert [level["width"] for level in answer.json()["levels"]] == [256, 128]
    kept = lab.context.storage.slide_path(lab.context.store.slide(answer.json()["id"])).parent
    assert {path.name for path in kept.iterdir()} == {"slide.dcm", "00001.dcm"}
    for more in ({"D/other": dicom.instance(fine, "1.2.840.11", 1, 0.5)}, {"a.svs": b"x"}):
        answer = alice("PUT", "/v1/slides/case.tar", content=tarred({**series, **more}))
        assert code(answer) == (422, "upload.bundle")
        assert "expected one slide" in answer.json()["detail"]
        assert next(iter(more)) in answer.json()["detail"]


def test_command_line_accepts_the_folder_of_one_dicom_slide(
    tmp_path: Path, dicom: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    fine = Image.effect_noise((256, 128), 60).convert("RGB")
    home = tmp_path / "case 7"
    home.mkdir()
    (home / "fine").write_bytes(dicom.instance(fine, "1.2.840.99", 1, 0.5))
    (home / "coarse").write_bytes(dicom.instance(fine.resize((128, 64)), "1.2.840.99", 2, 1.0))
    assert main(["info", str(home)]) == 0
    assert "level 1: 128x64" in capsys.readouterr().out
    assert main(["upscale", str(home), str(tmp_path / "out.ome.tiff"), "--model", "bicubic"]) == 0
    with tifffile.TiffFile(tmp_path / "out.ome.tiff") as tiff:
        assert tiff.pages.first.shape[1] > 256
