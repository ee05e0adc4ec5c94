"""Logical file names: the only outside strings that may become paths, so checked before anything else.

A name is `/`-separated, relative and NFC UTF-8; no part is empty, `.` or `..`; nothing in it means
something to a shell, a drive letter or another operating system. Names live inside manifests as data
and never form a storage key.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from formats.errors import BadNameError, NameClashError

MAX_PART_BYTES = 255
MAX_NAME_BYTES = 4096

# The fast path: names as engines write them. Anything else goes through the slow, exact check.
_plain = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9._-]{0,200}/){0,8}[A-Za-z0-9_-][A-Za-z0-9._-]{0,200}\Z")
_drive = re.compile(r"[A-Za-z]:")


def check_file_name(name: str) -> None:
    """`name` may be created below any directory without leaving it.

    Raises: BadNameError.
    """
    if _plain.match(name) is None:
        reason = _fault(name)
        if reason is not None:
            message = f"bad file name: {reason}: {name[:200]!r}"
            raise BadNameError(message, hint="rename the file at the source; nothing was taken in")


def _fault(name: str) -> str | None:
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "not UTF-8"
    if not name or size > MAX_NAME_BYTES:
        return f"empty or longer than {MAX_NAME_BYTES} bytes"
    if "\\" in name or _drive.match(name):
        return "a backslash or a drive letter"
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in name):
        return "a control character"
    if unicodedata.normalize("NFC", name) != name:
        return "not in Unicode normal form C"
    for part in name.split("/"):
        if part in {"", ".", ".."}:
            return "an empty, '.' or '..' part"
        if len(part.encode()) > MAX_PART_BYTES:
            return f"a part longer than {MAX_PART_BYTES} bytes"
    return None


def check_file_names(names: Iterable[str]) -> None:
    """Each name is safe, and no two of them are one file, or a file and a directory, on any file system.

    Raises: BadNameError, NameClashError.
    """
    folded: dict[str, str] = {}
    parents: dict[str, str] = {}
    parents_seen: set[str] = set()
    for name in names:
        check_file_name(name)
        key = _fold(name)
        if key in folded:
            message = f"two names are one on some file systems: {folded[key]!r} and {name!r}"
            raise NameClashError(message, hint="rename one of them at the source; nothing was taken in")
        folded[key] = name
        parent = name.rpartition("/")[0]
        while parent and parent not in parents_seen:
            parents_seen.add(parent)
            spelled = parents.setdefault(_fold(parent), parent)
            if spelled != parent:
                message = f"two directories are one on some file systems: {spelled!r} and {parent!r}"
                raise NameClashError(message, hint="rename one of them at the source; nothing was taken in")
            parent = parent.rpartition("/")[0]
    for key, parent in parents.items():
        if key in folded:
            message = f"a file is also a directory: {folded[key]!r} and {parent!r}/"
            raise NameClashError(message, hint="rename one of them at the source; nothing was taken in")


def _fold(name: str) -> str:
    return name.lower() if name.isascii() else unicodedata.normalize("NFC", name.casefold())
