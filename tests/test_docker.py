"""The Docker images install as `make` does, copy existing files and open no unnecessary ports."""

import json
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from slidelift.service.pipeline.request import UpscaleRequest
from slidelift.service.pipeline.upscale import upscale

ROOT = Path(__file__).resolve().parent.parent
DOCKER = ROOT / "docker"
TARGETS = ("api", "worker-cpu", "worker-gpu")
COMPOSE_FILES = ("compose.yaml", "compose.gpu.yaml")

# Makes packages that are not in the api image unimportable, in child processes too.
ONLY_THE_API_IMAGE = """
import os, sys

class Absent:
    absent = set(os.environ["ABSENT"].split())
    def find_spec(self, name, path=None, target=None):
        if name in self.absent:
            raise ModuleNotFoundError(f"{name} is not in the api image", name=name)

sys.meta_path.insert(0, Absent())
"""


@dataclass
class Stage:
    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def of(self, instruction: str) -> list[str]:
        return [rest for word, rest in self.steps if word == instruction]


@cache
def stages() -> dict[str, Stage]:
    text = re.sub(r"^\s*#.*\n", "", (DOCKER / "Dockerfile").read_text("utf-8"), flags=re.MULTILINE)
    parsed: dict[str, Stage] = {}
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            parsed[name] = Stage(name, base)
        elif parsed and word:
            parsed[name].steps.append((word, rest.strip()))
    return parsed


def lineage(target: str) -> Iterator[Stage]:
    """Yield a stage and its base stages, nearest first."""
    while target in stages():
        yield stages()[target]
        target = stages()[target].base


def pip_commands() -> list[str]:
    steps = [step for stage in stages().values() for step in stage.of("RUN")]
    return [step[step.index("pip install") :] for step in steps if "pip install" in step]


def required_names(text: str) -> set[str]:
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return {canonicalize_name(Requirement(line).name) for line in lines if line}


def api_requirements() -> set[str]:
    return required_names((DOCKER / "api-requirements.txt").read_text("utf-8"))


def project_requirements() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return required_names("\n".join(project["dependencies"] + project["optional-dependencies"]["postgres"]))


def with_dependencies(names: set[str]) -> set[str]:
    """Return the distributions that pip installs for these names."""
    installed: set[str] = set()
    waiting = set(names)
    while waiting:
        name = waiting.pop()
        installed.add(name)
        needed = (Requirement(line) for line in requires(name) or ())
        dependencies = {
            canonicalize_name(one.name) for one in needed if not one.marker or one.marker.evaluate({"extra": ""})
        }
        waiting |= dependencies - installed
    return installed


def compose(name: str) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((DOCKER / name).read_text("utf-8"))
    return read


def test_all_targets_exist() -> None:
    assert set(TARGETS) <= set(stages())


def test_copied_files_exist_and_are_not_ignored() -> None:
    ignore_rules = set((ROOT / ".dockerignore").read_text("utf-8").splitlines())
    assert "*" in ignore_rules
    for stage in stages().values():
        for copied in stage.of("COPY"):
            if copied.startswith("--from="):
                assert copied.removeprefix("--from=").split()[0] in stages()
                continue
            for source in copied.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert f"!{source}" in ignore_rules, source


def test_every_install_uses_the_options_of_make() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    [installs] = set(re.findall(r"\$\(BIN\)/(pip install .*?) --editable", makefile))
    assert "--constraint constraints.txt" in installs
    assert len(pip_commands()) == 5
    for command in pip_commands():
        assert command.startswith(f"{installs} "), command


@pytest.mark.parametrize("target", TARGETS)
def test_constraints_are_copied_before_the_first_install(target: str) -> None:
    steps = [step for stage in reversed(list(lineage(f"{target}-build"))) for step in stage.steps]
    copied = next(i for i, (word, rest) in enumerate(steps) if word == "COPY" and "constraints.txt" in rest)
    assert copied < next(i for i, (_, rest) in enumerate(steps) if "pip install" in rest)


def test_the_api_image_has_no_torch_and_only_requirements_of_the_project() -> None:
    assert api_requirements() < project_requirements()
    assert "torch" not in with_dependencies(api_requirements())
    assert "--no-deps ." in stages()["api-build"].of("RUN")[-1]


@pytest.mark.parametrize("target", ["worker-cpu", "worker-gpu"])
def test_workers_install_the_whole_project(target: str) -> None:
    assert stages()[f"{target}-build"].of("RUN")[-1].endswith('--constraint constraints.txt ".[cluster,postgres]"')


@pytest.mark.parametrize("target", TARGETS)
def test_no_image_runs_as_root(target: str) -> None:
    users = [user for stage in lineage(target) for user in stage.of("USER")]
    assert users
    assert int(users[0].split(":")[0]) > 0
    assert any("/data" in stage.of("VOLUME") for stage in lineage(target))


def test_the_api_image_has_a_health_check() -> None:
    api = stages()["api"]
    assert api.of("EXPOSE") == ["8000"]
    [health] = api.of("HEALTHCHECK")
    assert "/health/live" in health
    program, _, code = json.loads(health[health.index("[") :])
    assert program == "python"
    compile(code, "<HEALTHCHECK>", "exec")
    [command] = api.of("CMD")
    assert json.loads(command) == ["slidelift", "serve", "--no-worker"]


