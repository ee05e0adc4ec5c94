"""What the outside decides, chosen once: clock, randomness, waiting, and which host this is."""

from __future__ import annotations

import hashlib
import os
import time
from datetime import UTC, datetime
from pathlib import Path

from storage.head import Ambient


def system_ambient() -> Ambient:
    """The real clock, real randomness, and a digest that is this host's own."""
    return Ambient(now=_now, elapsed=time.monotonic, new_id=_new_id, wait=time.sleep, host=_host())


def _now() -> str:
    return format_time(datetime.now(UTC))


def format_time(moment: datetime) -> str:
    """RFC 3339 UTC with milliseconds: of fixed width, so that text sorts by time."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def _new_id() -> str:
    return os.urandom(16).hex()


def _host() -> str:
    """Stamps of files mean something on one host only; its name is nobody's business."""
    try:
        machine = Path("/etc/machine-id").read_bytes()
    except OSError:
        machine = b""
    boot = Path("/proc/sys/kernel/hostname")
    name = boot.read_bytes() if boot.exists() else b""
    return hashlib.sha256(machine + name).hexdigest()[:32]
