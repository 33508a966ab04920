"""The log of a process, as text lines or JSON objects. It contains ids of slides, never their names."""

import json
import logging
import logging.config
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

_job: ContextVar[str | None] = ContextVar("job", default=None)
_STANDARD_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


@contextmanager
def logged_job(job_id: str) -> Iterator[None]:
    """Add the id of a job to everything that this thread logs inside the block."""
    token = _job.set(job_id)
    try:
        yield
    finally:
        _job.reset(token)


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object: time, level, logger, message, job, values of `extra`, and the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        members: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if job := _job.get():
            members["job"] = job
        members |= {key: value for key, value in vars(record).items() if key not in _STANDARD_ATTRIBUTES}
        if record.exc_info:
            members["exception"] = self.formatException(record.exc_info)
        return json.dumps(members, ensure_ascii=False, default=str)


def log_config(log_format: Literal["text", "json"]) -> dict[str, Any]:
    """Return the argument of `logging.config.dictConfig`: messages from INFO on are written to standard error."""
    formatter: dict[str, Any] = (
        {"()": JsonFormatter} if log_format == "json" else {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}
    )
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": formatter},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"level": "INFO", "handlers": ["stderr"]},
        # Their lines contain URLs, and the URL of an upload contains the name of the slide.
        "loggers": {"uvicorn.access": {"level": "WARNING"}, "httpx": {"level": "WARNING"}},
    }


def configure(log_format: Literal["text", "json"]) -> None:
    """Configure the log of this process."""
    logging.config.dictConfig(log_config(log_format))
