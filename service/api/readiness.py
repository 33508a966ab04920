"""Readiness checks of database, disk and worker.

The checks run in threads of their own: all threads of the requests may be waiting for a locked database.
"""

import asyncio

from slidelift.service.api import schemas
from slidelift.service.api.shared_call import SharedCall, run_in_own_thread
from slidelift.service.jobs.store import Store
from slidelift.service.settings import Settings
from slidelift.service.storage.files import Storage

ANSWER_SECONDS = 2.0
"""Time limit of each check. Load balancers check every few seconds, with a similar time limit."""


class Readiness:
    """Runs the checks. Concurrent requests share one run, whose thread may hang."""

    def __init__(self, settings: Settings, store: Store, storage: Storage) -> None:
        self.settings, self.store, self.storage = settings, store, storage
        self._checks = {
            "database": SharedCall(lambda: _database_and_worker(self), run_in_own_thread),
            "disk": SharedCall(lambda: {"disk": _disk(self)}, run_in_own_thread),
        }

    async def checks(self) -> dict[str, schemas.Check]:
        """Return the result of each check by name; a check that exceeds its time limit has failed."""
        results = await asyncio.gather(*(self._run(name) for name in self._checks))
        return {name: check for checks in results for name, check in checks.items()}

    async def _run(self, name: str) -> dict[str, schemas.Check]:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self._checks[name]()
        except TimeoutError:
            return {name: schemas.Check(ok=False, detail=f"no answer within {ANSWER_SECONDS:g} s")}


def _database_and_worker(readiness: Readiness) -> dict[str, schemas.Check]:
    database = _database(readiness)
    return {"database": database, "worker": _worker(readiness)} if database.ok else {"database": database}


def _database(readiness: Readiness) -> schemas.Check:
    try:
        readiness.store.check()
    except Exception as error:  # noqa: BLE001 - any failure is the result of the check
        return schemas.Check(ok=False, detail=f"can't be written ({type(error).__name__})")
    return schemas.Check(ok=True, detail="writable")


def _disk(readiness: Readiness) -> schemas.Check:
    free, ok = readiness.storage.free_bytes(), readiness.storage.has_reserve()
    return schemas.Check(ok=ok, detail=f"{free} bytes free" + ("" if ok else ", less than the reserve; delete results"))


def _worker(readiness: Readiness) -> schemas.Check:
    workers = readiness.store.workers()
    if not workers:
        return schemas.Check(ok=False, detail="no worker has ever run; start one with `slidelift worker`")
    now, lease = readiness.store.now(), readiness.settings.lease_seconds
    alive = [worker for worker in workers if now - worker.seen <= lease]
    if not alive:
        return schemas.Check(
            ok=False, detail=f"last seen {now - workers[0].seen:.0f} s ago; start one with `slidelift worker`"
        )
    devices = sorted({worker.device for worker in alive if worker.device})
    where = f"on {', '.join(devices)}" if devices else f"device {readiness.settings.device}, no job yet"
    return schemas.Check(ok=True, detail=f"{len(alive)} alive, {where}")
