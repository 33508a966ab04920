"""Slides of several files in one archive: complete, incomplete and malicious archives."""

import hashlib
import importlib.util
import io
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from PIL import Image

from slidelift.service.app import create_app
from slidelift.service.errors import CODES, ServiceError
from slidelift.service.processes.protocol import Failed, UnpackArchive
from slidelift.service.processes.runner import unpack
from slidelift.service.settings import Settings
from slidelift.service.uploads import unpack as unpacking
from slidelift.service.uploads.names import Bundle

Call = Callable[..., httpx.Response]
Files = dict[str, bytes]
SLIDEDAT = b"""\xef\xbb\xbf[GENERAL]\r\nSLIDE_ID = 1\r\n[HIERARCHICAL]\r\nINDEXFILE = Index.dat\r
[DATAFILE]\r\nFILE_COUNT = 2\r\nFILE_0 = Data0000.dat\r\nFILE_1 = Data0001.dat\r\n"""
MRXS = {
    "Müller, Eva.mrxs": b"jpeg",
    **{f"Müller, Eva/{name}": b"x" for name in ("Index.dat", "Data0000.dat", "Data0001.dat")},
    "Müller, Eva/Slidedat.ini": SLIDEDAT,
}
VMS = {
    "c.vms": b"[Virtual Microscope Specimen]\nImageFile=c.jpg\nImageFile(1,0)=c(1,0).jpg\nMapFile=m.jpg\n",
    **dict.fromkeys(("c.jpg", "c(1,0).jpg", "m.jpg"), b"x"),
}


def zipped(files: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, compression)
    return made.getvalue()


def tarred(files: Mapping[str, bytes], mode: str = "w") -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return made.getvalue()


def tarred_entry(**values: Any) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        entry = tarfile.TarInfo("slide.svs")
        for name, value in values.items():
            setattr(entry, name, value)
        archive.addfile(entry)
    return made.getvalue()


@pytest.fixture
def call(settings: Settings, facts: dict[str, Any], call: Call) -> Iterator[Call]:
    """With a probe that accepts every file."""
    app = create_app(settings, lambda *_: facts)
    yield type(call)(app)
    app.state.context.store.close()


@pytest.fixture
def real(settings: Settings, call: Call) -> Iterator[Call]:
    """With the real probe."""
    app: FastAPI = create_app(settings)
    yield type(call)(app)
    app.state.context.store.close()


def put(call: Call, name: str, data: bytes) -> httpx.Response:
    return call("PUT", f"/v1/slides/{name}", content=data)


def stored(settings: Settings, slide_id: str) -> Files:
    home = settings.data_dir / "slides" / slide_id
    return {str(path.relative_to(home)): path.read_bytes() for path in home.rglob("*") if path.is_file()}


def opened(folder: Path, data: bytes, kind: Bundle = Bundle.ZIP, **limits: int) -> str:
    """Unpack in the child process of the service."""
    archive, target = folder / "archive", folder / "target"
    archive.write_bytes(data)
    target.mkdir()
    allowed = {"most_bytes": 2**30, "free_bytes": 2**30} | limits
    return unpack(archive, kind, target, name="mine.zip", **allowed, between=lambda: None)


def refused(folder: Path, data: bytes, kind: Bundle = Bundle.ZIP, **limits: int) -> str:
    """Return code and detail of the error; checks that nothing was written outside the target."""
    with pytest.raises(ServiceError) as error:
        opened(folder, data, kind, **limits)
    assert {path.name for path in folder.iterdir()} <= {"archive", "target"}
    return f"{error.value.problem.code}: {error.value.problem.detail}"


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.zip", zipped),
        ("A.TAR", tarred),
        ("a.tgz", lambda files: tarred(files, "w:gz")),
        ("a.tar.gz", lambda files: tarred(files, "w:gz")),
    ],
)
def test_mrxs_with_its_folder_is_stored_under_plain_names(
    call: Call, settings: Settings, name: str, pack: Callable[[Files], bytes]
) -> None:
    data = pack(MRXS)
    answer = put(call, name, data)
    assert answer.status_code == 201, answer.text
    slide = answer.json()
    assert (slide["name"], slide["bytes"], slide["sha256"]) == (name, len(data), hashlib.sha256(data).hexdigest())
    parts = ("Index.dat", "Data0000.dat", "Data0001.dat", "Slidedat.ini")
    assert set(stored(settings, slide["id"])) == {"slide.mrxs", *(f"slide/{part}" for part in parts)}
    assert list((settings.data_dir / "uploads").glob("*/")) == []


