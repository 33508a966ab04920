"""No slide makes a reader open another file, by a name in it or a link beside it; its own files still open."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
import openslide
import pytest
import tifffile
import zarr
from PIL import Image

from slidelift.wsi.companions import companion_files, content_hash
from slidelift.wsi.errors import ForeignFileError, SlideUnreadableError
from slidelift.wsi.geometry import Region, Size
from slidelift.wsi.readers.open_slide import open_slide
from slidelift.wsi.readers.references import LoneFile, options_for, require_alone
from slidelift.wsi.readers.result import open_result

SIZE = 64
OWN, SECRET = np.full((SIZE, SIZE, 3), 40, np.uint8), np.full((SIZE, SIZE, 3), (255, 0, 255), np.uint8)
_opened: list[str] | None = None


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if _opened is not None and event in ("open", "os.listdir", "os.scandir") and isinstance(arguments[0], str):
        _opened.append(os.path.realpath(arguments[0]))


sys.addaudithook(_note)


@contextmanager
def nothing_is_opened_below(folder: Path) -> Iterator[None]:
    global _opened
    _opened = []
    try:
        yield
    finally:
        seen, _opened = _opened, None
    assert [name for name in seen if name.startswith(f"{folder.resolve()}{os.sep}")] == []


@pytest.fixture(scope="session")
def dicom() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "dicom_for_tests", Path(__file__).parents[1] / "service" / "dicom_for_tests.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def homes(tmp_path: Path) -> tuple[Path, Path]:
    """The folder of the slide, and the folder of another user."""
    mine, neighbour = tmp_path / "mine", tmp_path / "neighbour"
    mine.mkdir()
    neighbour.mkdir()
    return mine, neighbour


def ome(body: str, attributes: str = "") -> str:
    return (
        f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" {attributes}>{body}</OME>'
        if body.startswith("<BinaryOnly")
        else f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" {attributes}><Image ID="Image:0">'
        f'<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="{SIZE}" SizeY="{SIZE}" SizeC="3" SizeZ="1" '
        f'SizeT="1"><Channel ID="Channel:0:0" SamplesPerPixel="3"/>{body}</Pixels></Image></OME>'
    )


def write_ome(path: Path, xml: str, pixels: np.ndarray = OWN) -> Path:
    tifffile.imwrite(path, pixels, photometric="rgb", description=xml, metadata=None, compression="deflate")
    return path


def planes_in(name: str) -> str:
    return f'<TiffData IFD="0" PlaneCount="1"><UUID FileName="{name}">urn:uuid:another</UUID></TiffData>'


NAMES = ["{neighbour}/secret.ome.tif", "../neighbour/secret.ome.tif", "link.ome.tif", "linked/secret.ome.tif"]


@pytest.mark.parametrize("own", ["", 'UUID="urn:uuid:own"'])
@pytest.mark.parametrize("name", [*NAMES, "beside.ome.tif", "absent.ome.tif"])
def test_ome_xml_that_refers_to_another_file_is_refused(homes: tuple[Path, Path], name: str, own: str) -> None:
    mine, neighbour = homes
    write_ome(neighbour / "secret.ome.tif", ome("<TiffData/>"), SECRET)
    shutil.copy(neighbour / "secret.ome.tif", mine / "beside.ome.tif")
    (mine / "link.ome.tif").symlink_to(neighbour / "secret.ome.tif")
    (mine / "linked").symlink_to(neighbour)
    path = write_ome(mine / "a.ome.tif", ome(planes_in(name.format(neighbour=neighbour)), own))
    with (
        nothing_is_opened_below(neighbour),
        pytest.raises(ForeignFileError, match=r"a\.ome\.tif: its OME-XML .*ome\.tif"),
    ):
        open_slide(path)


@pytest.mark.parametrize(
    ("xml", "said"),
    [
        (ome('<BinaryOnly MetadataFile="../neighbour/all.companion.ome" UUID="urn:uuid:x"/>'), "all.companion.ome"),
        (ome('<BinData Length="4">AAAA</BinData>'), "BinData"),
        (ome("<TiffData><UUID>urn:uuid:another</UUID></TiffData>", 'UUID="urn:uuid:own"'), "another file"),
    ],
)
def test_ome_xml_with_pixels_or_metadata_elsewhere_is_refused(tmp_path: Path, xml: str, said: str) -> None:
    with pytest.raises(ForeignFileError, match=said):
        open_slide(write_ome(tmp_path / "a.ome.tif", xml))


@pytest.mark.parametrize(
    "xml",
    [
        ome("<TiffData/>"),
        ome('<TiffData><UUID FileName="renamed.ome.tif">urn:uuid:own</UUID></TiffData>', 'UUID="urn:uuid:own"'),
        ome('<TiffData><UUID FileName="A.ome.tif">urn:uuid:own</UUID></TiffData>'),
        ome('<TiffData/><Notes><UUID FileName="b.tif">of another program</UUID></Notes>'),
    ],
)
def test_ome_tiff_that_refers_to_itself_opens(tmp_path: Path, xml: str) -> None:
    with closing(open_slide(write_ome(tmp_path / "a.ome.tif", xml))) as reader:
        assert (reader.read_region(0, Region(0, 0, SIZE, SIZE)) == OWN).all()


def test_handle_for_tifffile_does_not_reveal_the_folder(homes: tuple[Path, Path]) -> None:
    """Opened by its path instead, the same file makes tifffile read the other folder."""
    mine, neighbour = homes
    write_ome(neighbour / "secret.ome.tif", ome("<TiffData/>"), SECRET)
    path = write_ome(mine / "a.ome.tif", ome(planes_in("../neighbour/secret.ome.tif")))
    with tifffile.TiffFile(path) as tiff:
        assert tiff.series[0].pages[0].parent.filehandle.name == "secret.ome.tif"
    with nothing_is_opened_below(neighbour), LoneFile(path) as file:
        tiff = tifffile.TiffFile(file, **options_for(path))
        assert all((series.asarray() == OWN).all() for series in tiff.series)


def test_lists_of_micro_manager_are_not_read(homes: tuple[Path, Path]) -> None:
    mine, neighbour = homes
    tifffile.imwrite(mine / "a.tif", OWN, photometric="rgb", metadata=None)
    (mine / "NDTiff.index").symlink_to(neighbour / "secret")
    (neighbour / "secret").write_bytes(b"x")
    with nothing_is_opened_below(neighbour), closing(open_slide(mine / "a.tif")) as reader:
        assert (reader.read_region(0, Region(0, 0, SIZE, SIZE)) == OWN).all()
    require_alone(mine / "a.tif", "a.tif")


def write_vms(folder: Path, name: str = "s.vms", **names: str) -> Path:
    """A VMS of one JPEG of 512x256 px, which libopenslide opens."""
    picture = Image.effect_noise((512, 256), 60).convert("RGB")
    picture.save(folder / "a.jpg", restart_marker_blocks=8, subsampling=0)
    picture.resize((64, 32)).save(folder / "map.jpg", restart_marker_blocks=8, subsampling=0)
    said = {"ImageFile": "a.jpg", "MapFile": "map.jpg", "NoLayers": "1", "NoJpegColumns": "1", "NoJpegRows": "1"}
    said |= {"SourceLens": "20", "PhysicalWidth": "100000", "PhysicalHeight": "50000", **names}
    lines = "\n".join(f"{key}={value}" for key, value in said.items())
    (folder / name).write_text(f"[Virtual Microscope Specimen]\n{lines}\n")
    return folder / name


def test_vms_with_its_own_files_opens(tmp_path: Path) -> None:
    path = write_vms(tmp_path)
    truth = np.asarray(Image.open(tmp_path / "a.jpg"))
    with closing(open_slide(path)) as reader:
        assert (reader.info.vendor, reader.info.size) == ("hamamatsu", Size(512, 256))
        assert (reader.read_region(0, Region(100, 50, 200, 100)) == truth[50:150, 100:300]).all()
    assert [file.name for file in companion_files(path)] == ["s.vms", "a.jpg", "map.jpg"]


@pytest.mark.parametrize("suffix", [".vms", ".svs", ".tif", ""])
@pytest.mark.parametrize("key", ["ImageFile", "MapFile", "OptimisationFile", "MacroImage"])
@pytest.mark.parametrize(
    "name", ["{neighbour}/secret.jpg", "../neighbour/secret.jpg", "link.jpg", "pipe.jpg", "sub/../a.jpg"]
)
def test_vms_that_names_a_file_elsewhere_is_refused_under_any_suffix(
    homes: tuple[Path, Path], name: str, key: str, suffix: str
) -> None:
    mine, neighbour = homes
    Image.fromarray(SECRET).save(neighbour / "secret.jpg")
    (mine / "link.jpg").symlink_to(neighbour / "secret.jpg")
    os.mkfifo(mine / "pipe.jpg")
    path = write_vms(mine, f"s{suffix}", **{key: name.format(neighbour=neighbour)})
    assert openslide.OpenSlide.detect_format(path) == "hamamatsu"
    with nothing_is_opened_below(neighbour), pytest.raises(ForeignFileError, match=r"names a file elsewhere|is a link"):
        open_slide(path)


@pytest.mark.parametrize("before", ["Other=", "Other =  ", "[Group]", "# ImageFile=a.jpg", "ImageFile=a.jpg", "A=\r"])
def test_file_name_is_found_after_any_line(homes: tuple[Path, Path], before: str) -> None:
    mine, neighbour = homes
    Image.fromarray(SECRET).save(neighbour / "secret.jpg")
    path = write_vms(mine)
    path.write_text(path.read_text().replace("ImageFile=a.jpg", f"{before}\nImageFile=../neighbour/secret.jpg"))
    with nothing_is_opened_below(neighbour), pytest.raises(ForeignFileError, match="names a file elsewhere"):
        open_slide(path)


SLIDEDAT = "[GENERAL]\r\nSLIDE_ID = 1\r\n[HIERARCHICAL]\r\nINDEXFILE = {index}\r\n[DATAFILE]\r\nFILE_0 = {data}\r\n"


def write_mrxs(folder: Path, index: str = "Index.dat", data: str = "Data0000.dat") -> Path:
    (folder / "s").mkdir()
    for name in ("Index.dat", "Data0000.dat"):
        (folder / "s" / name).write_bytes(b"x")
    (folder / "s" / "Slidedat.ini").write_bytes(b"\xef\xbb\xbf" + SLIDEDAT.format(index=index, data=data).encode())
    (folder / "s.mrxs").write_bytes(b"x")
    return folder / "s.mrxs"


@pytest.mark.parametrize("key", ["index", "data"])
@pytest.mark.parametrize("name", ["{neighbour}/Data.dat", "../../neighbour/Data.dat", "..\\neighbour\\Data.dat"])
def test_slidedat_that_names_a_file_elsewhere_is_refused(homes: tuple[Path, Path], name: str, key: str) -> None:
    mine, neighbour = homes
    (neighbour / "Data.dat").write_bytes(b"x")
    path = write_mrxs(mine, **{key: name.format(neighbour=neighbour)})
    with (
        nothing_is_opened_below(neighbour),
        pytest.raises(ForeignFileError, match=r"Slidedat\.ini names a file elsewhere"),
    ):
        open_slide(path)


@pytest.mark.parametrize("linked", ["s", "s/Slidedat.ini", "s/Data0000.dat"])
def test_mrxs_with_a_link_is_refused(homes: tuple[Path, Path], linked: str) -> None:
    mine, neighbour = homes
    path = write_mrxs(mine)
    (mine / linked).rename(neighbour / "secret")
    (mine / linked).symlink_to(neighbour / "secret")
    refused = pytest.raises(ForeignFileError, match=rf"s\.mrxs: its file {linked} is a link")
    with nothing_is_opened_below(neighbour), refused:
        open_slide(path)


def test_mrxs_without_links_reaches_its_decoder(tmp_path: Path) -> None:
    path = write_mrxs(tmp_path)
    assert [file.name for file in companion_files(path)] == ["s.mrxs", "Data0000.dat", "Index.dat", "Slidedat.ini"]
    with pytest.raises(SlideUnreadableError, match="OpenSlide can't open"):
        open_slide(path)


@pytest.mark.parametrize("name", ["s.Full", "s.svslide-journal", "s.svslide-wal"])
def test_link_that_decoders_would_open_beside_a_slide_is_refused(homes: tuple[Path, Path], name: str) -> None:
    mine, neighbour = homes
    (mine / "s.svslide").write_bytes(b"x")
    (mine / name).symlink_to(neighbour / "secret")
    with pytest.raises(ForeignFileError, match=name):
        open_slide(mine / "s.svslide")


def pictures() -> tuple[Image.Image, Image.Image]:
    fine = Image.effect_noise((256, 128), 60).convert("RGB")
    return fine, fine.resize((128, 64))


def write_series(folder: Path, dicom: ModuleType, *, series: str = "1.2.840.99", suffix: str = ".dcm") -> Path:
    fine, coarse = pictures()
    (folder / f"fine{suffix}").write_bytes(dicom.instance(fine, series, 1, 0.5))
    (folder / f"coarse{suffix}").write_bytes(dicom.instance(coarse, series, 2, 1.0))
    return folder / f"fine{suffix}"


@pytest.mark.parametrize("suffix", [".dcm", "", ".bin"])
def test_dicom_slide_is_the_files_of_its_series(tmp_path: Path, dicom: ModuleType, suffix: str) -> None:
    path = write_series(tmp_path, dicom, suffix=suffix)
    alone = content_hash(path)
    fine, _ = pictures()
    (tmp_path / "other.dcm").write_bytes(dicom.instance(fine, "1.2.840.11", 1, 0.5))
    (tmp_path / "notes.txt").write_text("of a patient")
    (tmp_path / "more").mkdir()
    (tmp_path / "broken.dcm").write_bytes(bytes(128) + b"DICM" + b"\xff" * 40)
    with closing(open_slide(path)) as reader:
        assert [level.size for level in reader.info.levels] == [Size(256, 128), Size(128, 64)]
    assert sorted(file.name for file in companion_files(path)) == [f"coarse{suffix}", f"fine{suffix}"]
    assert content_hash(path) == content_hash(tmp_path / f"coarse{suffix}") == alone
    (tmp_path / f"fine{suffix}").rename(tmp_path / f"zzz{suffix}")
    assert content_hash(tmp_path / f"zzz{suffix}") == alone
    level = tmp_path / f"coarse{suffix}"
    level.write_bytes(level.read_bytes() + b"\0\0")
    assert content_hash(tmp_path / f"zzz{suffix}") != alone


def test_referenced_series_is_not_taken_for_the_own_series(tmp_path: Path, dicom: ModuleType) -> None:
    """A ReferencedSeriesSequence contains the same tag and comes first."""
    path = write_series(tmp_path, dicom)
    data = path.read_bytes()
    for length in ("defined", "undefined"):
        uid = b"\x20\0\x0e\0UI\x0a\0" + b"1.2.840.11"
        if length == "defined":
            item = b"\xfe\xff\0\xe0" + len(uid).to_bytes(4, "little") + uid
            sequence = b"\x08\0\x15\x11SQ\0\0" + len(item).to_bytes(4, "little") + item
        else:
            item = b"\xfe\xff\0\xe0\xff\xff\xff\xff" + uid + b"\xfe\xff\x0d\xe0" + bytes(4)
            sequence = b"\x08\0\x15\x11SQ\0\0\xff\xff\xff\xff" + item + b"\xfe\xff\xdd\xe0" + bytes(4)
        place = data.index(b"\x20\0\x0d\0UI")
        path.write_bytes(data[:place] + sequence + data[place:])
        assert sorted(file.name for file in companion_files(path)) == ["coarse.dcm", "fine.dcm"]
        with closing(open_slide(path)) as reader:
            assert len(reader.info.levels) == 2


def test_folder_of_one_dicom_slide_opens_as_that_slide(tmp_path: Path, dicom: ModuleType) -> None:
    path = write_series(tmp_path, dicom)
    with closing(open_slide(tmp_path)) as reader:
        assert (reader.info.size, reader.info.mpp) == (Size(256, 128), (0.5, 0.5))
    assert content_hash(tmp_path) == content_hash(path)
    fine, _ = pictures()
    (tmp_path / "other.dcm").write_bytes(dicom.instance(fine, "1.2.840.11", 1, 0.5))
    with pytest.raises(SlideUnreadableError, match=r"2 DICOM slides; .*fine\.dcm, other\.dcm"):
        open_slide(tmp_path)


def test_folder_without_a_dicom_slide_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(SlideUnreadableError, match="without a DICOM slide"):
        open_slide(tmp_path)


@pytest.mark.parametrize("name", ["level.dcm", "level", "level.bin"])
@pytest.mark.parametrize("by_folder", [False, True])
def test_dicom_series_with_a_link_is_refused(
    homes: tuple[Path, Path], dicom: ModuleType, name: str, by_folder: bool
) -> None:
    mine, neighbour = homes
    path = write_series(mine, dicom)
    secret = Image.fromarray(SECRET)
    (neighbour / "secret.dcm").write_bytes(dicom.instance(secret, "1.2.840.99", 3, 2.0))
    (mine / name).symlink_to(neighbour / "secret.dcm")
    with nothing_is_opened_below(neighbour), pytest.raises(ForeignFileError, match=f"{name}: .* a link"):
        open_slide(mine if by_folder else path)


def test_pipe_beside_a_dicom_slide_is_refused_and_not_opened(tmp_path: Path, dicom: ModuleType) -> None:
    path = write_series(tmp_path, dicom)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ForeignFileError, match=r"pipe: .* no regular file"):
        open_slide(path)


def write_zarr(path: Path, pixels: np.ndarray, said: str = "0") -> Path:
    group = zarr.open_group(path, mode="w", zarr_format=2)
    planes = np.moveaxis(pixels, -1, 0)
    group.create_array("0", data=planes, chunks=(3, SIZE, SIZE), chunk_key_encoding={"name": "v2", "separator": "/"})
    group.attrs["multiscales"] = [{"version": "0.4", "datasets": [{"path": said}]}]
    return path


def test_zarr_without_links_opens(tmp_path: Path) -> None:
    with closing(open_result(write_zarr(tmp_path / "a.ome.zarr", OWN), "ome-zarr")) as reader:
        assert (reader.read_region(0, Region(0, 0, SIZE, SIZE)) == OWN).all()


@pytest.mark.parametrize("said", ["../../neighbour/b.ome.zarr/0", "{neighbour}/b.ome.zarr/0", "http://localhost/0", 7])
def test_zarr_with_a_level_elsewhere_is_refused(homes: tuple[Path, Path], said: str | int) -> None:
    mine, neighbour = homes
    write_zarr(neighbour / "b.ome.zarr", SECRET)
    said = said.format(neighbour=neighbour) if isinstance(said, str) else said
    path = write_zarr(mine / "a.ome.zarr", OWN, said)
    with nothing_is_opened_below(neighbour), pytest.raises(ForeignFileError, match=r"a\.ome\.zarr: its multiscales"):
        open_result(path, "ome-zarr")


@pytest.mark.parametrize("linked", ["0", "0/.zarray", "0/0", "0/0/0/0", ".zattrs"])
def test_zarr_with_a_link_is_refused(homes: tuple[Path, Path], linked: str) -> None:
    mine, neighbour = homes
    path = write_zarr(mine / "a.ome.zarr", OWN)
    (path / linked).rename(neighbour / "own")
    write_zarr(neighbour / "b.ome.zarr", SECRET)
    (path / linked).symlink_to(neighbour / "b.ome.zarr" / linked)
    with (
        nothing_is_opened_below(neighbour),
        pytest.raises(ForeignFileError, match=r"a\.ome\.zarr: .* by a link"),
        closing(open_result(path, "ome-zarr")) as reader,
    ):
        reader.read_region(0, Region(0, 0, SIZE, SIZE))


def test_result_whose_xml_refers_to_another_file_is_refused(homes: tuple[Path, Path]) -> None:
    mine, neighbour = homes
    write_ome(neighbour / "secret.ome.tif", ome("<TiffData/>"), SECRET)
    path = write_ome(mine / "a.ome.tif", ome(planes_in("../neighbour/secret.ome.tif")))
    with nothing_is_opened_below(neighbour), pytest.raises(ForeignFileError, match="its OME-XML"):
        open_result(path, "ome-tiff")
