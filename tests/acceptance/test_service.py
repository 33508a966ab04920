"""Complete runs over HTTP with curl, and recovery after kills."""

import hashlib
import json
import time
import zipfile
from pathlib import Path

import numpy as np
import ome_zarr.io
import ome_zarr.reader
import openslide
import psutil
import psycopg
import pytest
import tifffile
import tiffslide
import zarr

REGION = [600, 900, 1100, 700]


def download(service, job, target: Path) -> Path:
    service.curl("-o", str(target), f"{{service}}{job['result']['href']}")
    assert hashlib.sha256(target.read_bytes()).hexdigest() == job["result"]["sha256"]
    return target


def test_an_uploaded_slide_becomes_a_pyramid_that_qupath_opens(service, cmu, tmp_path, qupath_view) -> None:
    slide = service.upload(cmu)
    assert slide["sha256"] == hashlib.sha256(cmu.read_bytes()).hexdigest()
    job = service.follow(service.submit(slide=slide["id"], model="bicubic")["id"])
    assert job["state"] == "succeeded", job
    result = download(service, job, tmp_path / "result.ome.tiff")
    levels = [[8880, 11868], [4440, 5934], [2220, 2967], [1110, 1483], [555, 741], [277, 370]]
    sizes = [tuple(level) for level in levels]

    view = qupath_view(result)
    assert (view["format"], view["series"], view["rgb"], view["tile"]) == ("OME-TIFF", 0, True, [512, 512])
    assert (view["levels"], view["mpp"], view["magnification"]) == (levels, 0.12475, 80.0)

    with tifffile.TiffFile(result) as tiff:
        pages = tiff.series[0].levels
        assert [(level.shape[1], level.shape[0]) for level in pages] == sizes
        for level, points in zip(pages, view["pixels_first_middle_last"], strict=True):
            height, width = level.shape[:2]
            pixels = level.asarray()
            for (x, y), value in zip([(0, 0), (width // 2, height // 2), (width - 4, height - 4)], points, strict=True):
                assert np.abs(pixels[y, x].astype(int) - value).max() <= 2  # JPEG decoders differ in chroma
        xml = tiff.ome_metadata
    assert "computed as scan magnification times scale" in xml
    assert ">20<" in xml

    with openslide.OpenSlide(result) as slide_again:
        assert list(slide_again.level_dimensions) == sizes
        assert float(slide_again.properties["openslide.mpp-x"]) == pytest.approx(0.12475, rel=1e-6)
    with tiffslide.TiffSlide(result) as slide_again:
        assert list(slide_again.level_dimensions) == sizes
        assert slide_again.properties["tiffslide.mpp-x"] == pytest.approx(0.12475, rel=1e-6)

    with openslide.OpenSlide(cmu) as source:
        expected = np.asarray(source.read_region((0, 0), 0, source.dimensions).convert("RGB"))
    shown = tifffile.imread(result, level=2)
    assert np.abs(shown.astype(int) - expected).mean() < 5


def test_an_ome_zarr_is_one_zip_that_zarr_and_ome_zarr_open(service, cmu, tmp_path) -> None:
    slide = service.upload(cmu)
    job = service.submit(slide=slide["id"], model="bicubic", format="ome-zarr", region=REGION)
    job = service.follow(job["id"])
    assert job["state"] == "succeeded", job
    archive = download(service, job, tmp_path / "result.zip")
    with zipfile.ZipFile(archive) as file:
        assert {info.compress_type for info in file.infolist()} == {zipfile.ZIP_STORED}
        file.extractall(tmp_path)
    folder = tmp_path / "result.ome.zarr"
    array = zarr.open_array(str(folder / "0"), mode="r")
    assert array.shape == (3, 2800, 4400)
    xml = (folder / "OME" / "METADATA.ome.xml").read_text("utf-8")
    assert 'PhysicalSizeX="0.12475"' in xml
    assert "&#" not in xml
    nodes = list(ome_zarr.reader.Reader(ome_zarr.io.parse_url(str(folder)))())
    assert [tuple(level.shape) for level in nodes[0].data][:2] == [(3, 2800, 4400), (3, 1400, 2200)]
    assert nodes[0].metadata["channel_names"] == ["Red", "Green", "Blue"]


def test_command_line_and_service_write_the_same_bytes(service, slidelift, cmu, tmp_path) -> None:
    job = service.submit(slide=service.upload(cmu)["id"], model="bicubic", region=REGION)
    job = service.follow(job["id"])
    output = tmp_path / "again.ome.tiff"
    assert slidelift("upscale", cmu, output, "--model", "bicubic", "--region", ",".join(map(str, REGION))).code == 0
    assert hashlib.sha256(output.read_bytes()).hexdigest() == job["result"]["sha256"]


def test_results_support_ranges_and_head(service, cmu) -> None:
    job = service.submit(slide=service.upload(cmu)["id"], model="nearest", region=[0, 0, 300, 300])
    job = service.follow(job["id"])
    address = f"{{service}}{job['result']['href']}"
    head = service.curl("-I", address).lower()
    assert f"content-length: {job['result']['bytes']}" in head
    assert "accept-ranges: bytes" in head
    part = service.curl("-r", "0-1", "-o", "-", "-w", "%{http_code}", address)
    assert part == "II206"


def kill_when(service, job, process: str, tiles: int) -> None:
    service.follow(job["id"], lambda job: job["progress"]["tiles_done"] >= tiles)
    (victim,) = service.descendants(process)
    children = victim.children(recursive=True)
    victim.kill()
    psutil.wait_procs(children, timeout=10)
    assert not any(child.is_running() for child in children), "a decoder outlived its worker"


def test_kill_9_of_the_worker_costs_at_most_one_stripe_and_changes_no_byte(start_service, cmu, tmp_path) -> None:
    service = start_service()
    slide = service.upload(cmu)
    request = {"slide": slide["id"], "model": "compact-x4-fast", "region": [700, 700, 500, 2260]}
    undisturbed = service.follow(service.submit(**request)["id"])
    assert undisturbed["state"] == "succeeded", undisturbed
    job = service.submit(**request)
    kill_when(service, job, "worker", 17)  # a stripe has eight rows of two tiles
    job = service.follow(job["id"])
    assert job["state"] == "succeeded", job
    assert job["attempt"] == 2
    assert job["progress"]["resumed_tiles"] == 16
    assert job["result"]["sha256"] == undisturbed["result"]["sha256"]


def test_kill_9_of_the_decoding_child_causes_a_retry(start_service, cmu) -> None:
    service = start_service()
    job = service.submit(slide=service.upload(cmu)["id"], model="bicubic")
    kill_when(service, job, "slidelift.service.processes.child", 10)
    job = service.follow(job["id"])
    assert job["state"] == "succeeded", job
    assert job["attempt"] == 2


def test_a_cancelled_job_stops_within_seconds_and_leaves_no_files(service, cmu) -> None:
    job = service.submit(slide=service.upload(cmu)["id"], model="compact-x4")
    service.follow(job["id"], lambda job: job["progress"]["tiles_done"] > 0)
    service.curl("-X", "DELETE", f"{{service}}/v1/jobs/{job['id']}")
    assert service.follow(job["id"], timeout=15)["state"] == "cancelled"
    time.sleep(0.5)
    assert [path for path in (service.folder / "jobs" / job["id"]).rglob("*") if path.is_file()] == []


def test_a_job_continues_after_a_restart_of_the_service(start_service, cmu) -> None:
    service = start_service()
    job = service.submit(slide=service.upload(cmu)["id"], model="bicubic")
    service.follow(job["id"], lambda job: job["progress"]["tiles_done"] > 5)
    service.stop()
    again = start_service(service.folder)
    assert again.follow(job["id"])["state"] == "succeeded"


def test_a_terminated_service_exits_with_0_and_leaves_no_process(start_service, cmu) -> None:
    service = start_service()
    job = service.submit(slide=service.upload(cmu)["id"], model="compact-x4")
    service.follow(job["id"], lambda job: job["state"] == "running")
    family = psutil.Process(service.process.pid).children(recursive=True)
    service.process.terminate()
    assert service.process.wait(60) == 0
    assert [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []


def test_kill_9_of_the_api_leaves_no_process_behind(start_service, cmu) -> None:
    service = start_service()
    job = service.submit(slide=service.upload(cmu)["id"], model="compact-x4")
    service.follow(job["id"], lambda job: job["state"] == "running")
    family = psutil.Process(service.process.pid).children(recursive=True)
    assert len(family) >= 2
    service.process.kill()
    service.process.wait()
    _, alive = psutil.wait_procs(family, timeout=40)
    assert alive == []


def test_missing_and_implausible_pixel_sizes_are_422_and_name_the_option(service, data) -> None:
    for name, code in (
        ("prostate-with-ink.jpeg", "slide.mpp-missing"),
        ("cmu-1-wrong-mpp.tiff", "slide.mpp-implausible"),
    ):
        slide = service.upload(data / "slides" / name)
        refused = service.submit(slide=slide["id"], model="bicubic", region=[0, 0, 256, 256])
        assert (refused["status"], refused["code"]) == (422, code)
        assert "mpp" in refused["detail"]
        accepted = service.submit(slide=slide["id"], model="bicubic", region=[0, 0, 256, 256], mpp=0.5)
        job = service.follow(accepted["id"])
        assert job["state"] == "succeeded", job


def test_damaged_slides_are_refused_at_upload(service, data) -> None:
    before = json.loads(service.curl("{service}/v1/slides"))["slides"]
    for name in ("cmu-truncated-46pct.svs", "text.svs", "unreadable.svs", "unopenable.tiff"):
        refused = service.upload(data / "damaged" / name)
        assert refused["code"] == "slide.unreadable", refused
        assert name in refused["detail"]
    assert json.loads(service.curl("{service}/v1/slides"))["slides"] == before


def test_an_undecodable_tile_is_handled_by_the_requests_policy(service, data) -> None:
    slide = service.upload(data / "damaged" / "cmu-bitflip-tiles.svs")
    request = {"slide": slide["id"], "model": "bicubic", "region": [768, 1024, 512, 512]}
    failed = service.follow(service.submit(**request)["id"])
    assert (failed["state"], failed["error"]["code"]) == ("failed", "slide.tile-unreadable")
    assert "x " in failed["error"]["detail"]
    marked = service.follow(service.submit(**request, on_bad_tile="mark")["id"])
    assert marked["state"] == "succeeded", marked
    report = json.loads(service.curl(f"{{service}}/v1/jobs/{marked['id']}/report"))
    assert len(report["tiles"]["bad"]) == 4
    assert all(bad["cause"] and bad["remedy"] for bad in report["tiles"]["bad"])


def test_several_apis_and_workers_share_one_postgres_and_run_each_job_once(start_service, cmu, postgres) -> None:
    """Two services with a worker each share the jobs in PostgreSQL and the files in one folder."""
    with psycopg.connect(postgres, autocommit=True) as db:
        db.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    first = start_service(None, database_url=postgres)
    second = start_service(first.folder, database_url=postgres)
    slide = first.upload(cmu)
    requests = [(service, [200 * n, 300, 700, 600]) for n in range(3) for service in (first, second)]
    jobs = [service.submit(slide=slide["id"], model="bicubic", region=region)["id"] for service, region in requests]
    ended = [other.follow(job) for other, job in zip((second, first) * 3, jobs, strict=True)]
    assert [job["state"] for job in ended] == ["succeeded"] * 6
    assert [job["attempt"] for job in ended] == [1] * 6
    hashes = [job["result"]["sha256"] for job in ended]
    assert hashes[::2] == hashes[1::2]
    assert len(set(hashes)) == 3
    assert not (first.folder / "slidelift.sqlite3").exists()
    with psycopg.connect(postgres) as db:
        (workers,) = db.execute("SELECT count(*) FROM workers").fetchone()
    assert workers == 2
