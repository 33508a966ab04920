"""Nothing of a source but its pixels, sizes and colours goes into what is handed on."""

import base64
import io
import re
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

from slidelift.service.pipeline.options import BadTilePolicy
from slidelift.service.pipeline.progress import Progress, Stage
from slidelift.service.pipeline.request import UpscaleRequest
from slidelift.service.pipeline.upscale import upscale

PLANTED = "Quxmeier"
"""Stands, with a number, in every place where a name could; none of ours has these letters in this order."""


def secret(number: int) -> str:
    return f"{PLANTED}{number:02} born 1957"


def spoilt_profile() -> bytes:
    """sRGB as lcms writes it, its words overwritten and a private tag added."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[48:56], profile[80:84] = PLANTED.encode(), PLANTED[:4].encode()
    for number in range(struct.unpack_from(">I", profile, 128)[0]):
        name, offset, size = struct.unpack_from(">4sII", profile, 132 + 12 * number)
        if name in (b"desc", b"cprt"):
            at, length = offset + 28, size - 28
            profile[at : at + length] = secret(1).encode("utf-16-be")[:length].ljust(length, b"\0")
        if name == b"chrm":
            profile[132 + 12 * number : 136 + 12 * number] = b"prvt"
            profile[offset + 8 : offset + 16] = PLANTED.encode()
    return bytes(profile)


def tissue() -> np.ndarray:
    from skimage.data import immunohistochemistry

    return np.ascontiguousarray(immunohistochemistry()[:500, :420])


def svs(path: Path) -> None:
    """As an Aperio scanner writes it, with a label and a macro image of pure magenta."""
    words = f"Filename = {secret(2)}|User = {secret(3)}|Title = {secret(4)}|Date = 05/04/57|ScanScope ID = {secret(5)}"
    description = f"Aperio Image Library v1\n420x500 [0,0 420x500] (256x256)|AppMag = 20|MPP = 0.5|{words}"
    tags = [(315, "s", 0, secret(6), True), (33432, "s", 0, secret(7), True), (316, "s", 0, secret(8), True)]
    packet = f"<x:xmpmeta>{secret(9)}</x:xmpmeta>".encode()
    tags += [(700, "B", len(packet), packet, True), (306, "s", 0, "1957:05:04 03:02:01", True)]
    magenta = np.zeros((90, 120, 3), np.uint8) + np.array([255, 0, 255], np.uint8)
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(
            tissue(),
            photometric="rgb",
            tile=(256, 256),
            compression="deflate",
            description=description,
            software=secret(10),
            extratags=tags,
            iccprofile=spoilt_profile(),
            metadata=None,
        )
        for name, kind in (("label", 1), ("macro", 9)):
            words = f"Aperio Image Library v1\n{name} 120x90 {secret(11)}"
            tiff.write(magenta, photometric="rgb", subfiletype=kind, description=words, rowsperstrip=90, metadata=None)


def ome(path: Path) -> None:
    metadata = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "Name": secret(2), "Description": secret(3)}
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(
            tissue(),
            photometric="rgb",
            tile=(256, 256),
            metadata=metadata,
            iccprofile=spoilt_profile(),
            software=secret(4),
        )


def png(path: Path) -> None:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("Title", secret(2))
    chunks.add_itxt("Author", secret(3))
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = secret(4)
    Image.fromarray(tissue()).save(path, pnginfo=chunks, exif=exif, icc_profile=spoilt_profile())


def damaged(path: Path, data: Path) -> None:
    shutil.copy(data / "damaged" / "cmu-bitflip-tiles.svs", path)


def assert_silent(content: bytes, where: object) -> None:
    for word in (PLANTED, PLANTED.lower(), "born 1957", "1957:05", "05/04/57"):
        for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
            assert word.encode(encoding) not in content, f"{word} as {encoding} in {where}"


@pytest.mark.parametrize("suffix", [".ome.tiff", ".ome.zarr"])
@pytest.mark.parametrize("kind", ["svs", "ome.tiff", "png", "damaged.svs"])
def test_no_word_of_the_source_is_in_anything_that_is_handed_on(tmp_path, data, capfd, kind, suffix) -> None:
    folder = tmp_path / secret(20)
    folder.mkdir()
    slide = folder / f"{secret(21)}.{kind}"
    region = None
    if kind == "damaged.svs":
        damaged(slide, data)
        region = (768, 1024, 512, 512)
    else:
        {"svs": svs, "ome.tiff": ome, "png": png}[kind](slide)
        assert PLANTED.encode() in slide.read_bytes()
    (tmp_path / "out").mkdir()
    output = tmp_path / "out" / f"result{suffix}"
    on_the_way: list[bytes] = []

    def look(progress: Progress) -> None:
        if progress.stage is Stage.VERIFYING:
            on_the_way.extend(path.read_bytes() for path in tmp_path.glob("out/.slidelift-*/*") if path.is_file())

    request = UpscaleRequest(
        slide, output, model="bicubic", mpp=0.5, region=region, on_bad_tile=BadTilePolicy.MARK, entropy=0
    )
    report = upscale(request, look)
    vendor = {"svs": "aperio", "damaged.svs": "aperio", "png": None}
    assert report.slide.vendor == vendor.get(kind, report.slide.vendor)
    assert len(on_the_way) >= 2
    for content in on_the_way:
        assert_silent(content, "the workspace")
    for path in (tmp_path / "out").rglob("*"):
        assert_silent(path.name.encode(), path)
        if path.is_file():
            assert_silent(path.read_bytes(), path)
    page = (tmp_path / "out" / "result.report.html").read_text("utf-8")
    for encoded in re.findall(r"base64,([^\"]*)\"", page):
        assert_silent(base64.b64decode(encoded), "a picture of the page")
        assert not magenta(Image.open(io.BytesIO(base64.b64decode(encoded))))
    assert_silent(report.as_bytes(), "the report")
    assert report.output.icc_profile_carried_over == (kind != "damaged.svs" or report.slide.icc_profile_bytes > 0)
    assert_silent("".join(capfd.readouterr()).encode(), "standard output and error")
    assert not magenta(Image.fromarray(finest(output)))


def finest(output: Path) -> np.ndarray:
    if output.is_file():
        return tifffile.imread(output)
    return np.moveaxis(np.asarray(zarr.open_group(str(output), mode="r", zarr_format=2)["0"][:]), 0, -1)


def magenta(image: Image.Image) -> bool:
    red, green, blue = np.moveaxis(np.asarray(image.convert("RGB")).astype(int), -1, 0)
    return bool(((red > 240) & (green < 40) & (blue > 240)).any())


def test_what_a_file_calls_its_vendor_is_one_of_a_few_words() -> None:
    from slidelift.wsi.slide import known_vendor

    assert [known_vendor(said) for said in ("aperio", "Leica", secret(1), None)] == [
        "aperio",
        "leica",
        "other",
        None,
    ]
