"""Logs that people or programs read, without passwords either way."""

from __future__ import annotations

import json
import logging
from datetime import datetime, timezone

from ssd_edge.runtime.redact import CleanFilter


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `{"time": str, "level": str, "logger": str, "message": str}`, and `traceback` of errors.

    `time` is UTC, as ISO 8601 has it.
    """

    def format(self, record: logging.LogRecord) -> str:
        values = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        return json.dumps(values | ({"traceback": record.exc_text} if record.exc_text else {}))


def set_up_logs(log_format: str) -> None:
    """Make all handlers of the root logger clean what they write, and write `human` text or `json`."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(CleanFilter())
        if log_format == "json":
            handler.setFormatter(JsonFormatter())
