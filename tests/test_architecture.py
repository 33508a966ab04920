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
    "service/jobs": {"fastapi", "starlette", "torch"},
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


ORDER = [
    "errors settings logs",
    "auth pipeline",
    "jobs processes client",
    "storage",
    "uploads attempts",
    "api worker",
    "app",
    "commands",
    "cli tools",
]
"""The packages and modules of `service`: each may import those of the lines above it."""


def modules() -> dict[str, Path]:
    """Every module of slidelift by its name."""
    found = {}
    for folder in ("slidelift", "wsi", "models", "service"):
        for path in (ROOT / folder).glob("*.py" if folder == "slidelift" else "**/*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts if folder == "slidelift" else ("slidelift", *parts))
            found[name.removesuffix(".__init__")] = path
    return found


def import_graph() -> dict[str, set[str]]:
    """The modules that each module imports, wherever the import stands: in functions and for type checking too."""
    known = modules()
    graph: dict[str, set[str]] = {name: set() for name in known}
    for name, path in known.items():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                graph[name] |= {alias.name for alias in node.names if alias.name in known}
            elif isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    member = f"{node.module}.{alias.name}"
                    graph[name] |= {member if member in known else node.module} & set(known)
    return {name: targets - {name} for name, targets in graph.items()}


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = import_graph()
    assert len(graph) > 200
    while leaves := {name for name, targets in graph.items() if not targets & graph.keys()}:
        graph = {name: targets for name, targets in graph.items() if name not in leaves}
    assert graph == {}


def test_packages_of_the_service_import_only_those_below_them() -> None:
    rank = {name: number for number, line in enumerate(ORDER) for name in line.split()}

    def part(module: str) -> str | None:
        names = module.split(".")
        return names[2] if names[1:2] == ["service"] and len(names) > 2 else None

    wrong = {
        (module, target)
        for module, targets in import_graph().items()
        for target in targets
        if (above := part(module)) and (below := part(target)) and above != below and rank[below] >= rank[above]
    }
    assert wrong == set()


def test_modules_of_the_service_lie_in_its_packages() -> None:
    assert {path.stem for path in (ROOT / "service").glob("*.py")} == {
        "__init__", "app", "cli", "errors", "logs", "settings", "worker",
    }  # fmt: skip


def test_no_file_of_tests_makes_a_package() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []
