"""A client generated from the OpenAPI document by openapi-python-client uploads a slide and downloads its result."""

import hashlib
import importlib
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tifffile

BINARY_TYPES = [
    "application/offset+octet-stream",
    "application/xml",
    "application/zip",
    "image/jpeg",
    "image/png",
    "image/tiff",
]
CONFIGURATION = {
    "package_name_override": "generated_client",
    "post_hooks": [],
    "content_type_overrides": dict.fromkeys(BINARY_TYPES, "application/octet-stream"),
}

Generated = Callable[[str], ModuleType]


@pytest.fixture(scope="module")
def generated(service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Generated]:
    """Import modules of a client that was generated from the document of the running service."""
    folder = tmp_path_factory.mktemp("generated")
    (folder / "configuration.json").write_text(json.dumps(CONFIGURATION))
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none", "--fail-on-warning"]
    options = ["--url", f"{service.address}/openapi.json", "--config", folder / "configuration.json"]
    target = folder / "generated_client"
    done = subprocess.run(
        [*command, *options, "--output-path", target], capture_output=True, text=True, check=False, cwd=folder
    )
    assert done.returncode == 0, done.stdout + done.stderr
    sys.path.insert(0, str(folder))
    try:
        yield lambda name: importlib.import_module(f"generated_client.{name}")
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name.partition(".")[0] == "generated_client"]:
            del sys.modules[name]


@pytest.fixture
def slide(tmp_path: Path, write_pyramid: Callable[..., Path], formula_pixels: Callable[..., np.ndarray]) -> Path:
    from slidelift.wsi.geometry import Region

    return write_pyramid(tmp_path / "slide.tiff", formula_pixels(Region(0, 0, 700, 500)))


@pytest.fixture
def client(service, generated: Generated) -> Iterator[Any]:
    with generated("client").Client(base_url=service.address, raise_on_unexpected_status=True) as opened:
        yield opened


def test_every_operation_of_the_document_is_generated(service, generated: Generated) -> None:
    document = json.loads(service.curl("{service}/openapi.json"))
    operations = [(one["tags"][0], one["operationId"]) for path in document["paths"].values() for one in path.values()]
    for tag, operation in operations:
        assert callable(generated(f"api.{tag}.{operation}").sync_detailed), operation


def test_a_generated_client_uploads_a_slide_runs_a_job_and_downloads_the_result(
    generated: Generated, client: Any, slide: Path
) -> None:
    models, types = generated("models"), generated("types")

    body = types.File(payload=io.BytesIO(slide.read_bytes()))
    uploaded = generated("api.slides.upload_slide").sync(slide.name, client=client, body=body)
    assert isinstance(uploaded, models.Slide)
    assert (uploaded.width, uploaded.height, uploaded.mpp) == (700, 500, [0.5, 0.5])
    assert uploaded.sha256 == hashlib.sha256(slide.read_bytes()).hexdigest()

    wanted = models.JobRequest(slide=uploaded.id, model=models.JobRequestModel.BICUBIC)
    job = generated("api.jobs.create_job").sync(client=client, body=wanted)
    deadline = time.monotonic() + 120
    while job.state in (models.JobState.QUEUED, models.JobState.RUNNING):
        assert time.monotonic() < deadline, job
        time.sleep(0.2)
        job = generated("api.jobs.get_job").sync(job.id, client=client)
    assert isinstance(job, models.Job)
    assert job.state is models.JobState.SUCCEEDED, job
    assert isinstance(job.result, models.JobResult)

    result = generated("api.jobs.get_result").sync(job.id, client=client).payload.read()
    assert hashlib.sha256(result).hexdigest() == job.result.sha256
    with tifffile.TiffFile(io.BytesIO(result)) as tiff:
        assert tiff.series[0].levels[0].shape == (2000, 2800, 3)
    report = generated("api.jobs.get_report").sync(job.id, client=client).to_dict()
    assert report["model"]["name"] == "bicubic"


def test_a_generated_client_reads_problems(generated: Generated, client: Any) -> None:
    problem = generated("api.jobs.get_job").sync("0" * 32, client=client)
    assert isinstance(problem, generated("models").Problem)
    assert (problem.status, problem.code) == (404, "job.unknown")