def test_the_same_over_tus_and_as_a_form(call: Call, settings: Settings) -> None:
    data = zipped(VMS)
    form = call("POST", "/v1/slides", files={"file": ("scan.zip", data)})
    assert form.status_code == 201, form.text
    assert set(stored(settings, form.json()["id"])) == {"slide.vms", "c.jpg", "c(1,0).jpg", "m.jpg"}
    headers = {
        "Tus-Resumable": "1.0.0",
        "Content-Type": "application/offset+octet-stream",
        "Upload-Length": str(len(data)),
        "Upload-Metadata": "filename YS56aXA=",
    }
    tus = call("POST", "/v1/uploads", content=data, headers=headers)
    assert stored(settings, tus.headers["slide-id"]) == stored(settings, form.json()["id"])


def test_archive_of_one_real_slide_equals_the_slide(real: Call, settings: Settings, cmu: Path) -> None:
    slide = cmu.read_bytes()
    junk = {"__MACOSX/Case 7/._cmu.svs": b"x", "Case 7/.DS_Store": b"x", "Case 7/Thumbs.db": b"x", "readme.txt": b"hi"}
    answer = put(real, "case.zip", zipped({**junk, "Case 7/cmu.svs": slide, "Case 7/preview.jpg": b"x"}))
    assert answer.status_code == 201, answer.text
    assert (answer.json()["width"], answer.json()["vendor"]) == (2220, "aperio")
    assert stored(settings, answer.json()["id"]) == {"slide.svs": slide}


def test_dicom_series_is_read_with_all_its_levels(real: Call, settings: Settings) -> None:
    place = Path(__file__).with_name("dicom_for_tests.py")
    spec = importlib.util.spec_from_file_location("dicom_for_tests", place)
    assert spec is not None
    assert spec.loader is not None
    dicom = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(dicom)
    image = Image.effect_noise((256, 128), 60).convert("RGB")
    series = {
        "Patient 7/DICOM/coarse": dicom.instance(image.resize((128, 64)), "1.2.840.99", 2, 1.0),
        "Patient 7/DICOM/fine.dcm": dicom.instance(image, "1.2.840.99", 1, 0.5),
    }
    answer = put(real, "case.tar", tarred(series))
    assert answer.status_code == 201, answer.text
    slide = answer.json()
    assert ([level["width"] for level in slide["levels"]], slide["mpp"]) == ([256, 128], [0.5, 0.5])
    assert set(stored(settings, slide["id"])) == {"slide.dcm", "00001.dcm"}
    other = {**series, "Patient 7/DICOM/other.dcm": dicom.instance(image, "1.2.840.11", 1, 0.5)}
    answer = put(real, "case.tar", tarred(other))
    assert (answer.json()["code"], "found 2" in answer.json()["detail"]) == ("upload.bundle", True)


