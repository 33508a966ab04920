"""Schemas of the health checks."""

from pydantic import BaseModel


class Check(BaseModel):
    """The result of one readiness check."""

    ok: bool
    detail: str


class Readiness(BaseModel):
    """Every readiness check passed."""

    status: str = "ready"
    checks: dict[str, Check]


class Liveness(BaseModel):
    """The process responds."""

    status: str = "live"
