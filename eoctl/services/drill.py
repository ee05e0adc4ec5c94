"""The hardest look: a snapshot is restored for real, every byte of it compared, and shown to the user's own check."""

from __future__ import annotations

import errno
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from eoctl.services.inspect import COORDINATOR_SUBTASK
from eoctl.services.resolve import Resolved
from eoctl.services.restore import Progress, restore
from eoctl.services.values import DamagedFile, Restored
from formats.errors import CorruptError, NoSpaceError, UnavailableError, UsageError
from formats.ids import BlobKey
from formats.manifest import Manifest, StateFile, files_of
from storage.blobs import digest_of
from storage.references import file_id, full_name
from storage.store import Store
from storage.transfer import each

HOOK_NAME = "hook"
MAX_TOLD_BYTES = 1000  # of what a failed hook said last


class Drilled(Struct, frozen=True, kw_only=True):
    """One snapshot restored to scratch, and removed again. `unreadable`: the restore met damage and made nothing."""

    files: int = 0
    bytes: int = 0
    seconds: float = 0.0
    damaged: tuple[DamagedFile, ...] = ()
    unreadable: str = ""


def parse_hook(hook: str) -> tuple[str, ...]:
    """The command and its arguments. Raises: UsageError, before anything is restored."""
    try:
        words = tuple(shlex.split(hook))
    except ValueError as error:
        raise UsageError(f"bad hook: {hook!r}: {error}") from error
    if not words or shutil.which(words[0]) is None:
        raise UsageError(f"no such command for the hook: {hook!r}", hint="a command and its arguments, quoted as one")
    return words


def drill(store: Store, resolved: Resolved, scratch: Path, hook: tuple[str, ...] | None, progress: Progress) -> Drilled:
    """The snapshot has been restored below `scratch`, compared with its manifest, shown to the hook, and removed.

    Raises: NoSpaceError, AccessDeniedError, UnavailableError, UsageError.
    """
    began = store.ambient.elapsed()
    with _directory(scratch, f"drill-{store.ambient.new_id()}") as directory:
        target = directory / "restored"
        try:
            restored = restore(store, resolved, target, progress=progress)
            seconds = store.ambient.elapsed() - began
            damaged = list(_compare(store, resolved, restored))
        except CorruptError as error:
            return Drilled(unreadable=error.message)
        if hook is not None and not damaged:
            damaged += _run_hook(hook, resolved, target, directory / "said")
        return Drilled(files=restored.files, bytes=restored.bytes, seconds=seconds, damaged=tuple(damaged))


def _compare(store: Store, resolved: Resolved, restored: Restored) -> Iterator[DamagedFile]:
    """What is on disk now against the manifest, read anew: the restore's own checks are not taken for granted."""
    manifest = store.manifest(resolved.head, resolved.entry)
    folders = _folders(manifest, restored)
    wanted = [
        (full_name(*found), folders[operator_id, subtask] / name, found[2])
        for found in files_of(manifest)
        for operator_id, subtask, name in [file_id(*found)]
    ]
    faults = each(wanted, lambda item: _fault(store, item[1], item[2]))
    for (name, _, file), fault in zip(wanted, faults, strict=True):
        if fault:
            yield DamagedFile(
                digest=file.digest, name=name, snapshots=(resolved.address,), reason=f"the restored file: {fault}"
            )
    known = {path for _, path, _ in wanted}
    for path in sorted(Path(restored.target).rglob("*")):
        if not path.is_dir() and path not in known:
            name = path.relative_to(restored.target).as_posix()
            yield _of_snapshot(resolved, name, "the restored directory holds a file that the snapshot has not")


def _folders(manifest: Manifest, restored: Restored) -> dict[tuple[str, int], Path]:
    """Where each operator's subtasks lie; a restore tells them in the order of the manifest, coordinators last."""
    keys = []
    for operator in manifest.operators:
        keys += [(operator.id, subtask.index) for subtask in operator.subtasks]
        keys += [(operator.id, COORDINATOR_SUBTASK)] if operator.coordinator else []
    return {key: Path(found.path) for key, found in zip(keys, restored.operators, strict=True)}


def _fault(store: Store, path: Path, file: StateFile) -> str:
    try:
        with path.open("rb", buffering=0) as reader:
            right = digest_of(reader, store.hash) == file.digest
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        raise UnavailableError(f"a restored file cannot be read: {error.strerror}: {path}") from error
    return "" if right else "content does not match its digest"


def _run_hook(hook: tuple[str, ...], resolved: Resolved, target: Path, said: Path) -> Iterator[DamagedFile]:
    """The user's check of the restored directory: anything but exit code 0 says that the snapshot is not usable."""
    with said.open("wb") as output:
        try:
            code = subprocess.run(  # noqa: S603  (the user's own command, split into words, without a shell)
                [*hook, str(target)], stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False
            ).returncode
        except OSError as error:
            raise UsageError(f"the hook cannot be run: {error.strerror}: {hook[0]}") from error
    if code != 0:
        end = f"exited with {code}" if code > 0 else f"was killed by signal {-code}"
        last = said.read_bytes()[-MAX_TOLD_BYTES:].decode(errors="replace").strip().rpartition("\n")[2]
        yield _of_snapshot(resolved, HOOK_NAME, f"the hook {end}" + (f": {last}" if last else ""))


def _of_snapshot(resolved: Resolved, name: str, reason: str) -> DamagedFile:
    digest = BlobKey.parse(resolved.entry.manifest).digest
    return DamagedFile(digest=digest, name=name, snapshots=(resolved.address,), reason=reason)


@contextmanager
def _directory(scratch: Path, name: str) -> Iterator[Path]:
    """A new directory below `scratch`, gone at the end. Raises: NoSpaceError, UnavailableError."""
    directory = scratch / name
    try:
        directory.mkdir(parents=True)
    except OSError as error:
        kind = NoSpaceError if error.errno in {errno.ENOSPC, errno.EDQUOT} else UnavailableError
        raise kind(f"no scratch directory: {error.strerror}: {directory}") from error
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
