"""A patient's name in a slide, its file name or its folder appears in no result, response about a job, or log."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

PLANTED = "Zyxwvut Quisling 1957"
FORBIDDEN = ("Zyxwvut", "Quisling", "CaseQX7")


def write_slide(path: Path) -> Path:
    """Write an Aperio-like slide with a label, and a patient's name in every free text."""
    draw = np.random.default_rng(5)
    pixels = draw.integers(120, 240, (700, 900, 3), np.uint8)
    facts = f"AppMag = 20|MPP = 0.499|Filename = {PLANTED}|User = {PLANTED}|Title = CaseQX7"
    image_description = f"Aperio Image Library v12\n900x700 |{facts}"
    extra = [(315, "s", 0, PLANTED, True), (33432, "s", 0, PLANTED, True), (316, "s", 0, PLANTED, True)]
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(
            pixels,
            tile=(256, 256),
            photometric="rgb",
            compression="jpeg",
            description=image_description,
            metadata=None,
            extratags=extra,
            software=PLANTED,
        )
        tiff.write(pixels[:100, :100], photometric="rgb", description=f"Aperio\nlabel 100x100 {PLANTED}", metadata=None)
    return path


@pytest.mark.parametrize("result_format", ["ome-tiff", "ome-zarr"])
def test_patient_names_appear_in_no_result_response_or_log(
    start_service: Any, tmp_path: Path, result_format: str
) -> None:
    folder = tmp_path / "CaseQX7"
    folder.mkdir()
    slide_file = write_slide(folder / f"{PLANTED}.svs")
    service = start_service(tmp_path / "data", log_format="json" if result_format == "ome-tiff" else "text")
    uploaded = service.upload(slide_file)
    assert PLANTED in uploaded["name"], "only the slide itself keeps its name"
    order = {"slide": uploaded["id"], "model": "bicubic", "format": result_format, "entropy": 0}
    done = service.follow(service.submit(**order)["id"])
    assert done["state"] == "succeeded", done
    wrong = service.submit(**{**order, "target_mpp": 3})
    texts = [json.dumps(done), json.dumps(wrong), service.curl("{service}/metrics"), service.curl("{service}/v1/jobs")]
    for kind in ("report", "report.html", "tissue.geojson"):
        texts.append(service.curl(f"{{service}}/v1/jobs/{done['id']}/{kind}"))
        assert len(texts[-1]) > 100
    result = tmp_path / "result"
    service.curl("-o", str(result), f"{{service}}{done['result']['href']}")
    headers = service.curl("-sI", f"{{service}}{done['result']['href']}")
    service.stop()
    contents = [result.read_bytes(), *(text.encode() for text in [*texts, headers])]
    contents.append(Path(service.log.name).read_bytes())
    contents += [path.read_bytes() for path in (service.folder / "jobs").rglob("*") if path.is_file()]
    if result_format == "ome-zarr":
        with zipfile.ZipFile(result) as archive:
            contents += [archive.read(name) for name in archive.namelist()]
    for word in FORBIDDEN:
        for coded in (word.encode(), word.encode("utf-16-le"), word.lower().encode()):
            assert not [1 for one in contents if coded in one], word
    assert b"upscaling" in Path(service.log.name).read_bytes() or b"attempt 1" in Path(service.log.name).read_bytes()
