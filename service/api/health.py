"""Health: whether the process answers, and whether it can take work."""

from fastapi import APIRouter, Request, Response

from service.api.context import Context, InContext
from service.api.problems import documented, response
from service.api.reading import readable
from service.api.schemas import CheckOut, LiveOut, ReadyOut
from service.codes import problem

router = APIRouter(prefix="/health", tags=["health"], responses=documented())


@readable(router, "/live", summary="Is the process there?")
def live() -> LiveOut:
    """Answer; nothing is looked at."""
    return LiveOut()


@readable(router, "/ready", response_model=ReadyOut, summary="Can the service take work?")
def ready(request: Request, context: InContext) -> Response:
    """Look at database, disk, worker and its device; 503 names what is missing."""
    checks = {"database": _database(context), "disk": _disk(context)}
    checks |= {"worker": _worker(context)} if checks["database"].ok else {}
    missing = [f"{name}: {check.detail}" for name, check in checks.items() if not check.ok]
    if missing:
        found = problem("service.not-ready", "; ".join(missing))
        shown = {name: check.model_dump() for name, check in checks.items()}
        return response(found, request, {"Retry-After": "5"}, checks=shown)
    return Response(ReadyOut(checks=checks).model_dump_json(), media_type="application/json")


def _database(context: Context) -> CheckOut:
    try:
        context.store.check()
    except Exception as error:  # noqa: BLE001 - whatever keeps a store from writing is the answer
        return CheckOut(ok=False, detail=f"it can't be written ({type(error).__name__})")
    return CheckOut(ok=True, detail="written")


def _disk(context: Context) -> CheckOut:
    free, ok = context.storage.free_bytes(), context.storage.has_reserve()
    return CheckOut(ok=ok, detail=f"{free} bytes free" + ("" if ok else ", less than the reserve; delete results"))


def _worker(context: Context) -> CheckOut:
    found = context.store.workers()
    if not found:
        return CheckOut(ok=False, detail="none has ever been seen; start one with `slidelift worker`")
    now, least = context.store.now(), context.settings.lease_seconds
    alive = [worker for worker in found if now - worker.seen <= least]
    if not alive:
        return CheckOut(ok=False, detail=f"seen {now - found[0].seen:.0f} s ago; start one with `slidelift worker`")
    devices = sorted({worker.device for worker in alive if worker.device})
    word = f"on {', '.join(devices)}" if devices else f"device {context.settings.device}, no job yet"
    return CheckOut(ok=True, detail=f"{len(alive)} alive, {word}")
