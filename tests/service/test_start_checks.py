"""Problems of the machine or data folder are reported at the start of the service."""

import os
import resource
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI

from slidelift.service.errors import ServiceError
from slidelift.service.processes import child
from slidelift.service.settings import Settings
from slidelift.service.storage import start_checks
from slidelift.service.storage.start_checks import keep_private, require_usable
from slidelift.service.uploads import unpack

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def wide(folder: Path) -> Settings:
    """A data folder and database that other users may read."""
    settings = Settings(data_dir=folder / "data", disk_reserve_bytes=0)
    settings.data_dir.mkdir(mode=0o755)
    settings.data_dir.chmod(0o777)
    for suffix in ("", "-wal", "-shm"):
        file = settings.database.with_name(settings.database.name + suffix)
        file.touch()
        file.chmod(0o666)
    return settings


def test_folder_and_database_are_made_private(tmp_path: Path) -> None:
    settings = wide(tmp_path)
    require_usable(settings)
    assert mode(settings.data_dir) == 0o700
    assert [mode(path) for path in settings.data_dir.glob("*sqlite3*")] == [0o600] * 3


def test_application_makes_its_files_private(open_app: Callable[..., FastAPI], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(0o755)
    open_app()
    assert mode(tmp_path / "data") == 0o700
    found = list((tmp_path / "data").glob("*sqlite3*"))
    assert found
    assert {mode(path) for path in found} == {0o600}


def test_private_files_keep_their_permissions(tmp_path: Path) -> None:
    settings = wide(tmp_path)
    settings.data_dir.chmod(0o500)
    keep_private(settings)
    assert mode(settings.data_dir) == 0o500


def serve(settings: Settings, *more: str, limit: str = "true") -> "subprocess.CompletedProcess[str]":
    """Run the real service, which exits if it refuses to start."""
    inner = f"{sys.executable} -m slidelift serve --port 0 --data-dir {settings.data_dir} {' '.join(more)}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = ["sh", "-c", f"{limit} && exec timeout 60 {inner}"]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=90)


@pytest.mark.parametrize(
    ("limit", "word"),
    [("ulimit -v 3000000", "memory"), ("ulimit -n 256", "open files"), ("ulimit -f 1000", "size of a file")],
)
def test_low_limit_is_reported_once_at_the_start(tmp_path: Path, limit: str, word: str) -> None:
    found = serve(Settings(data_dir=tmp_path / "data"), limit=limit)
    assert found.returncode == 2, found.stderr
    lines = [line for line in found.stderr.splitlines() if word in line]
    assert len(lines) == 1, found.stderr
    assert limit.rpartition(" ")[0] in lines[0]
    assert "raise it" in lines[0]
    assert "Traceback" not in found.stderr


def test_low_limit_is_reported_by_a_worker(tmp_path: Path) -> None:
    inner = f"{sys.executable} -m slidelift worker --data-dir {tmp_path}/data"
    command = ["sh", "-c", f"ulimit -n 256 && exec {inner}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert (found.returncode, "open files" in found.stderr) == (2, True)


def test_slides_on_another_file_system_are_refused_at_the_start(tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no other file system")
    elsewhere = other / f"slidelift-test-{os.getpid()}"
    elsewhere.mkdir()
    settings = Settings(data_dir=tmp_path / "data")
    settings.data_dir.mkdir()
    (settings.data_dir / "slides").symlink_to(elsewhere)
    try:
        found = serve(settings)
        assert found.returncode == 2, found.stderr
        assert f"{settings.data_dir}/slides cannot receive files moved from uploads" in found.stderr
        assert "one file system" in found.stderr
        assert list(elsewhere.iterdir()) == []
        assert list((settings.data_dir / "uploads").iterdir()) == []
    finally:
        elsewhere.rmdir()


@pytest.mark.parametrize("call", ["flock", "hardlink_to", "rename"])
def test_file_system_without_locks_or_links_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(start_checks.fcntl if call == "flock" else Path, call, refuse)
    with pytest.raises(ServiceError, match="Operation not supported") as error:
        require_usable(Settings(data_dir=tmp_path / "data"))
    assert error.value.problem.code == "service.unsuited"
    assert [path for path in (tmp_path / "data").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("call", ["touch", "rename"])
def test_service_starts_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, call, refuse)
    require_usable(Settings(data_dir=tmp_path / "data"))
    assert [path for path in (tmp_path / "data").rglob("*") if path.is_file()] == []


def test_unusable_data_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(ServiceError, match="be written to"):
        require_usable(Settings(data_dir=tmp_path / "data"))


def test_required_limits_match_those_of_child_processes() -> None:
    needs = {limit.number: limit.minimum for limit in start_checks._limits(Settings(max_upload_bytes=2**30))}
    assert needs[resource.RLIMIT_AS] == max(child._PROBE_MEMORY, unpack.MEMORY_BYTES)
    assert needs[resource.RLIMIT_NOFILE] == child._PROBE_FILES
    assert needs[resource.RLIMIT_CPU] >= unpack.CPU_SECONDS + 5


def test_real_service_makes_an_open_folder_private(tmp_path: Path) -> None:
    settings = wide(tmp_path)
    for path in settings.data_dir.glob("*sqlite3*"):
        path.unlink()
    command = [sys.executable, "-m", "slidelift", "serve", "--no-worker", "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [*command, "--data-dir", str(settings.data_dir)], env=environment, stderr=subprocess.DEVNULL
    ) as process:
        wal = settings.database.with_name(settings.database.name + "-wal")
        end = time.monotonic() + 30
        while not wal.exists() and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(0.5)
        modes = {path.name: mode(path) for path in settings.data_dir.glob("*sqlite3*")}
        process.terminate()
        process.wait(20)
    assert set(modes.values()) == {0o600}
    assert len(modes) == 3
    assert mode(settings.data_dir) == 0o700
