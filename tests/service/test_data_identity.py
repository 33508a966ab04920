"""A data folder and a database that do not belong together are refused, and no files are lost."""

import hashlib
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from slidelift.service import worker
from slidelift.service.app import create_app
from slidelift.service.cli import main
from slidelift.service.errors import ServiceError
from slidelift.service.jobs.job import Job, JobState
from slidelift.service.settings import Settings
from slidelift.service.storage.retention import delete_expired
from slidelift.service.storage.retention_clock import RetentionClock

Call = Callable[..., httpx.Response]


def contents(folder: Path) -> dict[str, str]:
    """Hashes of all files of slides and jobs."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] in ("slides", "jobs") and path.name != ".lock"
    }


@pytest.fixture
def used(app: FastAPI, call: Call, settings: Settings, slide_id: str) -> dict[str, str]:
    """Contents of a folder with one slide and one job."""
    job = call("POST", "/v1/jobs", json={"slide": slide_id}).json()["id"]
    attempt = settings.data_dir / "jobs" / job / "attempt-1"
    attempt.mkdir(parents=True)
    (attempt / "result.ome.tiff").write_bytes(b"somebody's tissue")
    app.state.context.store.close()
    return contents(settings.data_dir)


def empty_database(settings: Settings) -> None:
    for path in settings.data_dir.glob("slidelift.sqlite3*"):
        path.unlink()


def refused(start: Callable[[], Any]) -> str:
    with pytest.raises(ServiceError) as error:
        start()
    assert error.value.problem.code == "data.identity"
    return error.value.problem.detail


@pytest.mark.parametrize("identity_kept", [True, False])
def test_api_and_worker_refuse_a_folder_whose_database_is_missing(
    settings: Settings, used: dict[str, str], identity_kept: bool
) -> None:
    empty_database(settings)
    if not identity_kept:
        (settings.data_dir / "identity").unlink()
    for start in (lambda: create_app(settings), lambda: worker.work(settings, threading.Event())):
        detail = refused(start)
        assert "slidelift adopt" in detail
        assert "SLIDELIFT_DATABASE_URL" in detail
    assert contents(settings.data_dir) == used


def test_new_database_is_refused_for_an_empty_folder_with_an_identity(settings: Settings) -> None:
    """For example, a worker was started without SLIDELIFT_DATABASE_URL before the first upload."""
    create_app(settings).state.context.store.close()
    empty_database(settings)
    stop = threading.Event()
    stop.set()
    assert "this one is new" in refused(lambda: worker.work(settings, stop))
    assert main(["adopt", "--data-dir", str(settings.data_dir)]) == 0
    create_app(settings).state.context.store.close()


def test_folder_of_another_database_is_refused(settings: Settings, used: dict[str, str], tmp_path: Path) -> None:
    other = settings.model_copy(update={"data_dir": tmp_path / "other"})
    create_app(other).state.context.store.close()
    for path in settings.data_dir.glob("slidelift.sqlite3*"):
        path.unlink()
    shutil.copy(other.database, settings.database)
    assert "another database" in refused(lambda: create_app(settings))
    assert contents(settings.data_dir) == used


def test_database_is_refused_if_its_disk_is_not_mounted(settings: Settings, used: dict[str, str]) -> None:
    for name in ("slides", "jobs"):
        shutil.rmtree(settings.data_dir / name)
    (settings.data_dir / "identity").unlink()
    assert "the folder holds none" in refused(lambda: create_app(settings))


def test_files_of_an_adopted_folder_are_set_aside_and_deleted_later(
    settings: Settings, used: dict[str, str], slide_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    empty_database(settings)
    assert main(["adopt", "--data-dir", str(settings.data_dir)]) == 0
    assert "2 of 2 slides and jobs in the folder are not in the database" in capsys.readouterr().err
    context = create_app(settings).state.context
    passed = 0.0
    clock = RetentionClock(context.store, lambda: passed)
    delete_expired(settings, context.store, context.storage, clock)
    assert contents(settings.data_dir) == {}
    aside = settings.data_dir / "set-aside"
    (slide,) = aside.glob(f"*-slide-{slide_id}")
    assert {f"{path.name}" for path in aside.rglob("*") if path.is_file()} == {"slide.svs", "result.ome.tiff"}
    now = context.store.now()
    context.store._database.now = lambda: now + passed
    passed = settings.keep_set_aside_seconds - 100
    delete_expired(settings, context.store, context.storage, clock)
    assert slide.is_dir()
    passed += 200
    delete_expired(settings, context.store, context.storage, clock)
    assert list(aside.iterdir()) == []
    context.store.close()


def test_results_younger_than_a_restored_database_are_set_aside(
    app: FastAPI, call: Call, settings: Settings, slide_id: str
) -> None:
    context = app.state.context
    job = call("POST", "/v1/jobs", json={"slide": slide_id}).json()["id"]
    call("DELETE", f"/v1/jobs/{job}")
    younger = settings.data_dir / "jobs" / job / "attempt-2"
    younger.mkdir(parents=True)
    (younger / "result.ome.tiff").write_bytes(b"of a retry that the older database does not know")
    delete_expired(settings, context.store, context.storage, RetentionClock(context.store))
    (kept,) = (settings.data_dir / "set-aside").rglob("result.ome.tiff")
    assert kept.read_bytes().startswith(b"of a retry")


def test_retry_that_begins_during_clean_up_is_not_set_aside(
    app: FastAPI, call: Call, settings: Settings, slide_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = app.state.context
    store, storage = context.store, context.storage
    job = call("POST", "/v1/jobs", json={"slide": slide_id}).json()["id"]
    call("DELETE", f"/v1/jobs/{job}")
    (settings.data_dir / "jobs" / job).mkdir()
    find = store.job

    def find_and_retry(job_id: str) -> Job | None:
        found: Job | None = find(job_id)
        if found is not None and found.state is JobState.CANCELLED:
            store.retry(job_id)
            claimed = store.claim("w")
            storage.begin_attempt(claimed).write_bytes(b"pixels")
        return found

    monkeypatch.setattr(store, "job", find_and_retry)
    delete_expired(settings, store, storage, RetentionClock(store))
    (kept,) = settings.data_dir.rglob("result.ome.tiff")
    assert kept == settings.data_dir / "jobs" / job / "attempt-1" / "result.ome.tiff"


def test_slide_that_is_being_deleted_is_not_set_aside(
    app: FastAPI, call: Call, settings: Settings, slide_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = app.state.context
    clock, forget = RetentionClock(context.store), context.store.remove_slide

    def sweep_after(one: str) -> None:
        forget(one)
        delete_expired(settings, context.store, context.storage, clock)

    monkeypatch.setattr(context.store, "remove_slide", sweep_after)
    assert call("DELETE", f"/v1/slides/{slide_id}").status_code == 204
    assert [path.name for path in settings.data_dir.rglob("slide.svs")] == []


def test_concurrent_starts_on_a_new_folder_agree_on_the_identity(settings: Settings) -> None:
    found: list[Any] = []

    def start() -> None:
        context = create_app(settings).state.context
        found.append((context.storage.identity(), context.store.identity()))
        context.store.close()

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(set(found[0])) == 1
