"""Atomic writing: the file at a path is always complete, whatever else writes it and however writing ends."""

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from slidelift import durable
from slidelift.durable import atomic_file, write_atomically


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "report.json"


def names(path: Path) -> list[str]:
    return sorted(one.name for one in path.parent.iterdir())


def write_and_raise(path: Path, error: type[BaseException]) -> None:
    with atomic_file(path) as file:
        file.write(b"new")
        raise error


def test_file_is_replaced(path: Path) -> None:
    path.write_bytes(b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(path) == ["report.json"]


def test_old_file_is_kept_until_the_end_of_the_block(path: Path) -> None:
    path.write_bytes(b"old")
    with atomic_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
        assert names(path) == ["report.json", "report.json.part"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_exception_leaves_the_old_file_alone(path: Path, error: type[BaseException]) -> None:
    path.write_bytes(b"old")
    with pytest.raises(error):
        write_and_raise(path, error)
    assert path.read_bytes() == b"old"
    assert names(path) == ["report.json"]


@pytest.mark.parametrize("size", [3, 10 * 2**20])
def test_full_disk_leaves_the_old_file_alone(path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, bytes(size))
    assert path.read_bytes() == b"old"
    assert names(path) == ["report.json"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_write_error_is_raised_once_and_nothing_is_left(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error comes when the buffer is written, and again when the file is closed."""
    create = durable._create

    def create_full(partial: Path, mode: int) -> int:
        os.close(create(partial, mode))
        return os.open("/dev/full", os.O_WRONLY)

    monkeypatch.setattr(durable, "_create", create_full)
    monkeypatch.setattr(durable, "_has_lock", lambda *_: True)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert names(path) == []


@pytest.mark.parametrize(
    ("umask", "mode", "expected"), [(0o022, 0o666, 0o644), (0o077, 0o666, 0o600), (0, 0o600, 0o600)]
)
def test_permissions_follow_mode_and_umask(path: Path, umask: int, mode: int, expected: int) -> None:
    partial = path.with_name("report.json.part")
    partial.write_bytes(b"of a killed process")
    partial.chmod(0o666)
    before = os.umask(umask)
    try:
        with atomic_file(path, mode=mode) as file:
            file.write(b"new")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == expected


def test_partial_file_of_a_killed_process_is_deleted(path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from slidelift.durable import atomic_file
with atomic_file(Path(sys.argv[1])) as file:
    file.write(b"half of a long file")
    file.flush()
    os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    assert names(path) == ["report.json.part"]
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(path) == ["report.json"]


def test_second_writer_neither_waits_nor_mixes_its_bytes_with_the_first(path: Path) -> None:
    with atomic_file(path) as first:
        first.write(b"first, first, first")
        first.flush()
        with atomic_file(path) as second:
            second.write(b"second")
        assert path.read_bytes() == b"second"
        first.write(b".")
    assert path.read_bytes() == b"first, first, first."
    assert names(path) == ["report.json"]


def test_failing_writer_does_not_delete_the_partial_file_of_another(path: Path) -> None:
    with atomic_file(path) as first:
        first.write(b"first")
        with pytest.raises(ValueError):
            write_and_raise(path, ValueError)
    assert path.read_bytes() == b"first"


def in_threads(work: Callable[[int], None], count: int) -> None:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_many_writers_leave_one_complete_file(path: Path) -> None:
    contents = [bytes([number]) * (10_000 + number) for number in range(8)]
    errors: list[BaseException] = []

    def write(number: int) -> None:
        try:
            for _ in range(20):
                write_atomically(path, contents[number])
                assert path.read_bytes() in contents
        except BaseException as error:  # noqa: BLE001 - asserted below
            errors.append(error)

    in_threads(write, len(contents))
    assert errors == []
    assert path.read_bytes() in contents
    assert names(path) == ["report.json"]


def test_without_replace_the_first_file_stays(path: Path) -> None:
    made: list[int] = []

    def make(number: int) -> None:
        try:
            with atomic_file(path, replace=False) as file:
                file.write(bytes([number]))
            made.append(number)
        except FileExistsError:
            pass

    in_threads(make, 8)
    assert len(made) == 1
    assert path.read_bytes() == bytes(made)
    assert names(path) == ["report.json"]


def test_file_system_without_locks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A partial file that is there may belong to a running process, and is left alone."""

    def fail(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", fail)
    with atomic_file(path) as first:
        first.write(b"first")
        write_atomically(path, b"second")
    assert path.read_bytes() == b"first"
    assert names(path) == ["report.json"]


def test_link_in_place_of_the_partial_file_is_not_followed(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"untouched")
    path.with_name("report.json.part").symlink_to(target)
    write_atomically(path, b"new")
    assert target.read_bytes() == b"untouched"
    assert not path.is_symlink()
    assert path.read_bytes() == b"new"