def test_slide_with_empty_files_is_refused_by_the_probe_and_removed(real: Call, settings: Settings, data: Path) -> None:
    home = data / "damaged" / "mirax-and-vms-stubs"
    files = {str(path.relative_to(home)): path.read_bytes() for path in home.glob("Mirax2*/*")}
    files["Mirax2-Fluorescence-1.mrxs"] = (home / "Mirax2-Fluorescence-1.mrxs").read_bytes()
    answer = put(real, "scan.zip", zipped(files))
    assert answer.status_code == 422, answer.text
    assert list((settings.data_dir / "uploads").glob("*/")) == []
    assert list((settings.data_dir / "slides").glob("*/")) == []


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a/b.mrxs": b"x"}, "slide.multi-file: b.mrxs needs the folder b/ beside it, with Slidedat.ini"),
        ({"b.mrxs": b"x", "b/Index.dat": b"x"}, "slide.multi-file: b.mrxs needs the folder b/"),
        ({name: data for name, data in MRXS.items() if "Data0001" not in name}, "Data0001.dat"),
        ({name: data for name, data in VMS.items() if name != "m.jpg"}, "slide.multi-file: c.vms of c.vms lists"),
        ({**MRXS, **VMS}, "upload.bundle: expected one slide, found"),
        ({"a.svs": b"x", "b.svs": b"x"}, "found a.svs, b.svs"),
        ({"a.txt": b"x", "b.txt": b"x"}, "the archive contains no slide; it contains a.txt, b.txt"),
        ({}, "the archive contains no slide; it contains nothing"),
        ({"a/1.dcm": b"x", "b/2.dcm": b"x"}, "a DICOM series must be in one folder"),
        ({**VMS, "c.vms": b"ImageFile=../../../etc/passwd\n"}, "upload.bundle: c.vms names a file elsewhere"),
        ({**MRXS, "Müller, Eva/Slidedat.ini": b"FILE_0 = /etc/passwd\n"}, "names a file elsewhere"),
    ],
)
def test_archive_without_one_complete_slide_is_refused_with_the_reason(
    tmp_path: Path, files: Files, message: str
) -> None:
    assert message in refused(tmp_path, zipped(files))


@pytest.mark.parametrize("name", ["a.mrxs", "a.VMS", "a.vmu"])
def test_single_index_file_is_refused_with_advice_to_send_an_archive(call: Call, name: str) -> None:
    answer = put(call, name, b"x")
    assert (answer.status_code, answer.json()["code"]) == (422, "slide.multi-file")
    assert ".zip, .tar or .tar.gz" in answer.json()["detail"]


@pytest.mark.parametrize(
    "name",
    [
        *(
            "../slide.svs",
            "a/../../slide.svs",
            "/slide.svs",
            "a\\slide.svs",
            "C:\\slide.svs",
            "..",
            "a/..",
            "./../s.svs",
        ),
        *("new\nline.svs", "x" * 256, "x/" * 600 + "s.svs", "a/" * 20 + "s.svs", "esc\x1b[0m.svs"),
    ],
)
@pytest.mark.parametrize("kind", [Bundle.ZIP, Bundle.TAR])
def test_path_outside_the_folder_is_refused(tmp_path: Path, name: str, kind: Bundle) -> None:
    files = {"slide.svs": b"x", name: b"evil"}
    target = tmp_path / "target"
    archive = tmp_path / "archive"
    archive.write_bytes(zipped(files) if kind is Bundle.ZIP else tarred(files))
    target.mkdir()
    with pytest.raises(ServiceError) as error:
        unpacking.unpack(archive, kind, target, unpacking.Limits(2**30, 2**30))
    assert error.value.problem.code == "upload.bundle"
    assert {path.name for path in tmp_path.iterdir()} == {"archive", "target"}
    assert not Path("/slide.svs").exists()


def test_zip_name_cut_at_a_nul_is_refused(tmp_path: Path) -> None:
    data = zipped({"slide.svs": b"x", "evil.svsZ.txt": b"x"}).replace(b"evil.svsZ", b"evil.svs\0")
    assert "control character" in refused(tmp_path, data)


@pytest.mark.parametrize(
    "files", [[("a.svs", b"1"), ("a.svs", b"2")], [("a.svs", b"1"), ("A.SVS", b"2")], [("a", b"1"), ("a/b.svs", b"2")]]
)
def test_entries_with_equal_names_are_refused(tmp_path: Path, files: list[tuple[str, bytes]]) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, data in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    assert "have the same name" in refused(tmp_path, made.getvalue(), Bundle.TAR)


