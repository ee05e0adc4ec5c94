"""What could harm a store at its place, found by looking and trying, in plain words and with the fix.

A look that fails is a finding too, so that one missing permission hides nothing else. Nothing of the store is changed:
what is tried is tried on values of its own below `tmp/`, which are gone afterwards.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path

from msgspec import Struct

from eoctl.services.capabilities import UNKNOWN, YES, find_capabilities
from eoctl.version import VERSION
from formats.errors import AccessDeniedError, EoctlError, StoreNotFoundError
from storage.backend import Key, Place, Reach
from storage.backends.probe import file_system_of, is_network
from storage.head import Ambient
from storage.store import Store, open_store

LITTLE_BYTES = 1 << 30
_MEMORY = {"ramfs", "tmpfs"}


class State(StrEnum):
    """How it is. Only `bad` makes the answer no."""

    OK = "ok"
    WARNING = "warning"
    BAD = "bad"
    UNKNOWN = "unknown"


class Finding(Struct, frozen=True, kw_only=True):
    """One thing that was looked at: how it is, what was found, and what to do about it ("" where nothing)."""

    check: str
    state: State
    found: str
    fix: str = ""


class Examination(Struct, frozen=True, kw_only=True):
    """`ok`: nothing is bad."""

    store: str
    ok: bool
    checks: tuple[Finding, ...]


def examine(place: Place, ambient: Ambient) -> Examination:
    """Everything that can be looked at from here."""
    if place.remote:
        from eoctl.services.doctor_s3 import examine_s3  # noqa: PLC0415  (start-up: boto3)

        found = examine_s3(place, ambient)
    else:
        found = _examine_directory(place, ambient)
    checks = (versions(), *found)
    return Examination(store=place.url, ok=all(one.state is not State.BAD for one in checks), checks=checks)


def versions() -> Finding:
    words = f"eoctl {VERSION}, Python {platform.python_version()}"
    return Finding(check="versions", state=State.OK, found=words)


def looked(check: str, look: Callable[[], Finding]) -> Finding:
    """What `look` finds; where it may not look or cannot, that."""
    try:
        return look()
    except AccessDeniedError as error:
        return Finding(check=check, state=State.UNKNOWN, found=error.message, fix=error.hint or "")
    except EoctlError as error:
        return Finding(check=check, state=State.BAD, found=error.message, fix=error.hint or "")


def of_store(place: Place, ambient: Ambient) -> tuple[Finding, Store | None]:
    """Whether there is a store that this eoctl knows."""
    try:
        store = open_store(place, ambient)
    except StoreNotFoundError as error:
        return Finding(check="store", state=State.WARNING, found=error.message, fix=error.hint or ""), None
    except EoctlError as error:
        return Finding(check="store", state=State.BAD, found=error.message, fix=error.hint or ""), None
    words = f"{store.record.id}, format version {store.record.version}, hash {store.hash}"
    return Finding(check="store", state=State.OK, found=words), store


def leftovers(place: Place, what: str, fix: str) -> Finding:
    """Writes that never finished."""
    count = sum(1 for _ in place.backend.list(Key("p"), reach=Reach.UNFINISHED))
    if not count:
        return Finding(check="leftovers", state=State.OK, found=f"no {what}")
    return Finding(check="leftovers", state=State.WARNING, found=f"{count} {what}", fix=fix)


def _examine_directory(place: Place, ambient: Ambient) -> Iterator[Finding]:
    found, store = of_store(place, ambient)
    yield found
    kind = file_system_of(Path(place.url))
    yield _file_system(kind)
    if store is None:
        return
    capabilities = find_capabilities(store)
    yield _writable(capabilities)
    yield _kept(capabilities, "atomic_create", "conditional create")
    yield _kept(capabilities, "compare_and_swap", "conditional swap")
    yield _kept(capabilities, "fsync", "fsync")
    yield _space(capabilities)
    fix = "nothing, if a command is at work now; else eoctl gc removes those that are older than a day"
    yield looked("leftovers", lambda: leftovers(place, "temporary files", fix))


def _writable(capabilities: Mapping[str, str]) -> Finding:
    told = capabilities["writable"]
    if told == YES:
        return Finding(check="writable", state=State.OK, found="values can be written")
    fix = "check the owner and the mode of the directory; the store can be read as it is"
    return Finding(check="writable", state=State.WARNING, found=told, fix=fix)


def _kept(capabilities: Mapping[str, str], name: str, check: str) -> Finding:
    told = capabilities[name]
    if told == YES:
        return Finding(check=check, state=State.OK, found="tried, and kept")
    if told == UNKNOWN:
        return Finding(check=check, state=State.UNKNOWN, found=told)
    fix = "a store here would lose checkpoints: move it to another file system"
    return Finding(check=check, state=State.BAD, found=told, fix=fix)


def _file_system(kind: str) -> Finding:
    if is_network(kind):
        words = f"{kind}, a network file system: what survives its power loss nobody can test from here"
        return Finding(
            check="file system", state=State.WARNING, found=words, fix="keep the store on a local disk or S3"
        )
    if kind in _MEMORY:
        words = f"{kind}: in memory, so a restart of this host takes the store with it"
        return Finding(check="file system", state=State.WARNING, found=words, fix="keep the store on a disk or S3")
    return Finding(check="file system", state=State.OK, found=kind)


def _space(capabilities: Mapping[str, str]) -> Finding:
    free = int(capabilities.get("free_bytes", "-1"))
    if free < 0:
        return Finding(check="free space", state=State.UNKNOWN, found="not known")
    words = f"{free >> 20} MiB"
    if free >= LITTLE_BYTES:
        return Finding(check="free space", state=State.OK, found=words)
    fix = "make room: eoctl gc frees what no snapshot needs, eoctl store stats shows what takes it"
    return Finding(check="free space", state=State.WARNING, found=words, fix=fix)
