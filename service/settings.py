"""What the service can be told: one frozen object, made once at the edge and handed down."""

import json
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Settings of the API and the worker; each is read from ``SLIDELIFT_<NAME>`` or passed by name."""

    model_config = SettingsConfigDict(env_prefix="SLIDELIFT_", env_ignore_empty=True, frozen=True, extra="forbid")

    data_dir: Path = Path("slidelift-data")
    """Slides, results and the database. Beside where the service was started, so that it is seen; local disk, since
    SQLite's write-ahead log does not work over a network file system."""

    host: str = "127.0.0.1"
    """This machine only: slides are patient data and the service has no log-in of its own."""

    port: int = Field(default=8000, ge=0, le=65535)
    """What uvicorn's users expect; 0 takes a free one."""

    max_upload_bytes: int = Field(default=32 * 2**30, gt=0)
    """Larger than any compressed slide of a scanner today; what is refused here is refused before it is read."""

    disk_reserve_bytes: int = Field(default=2**30, ge=0)
    """Room that uploads leave free, so that the database can still write down that the disk was full."""

    upload_expiry_seconds: float = Field(default=86400, gt=0)
    """A day: an upload that broke off in the evening can be continued in the morning; then its room is needed."""

    upload_roots: tuple[Path, ...] = ()
    """Folders that ``file://`` addresses may name; none, since what lies on the server is not every client's to read.
    In the environment a JSON list."""

    upload_https: bool = False
    """Fetch from public ``https://`` addresses. Off: a service in a hospital's network should not call out unasked."""

    upload_s3: bool = False
    """Fetch from ``s3://`` with the service's own credentials, which may open more than its clients should see."""

    lease_seconds: float = Field(default=15, gt=0)
    """How long a job stays a silent worker's: several heartbeats, and short enough to wait for after a crash."""

    heartbeat_seconds: float = Field(default=2, gt=0)
    """How often a worker says that it lives and hears of cancellations; a beat costs one commit of 0.3 ms."""

    poll_seconds: float = Field(default=1, gt=0)
    """How often an idle worker looks for a job: the longest that a job waits for nothing."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """The GPU if the worker has one."""

    scheduler: str | None = None
    """Address of a Dask scheduler whose workers make the stripes of every job; none: the worker makes them."""

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        return path.expanduser().absolute()

    @field_validator("upload_roots")
    @classmethod
    def _absolute_roots(cls, roots: tuple[Path, ...]) -> tuple[Path, ...]:
        return tuple(root.expanduser().absolute() for root in roots)

    def as_environment(self) -> dict[str, str]:
        """The variables by which another process reads the same."""
        stated = self.model_dump(mode="json", exclude_none=True)
        return {
            f"{self.model_config['env_prefix']}{name.upper()}": json.dumps(value) if type(value) is list else str(value)
            for name, value in stated.items()
        }

    @property
    def database(self) -> Path:
        """The SQLite file of slides and jobs."""
        return self.data_dir / "slidelift.sqlite3"