def test_every_base_image_has_a_version() -> None:
    texts = [path.read_text("utf-8") for path in DOCKER.iterdir()]
    assert not any("latest" in text for text in texts)
    for stage in stages().values():
        assert stage.base in stages() or re.fullmatch(r"[\w./-]+:.+", stage.base), stage.base


def test_ports_are_published_on_loopback_only() -> None:
    assert "SLIDELIFT_HOST=0.0.0.0" in " ".join(stages()["api"].of("ENV"))
    ports = [
        port for name in COMPOSE_FILES for one in compose(name)["services"].values() for port in one.get("ports", ())
    ]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_compose_runs_api_and_worker() -> None:
    services = compose("compose.yaml")["services"]
    assert {service["build"]["target"] for service in services.values()} == {"api", "worker-cpu"}
    assert {tuple(service["volumes"]) for service in services.values()} == {("data:/data",)}
    assert set(compose("compose.yaml")["volumes"]) == {"data"}


@pytest.mark.parametrize("name", COMPOSE_FILES)
def test_compose_builds_targets_of_this_version(name: str) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    for service in compose(name)["services"].values():
        assert service["build"]["target"] in TARGETS
        assert service["image"] == f"slidelift-{service['build']['target']}:{version}"
        if "dockerfile" in service["build"]:
            assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).samefile(
                DOCKER / "Dockerfile"
            )


def test_the_compose_cluster_uses_the_worker_image_and_loopback() -> None:
    worker = compose("compose.yaml")["services"]["worker"]
    services = compose("compose.dask.yaml")["services"]
    address = services["worker"]["environment"]["SLIDELIFT_SCHEDULER"]
    assert services["worker"]["network_mode"] == "service:loopback"
    for name in ("dask-scheduler", "dask-worker"):
        assert services[name]["image"] == worker["image"]
        assert services[name]["volumes"] == worker["volumes"]
        assert services[name]["network_mode"] == "service:loopback"
        assert "--no-dashboard" in services[name]["command"]
    assert address in services["dask-worker"]["command"]
    assert urlsplit(address).hostname == "127.0.0.1"


@pytest.fixture
def api_image(tmp_path: Path) -> dict[str, str]:
    """An environment in which Python finds only the packages of the api image, in child processes too."""
    installed = with_dependencies(api_requirements())
    absent = {
        module
        for module, distributions in packages_distributions().items()
        if not installed & {canonicalize_name(name) for name in distributions}
    } - {"slidelift"}
    assert {"torch", "dask", "skimage"} <= absent
    (tmp_path / "sitecustomize.py").write_text(ONLY_THE_API_IMAGE)
    return {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "ABSENT": " ".join(sorted(absent))}


def run(python: str, code: str, environment: dict[str, str], *arguments: object) -> str:
    done = subprocess.run(
        [python, "-c", code, *map(str, arguments)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_api_image_can_create_the_app(python: str, api_image: dict[str, str], tmp_path: Path) -> None:
    code = (
        "import sys; from slidelift.service.app import create_app; from slidelift.service.settings import Settings;"
        "print(len(create_app(Settings(data_dir=sys.argv[1])).openapi()['paths']))"
    )
    assert int(run(python, code, api_image, tmp_path / "data")) > 5


def test_the_api_image_can_probe_every_kind_of_slide(python: str, api_image: dict[str, str], data: Path) -> None:
    slides = data / "slides"
    readers = {
        "cmu-1-small-region.svs": "openslide",
        "OS-1-detail.ome.tif": "tiffslide",
        "prostate-with-ink.jpeg": "pillow",
    }
    code = (
        "import sys; from pathlib import Path; from slidelift.service.processes.runner import probe;"
        "print(probe(Path(sys.argv[1]))['reader'])"
    )
    assert {name: run(python, code, api_image, slides / name) for name in readers} == readers


def test_the_api_image_can_show_slides_and_results(
    python: str, api_image: dict[str, str], data: Path, tmp_path: Path
) -> None:
    slide, zarr = data / "slides" / "OS-1-detail.ome.tif", tmp_path / "zarr.ome.zarr"
    tiff = tmp_path / "tiff.ome.tiff"
    for output in (tiff, zarr):
        upscale(UpscaleRequest(slide, output, model="nearest", region=(0, 0, 300, 200)))
    code = (
        "import asyncio, sys; from pathlib import Path\n"
        "from slidelift.service.pipeline.image_source import ImageSource\n"
        "from slidelift.service.processes.viewer_pool import DecoderPool\n"
        "async def look():\n"
        "    kind, path, output_format = sys.argv[1:]\n"
        "    decoders, source = DecoderPool(), ImageSource(kind, Path(path), 'image', output_format)\n"
        "    size = await decoders.size(source)\n"
        "    tile = await decoders.tile(source, 8, 0, 0, 'jpeg', None)\n"
        "    decoders.close()\n"
        "    print(*size, tile[:2] == bytes([0xff, 0xd8]))\n"
        "asyncio.run(look())"
    )
    sources = [("slide", slide, ""), ("result", tiff, "ome-tiff"), ("result", zarr, "ome-zarr")]
    shown = {str(path.name): run(python, code, api_image, kind, path, name) for kind, path, name in sources}
    assert shown == {
        "OS-1-detail.ome.tif": "1101 1101 True",
        "tiff.ome.tiff": "1200 800 True",
        "zarr.ome.zarr": "1200 800 True",
    }
