"""Writing a file that others read: all of it is there, or what was there before."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from formats.errors import UsageError
from storage.os_errors import told

_MODE = 0o644  # whoever reads it may be another user


def replace_text(path: Path, text: str) -> None:
    """The file holds this text; where that fails, what it held before.

    Raises: UsageError where there is no such directory; NoSpaceError, AccessDeniedError, UnavailableError.
    """
    if not path.parent.is_dir():
        raise UsageError(f"no such directory: {path.parent}", hint="name a file in a directory that exists")
    with told(path):
        # The temporary name ends unlike the file's: who collects files by their ending must not take it.
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fchmod(descriptor, _MODE)
                os.fsync(descriptor)
            Path(temporary).replace(path)
        except BaseException:
            with suppress(OSError):
                Path(temporary).unlink()
            raise
