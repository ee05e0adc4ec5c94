"""Logical file names: the only outside strings that may become paths, so checked before anything else.

A name is `/`-separated, relative and NFC UTF-8; no part is empty, `.` or `..`; nothing in it means
something to a shell, a drive letter or another operating system. Names live inside manifests as data
and never form a storage key.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise

from formats.errors import BadNameError, NameClashError

MAX_PART_BYTES = 255
MAX_NAME_BYTES = 4096
MAX_NAME_PARTS = 128  # whoever walks the tree may hold a directory open for each

_RENAME = "rename one of them at the source; nothing was taken in"

# The fast path: names as engines write them. Anything else goes through the slow, exact check.
_PLAIN = r"(?:[A-Za-z0-9_-][A-Za-z0-9._-]{0,200}/){0,8}[A-Za-z0-9_-][A-Za-z0-9._-]{0,200}"
_plain = re.compile(_PLAIN + r"\Z")
_all_plain = re.compile(rf"(?:{_PLAIN}(?:\n|\Z))*+\Z")
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
    parts = name.split("/")
    if len(parts) > MAX_NAME_PARTS:
        return f"deeper than {MAX_NAME_PARTS} parts"
    for part in parts:
        if part in {"", ".", ".."}:
            return "an empty, '.' or '..' part"
        if len(part.encode()) > MAX_PART_BYTES:
            return f"a part longer than {MAX_PART_BYTES} bytes"
    return None


def check_file_names(names: Sequence[str]) -> None:
    """Each name is safe, and no two of them are one file, or a file and a directory, on any file system.

    A hundred thousand plain names cost a few passes in C; only others are looked at one by one.
    Raises: BadNameError, NameClashError.
    """
    joined = "\n".join(names)
    if not all(names) or _all_plain.match(joined) is None or joined.count("\n") != max(0, len(names) - 1):
        for name in names:
            check_file_name(name)
    folded = _folded(joined, names)
    if len(set(folded)) != len(folded):
        raise _clash(folded, names)
    if "/" in joined:
        _check_parents(names, folded)


def _check_parents(names: Sequence[str], folded: Sequence[str]) -> None:
    """No file is also a directory, and no directory is spelled in two ways.

    A directory's names are sorted to lie together, right after a file of its name: so each clash shows between two
    neighbours, and no list of all directories is made, which for deep names is many times as large as they are.
    """
    keys = [name.replace("/", "\0") for name in folded]
    order = sorted(range(len(names)), key=keys.__getitem__)
    parents = [names[index].rpartition("/")[0] for index in order]
    for place, (parent, other) in enumerate(pairwise(parents)):
        if parent == other:
            continue
        one, two = order[place], order[place + 1]
        if keys[two].startswith(keys[one] + "\0"):
            message = f"a file is also a directory: {names[one]!r}"
            raise NameClashError(message, hint=_RENAME)
        spellings = (names[one].split("/")[:-1], names[two].split("/")[:-1])
        for depth, parts in enumerate(zip(keys[one].split("\0"), keys[two].split("\0"), *spellings, strict=False), 1):
            fold, other_fold, part, other_part = parts
            if fold != other_fold:
                break
            if part != other_part:
                both = " and ".join(repr("/".join(spelled[:depth])) for spelled in spellings)
                message = f"two directories are one on some file systems: {both}"
                raise NameClashError(message, hint=_RENAME)


def _folded(joined: str, names: Sequence[str]) -> list[str]:
    """Each name as the most forgetful file system takes it."""
    if joined.isascii():
        return joined.lower().split("\n") if names else []
    return [_fold(name) for name in names]


def _fold(name: str) -> str:
    return name.lower() if name.isascii() else unicodedata.normalize("NFC", name.casefold())


def _clash(folded: Sequence[str], names: Sequence[str]) -> NameClashError:
    seen: dict[str, str] = {}
    for key, name in zip(folded, names, strict=True):
        if key in seen:
            return NameClashError(f"two names are one on some file systems: {seen[key]!r} and {name!r}", hint=_RENAME)
        seen[key] = name
    raise AssertionError(names)