@pytest.mark.parametrize(
    "values",
    [
        {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
        {"type": tarfile.LNKTYPE, "linkname": "archive"},
        {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5},
        {"type": tarfile.FIFOTYPE},
    ],
)
def test_link_or_device_in_a_tar_is_refused(tmp_path: Path, values: dict[str, Any]) -> None:
    assert "a link, a device" in refused(tmp_path, tarred_entry(**values), Bundle.TAR)


def test_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        entry = zipfile.ZipInfo("slide.svs")
        entry.external_attr = 0o120777 << 16
        archive.writestr(entry, "/etc/passwd")
    assert "a link, a device" in refused(tmp_path, made.getvalue())


def test_encrypted_zip_is_refused(tmp_path: Path) -> None:
    data = bytearray(zipped({"slide.svs": b"x"}))
    data[6] |= 1
    central = data.index(b"PK\1\2")
    data[central + 8] |= 1
    assert "encrypted" in refused(tmp_path, bytes(data))


@pytest.mark.parametrize("kind", [Bundle.ZIP, Bundle.TAR_GZ])
def test_zip_bomb_is_stopped_before_it_fills_the_disk(tmp_path: Path, kind: Bundle) -> None:
    files = {"slide.svs": bytes(80 * 2**20)}
    data = zipped(files) if kind is Bundle.ZIP else tarred(files, "w:gz")
    assert len(data) < 2**20
    assert "over 100 times its size" in refused(tmp_path, data, kind)
    assert (tmp_path / "target" / "slide.svs").stat().st_size <= unpacking.RATIO_FLOOR_BYTES


def test_unpacked_size_is_counted_while_writing(tmp_path: Path) -> None:
    """The directory of the zip claims 5 bytes."""
    data = zipped({"slide.svs": bytes(2**20)}).replace(struct.pack("<I", 2**20), struct.pack("<I", 5))
    assert refused(tmp_path, data).startswith("upload.bundle: the archive is damaged")


def test_unpacked_size_has_limits(tmp_path: Path) -> None:
    chance = random.Random(0)
    data = zipped({"slide.svs": chance.randbytes(3 * 2**20)}, zipfile.ZIP_STORED)
    (tmp_path / "a").mkdir()
    assert refused(tmp_path / "a", data, most_bytes=2 * 2**20).startswith("upload.too-large")
    (tmp_path / "b").mkdir()
    assert refused(tmp_path / "b", data, free_bytes=2 * 2**20).startswith("storage.full")


def test_too_many_entries_are_refused(tmp_path: Path) -> None:
    files = dict.fromkeys((f"{number}" for number in range(unpacking.MAX_ENTRIES + 1)), b"")
    assert "more than 20000 entries" in refused(tmp_path, zipped(files, zipfile.ZIP_STORED))


@pytest.mark.parametrize("kind", [*Bundle])
def test_damaged_archive_is_refused_without_an_internal_error(tmp_path: Path, kind: Bundle) -> None:
    chance = random.Random(7)
    whole = {
        Bundle.ZIP: zipped(MRXS),
        Bundle.TAR: tarred(MRXS),
        Bundle.TAR_GZ: tarred(MRXS, "w:gz"),
    }[kind]
    spoilt = [
        b"",
        b"x",
        whole[: len(whole) // 2],
        chance.randbytes(2000),
        b"PK\5\6" + bytes(18),
        b"PK\5\6" + b"\xff" * 18,
    ]
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(chance.randrange(1, 8)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        spoilt.append(bytes(data))
    for number, data in enumerate(spoilt):
        folder = tmp_path / str(number)
        (folder / "target").mkdir(parents=True)
        (folder / "archive").write_bytes(data)
        answer = unpacking.answer(UnpackArchive(folder / "archive", kind, folder / "target", 2**30, 2**30))
        if isinstance(answer, Failed):
            assert CODES[answer.problem.code].status == 422, (number, answer)


def test_refused_archive_leaves_nothing(call: Call, settings: Settings) -> None:
    answer = put(call, "a.zip", zipped({"../x": b"x"}))
    assert (answer.status_code, answer.json()["code"]) == (422, "upload.bundle")
    assert list((settings.data_dir / "uploads").glob("*/")) == []
    assert not (settings.data_dir / "x").exists()
