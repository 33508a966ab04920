"""Readiness checks of database, disk and worker.

No check waits for one of the threads that requests share: with a locked database all of them may be waiting.
"""

import asyncio

from slidelift.service.api import schemas
from slidelift.service.api.shared_call import SharedCall, in_own_thread
from slidelift.service.jobs.store import Store
from slidelift.service.settings import Settings
from slidelift.service.storage.files import Storage

ANSWER_SECONDS = 2.0
"""Time limit of each check. A load balancer asks every few seconds and gives up after a similar time."""


class Readiness:
    """Looks at what the service needs: those who ask at the same time share one look, whose thread may hang."""

    def __init__(self, settings: Settings, store: Store, storage: Storage) -> None:
        self.settings, self.store, self.storage = settings, store, storage
        self._looks = {
            "database": SharedCall(lambda: _database_and_worker(self), in_own_thread),
            "disk": SharedCall(lambda: {"disk": _disk(self)}, in_own_thread),
        }

    async def checks(self) -> dict[str, schemas.Check]:
        """What was found by name; what is not found in time is not there."""
        found = await asyncio.gather(*(self._in_time(name) for name in self._looks))
        return {name: check for checks in found for name, check in checks.items()}

    async def _in_time(self, name: str) -> dict[str, schemas.Check]:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self._looks[name].look()
        except TimeoutError:
            return {name: schemas.Check(ok=False, detail=f"no answer within {ANSWER_SECONDS:g} s")}


def _database_and_worker(context: Readiness) -> dict[str, schemas.Check]:
    database = _database(context)
    return {"database": database, "worker": _worker(context)} if database.ok else {"database": database}


def _database(context: Readiness) -> schemas.Check:
    try:
        context.store.check()
    except Exception as error:  # noqa: BLE001 - whatever keeps a store from writing is the answer
        return schemas.Check(ok=False, detail=f"it can't be written ({type(error).__name__})")
    return schemas.Check(ok=True, detail="written")


def _disk(context: Readiness) -> schemas.Check:
    free, ok = context.storage.free_bytes(), context.storage.has_reserve()
    return schemas.Check(ok=ok, detail=f"{free} bytes free" + ("" if ok else ", less than the reserve; delete results"))


def _worker(context: Readiness) -> schemas.Check:
    found = context.store.workers()
    if not found:
        return schemas.Check(ok=False, detail="none has ever been seen; start one with `slidelift worker`")
    now, least = context.store.now(), context.settings.lease_seconds
    alive = [worker for worker in found if now - worker.seen <= least]
    if not alive:
        return schemas.Check(
            ok=False, detail=f"seen {now - found[0].seen:.0f} s ago; start one with `slidelift worker`"
        )
    devices = sorted({worker.device for worker in alive if worker.device})
    word = f"on {', '.join(devices)}" if devices else f"device {context.settings.device}, no job yet"
    return schemas.Check(ok=True, detail=f"{len(alive)} alive, {word}")
