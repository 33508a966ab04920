"""The arrows between the packages, held by reading imports and by starting fresh processes."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FORBIDDEN = {
    "wsi": {"models", "service", "torch", "fastapi", "starlette", "uvicorn", "sqlite3"},
    "models": {"wsi", "service", "fastapi", "starlette", "uvicorn", "sqlite3"},
    "service/pipeline": {"fastapi", "starlette", "uvicorn", "sqlite3", "torch"},
    "service/jobs": {"fastapi", "starlette", "wsi", "torch"},
}


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {package_of(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(package_of(node.module))
    return names


def package_of(module: str) -> str:
    """The first part of a name; of slidelift's own modules, which of its packages."""
    return module.removeprefix("slidelift.").split(".")[0]


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_arrows_run_one_way(folder: str) -> None:
    wrong = {
        str(path.relative_to(ROOT)): sorted(imported(path) & FORBIDDEN[folder])
        for path in (ROOT / folder).rglob("*.py")
        if imported(path) & FORBIDDEN[folder]
    }
    assert wrong == {}


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("slidelift.service.app", "torch openslide tiffslide tifffile imagecodecs zarr dask PIL"),
        ("slidelift.service.processes.runner", "torch openslide tiffslide tifffile imagecodecs zarr dask PIL numpy"),
        ("slidelift.service.worker", "torch openslide tiffslide tifffile imagecodecs zarr dask PIL"),
        ("slidelift.service.cli", "torch openslide tifffile fastapi httpx"),
        (
            "slidelift.service.client",
            "torch openslide tiffslide tifffile imagecodecs numpy fastapi starlette pydantic sqlite3",
        ),
        ("slidelift.service.processes.child", "torch tiffslide zarr scipy dask"),
        (
            "slidelift.service.pipeline.upscale",
            "torch tiffslide zarr ome_types distributed scipy.stats skimage.metrics",
        ),
        ("slidelift.wsi.verify", "torch fastapi"),
        ("slidelift.wsi.readers.open_slide", "torch fastapi"),
        ("slidelift.models.zoo.catalog", "torch numpy"),
    ],
)
def test_importing_stays_light(module: str, unwanted: str) -> None:
    code = f"import sys, {module}; print(*sorted(set({unwanted.split()}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_no_file_of_tests_makes_a_package() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []
