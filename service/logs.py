"""The log of a process: lines to read, or JSON objects to collect; ids in it, never the name of a slide."""

import json
import logging
import logging.config
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

_job: ContextVar[str | None] = ContextVar("job", default=None)
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


@contextmanager
def logged_job(job_id: str) -> Iterator[None]:
    """What this thread logs meanwhile carries the job's id."""
    token = _job.set(job_id)
    try:
        yield
    finally:
        _job.reset(token)


class JsonFormatter(logging.Formatter):
    """A record as one JSON object: time, level, logger, message, job, what `extra` gave, and the traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        members: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if job := _job.get():
            members["job"] = job
        members |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            members["exception"] = self.formatException(record.exc_info)
        return json.dumps(members, ensure_ascii=False, default=str)


def log_config(log_format: Literal["text", "json"]) -> dict[str, Any]:
    """Make the argument of `logging.config.dictConfig`: all to standard error, from INFO on."""
    formatter: dict[str, Any] = (
        {"()": JsonFormatter} if log_format == "json" else {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}
    )
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": formatter},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"level": "INFO", "handlers": ["stderr"]},
        # Their lines hold addresses, and an upload's address holds the slide's name.
        "loggers": {"uvicorn.access": {"level": "WARNING"}, "httpx": {"level": "WARNING"}},
    }


def configure(log_format: Literal["text", "json"]) -> None:
    """Set up this process's log."""
    logging.config.dictConfig(log_config(log_format))
