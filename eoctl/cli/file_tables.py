"""Files of snapshots on a screen: a list, the difference of two, who needs one, which are damaged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from eoctl.cli.output import GREEN, RED, YELLOW, Output
from eoctl.cli.quantities import human_bytes, human_seconds, plural
from eoctl.cli.table import Column
from eoctl.services.values import BlobUse, DamagedFile, Difference, Explanation, FileRow, Verification

_MAX_BLOBS, _MAX_SNAPSHOTS = 20, 3
_OPERATOR_LEAST, _NAME_LEAST, _KEY_LEAST, _SNAPSHOTS_LEAST = 8, 12, 16, 12


def full_name(row: FileRow) -> str:
    """As `explain` takes it: `OPERATOR/SUBTASK/NAME`."""
    return f"{row.operator}/{_subtask(row)}/{row.name}"


def _subtask(row: FileRow) -> str:
    return "coordinator" if row.subtask < 0 else str(row.subtask)


def file_columns(rows: Sequence[FileRow]) -> list[Column]:
    """OPERATOR SUB NAME BYTES STORED WHERE FIRST."""
    return [
        Column(title="OPERATOR", cells=[row.operator for row in rows], least=_OPERATOR_LEAST),
        Column(title="SUB", cells=[_subtask(row) for row in rows], right=True),
        Column(title="NAME", cells=[row.name for row in rows], least=_NAME_LEAST),
        Column(title="BYTES", cells=[human_bytes(row.bytes) for row in rows], right=True),
        Column(title="STORED", cells=[human_bytes(row.stored_bytes) for row in rows], right=True),
        Column(title="WHERE", cells=[row.place for row in rows]),
        Column(title="FIRST", cells=[str(row.first_stored_in) for row in rows], right=True),
    ]


def difference_lines(difference: Difference, out: Output) -> Iterator[str]:
    """A sentence of counts, then a line for each file that differs."""
    yield out.heading(
        f"{difference.a} -> {difference.b}: {len(difference.added)} added, {len(difference.removed)} removed, "
        f"{len(difference.changed)} changed, {difference.same_files} the same"
    )
    changes = [("+", full_name(row), human_bytes(row.bytes)) for row in difference.added]
    changes += [("-", full_name(row), human_bytes(row.bytes)) for row in difference.removed]
    changes += [
        ("~", row.name, f"{human_bytes(row.old_bytes)} -> {human_bytes(row.new_bytes)}") for row in difference.changed
    ]
    if changes:
        columns = [
            Column(title="", cells=[sign for sign, _, _ in changes], styles={"+": GREEN, "-": RED, "~": YELLOW}),
            Column(title="", cells=[name for _, name, _ in changes], least=_NAME_LEAST),
            Column(title="", cells=[size for _, _, size in changes], right=True),
        ]
        yield from out.table(columns)[1:]
    yield (
        f"{human_bytes(difference.added_bytes)} added, {human_bytes(difference.removed_bytes)} removed, "
        f"{human_bytes(difference.shared_stored_bytes)} stored once for both"
    )


def explanation_lines(explanation: Explanation, out: Output) -> Iterator[str]:
    """What it takes, who else needs it, why it is kept."""
    nobody = "no other snapshot" if explanation.kind == "snapshot" else "no snapshot"
    freed = f"{human_bytes(explanation.frees_bytes)} in {plural(explanation.frees_blobs, 'blob')}"
    yield out.heading(f"{explanation.subject}  {explanation.kind}")
    yield from out.fields(
        [
            ("stored", human_bytes(explanation.stored_bytes)),
            ("shared", f"{human_bytes(explanation.shared_bytes)} of it with other snapshots"),
            ("would free", f"{freed}, once the snapshot is deleted and gc has run"),
            ("needed by", ", ".join(explanation.referenced_by) or nobody),
        ]
    )
    if explanation.shares_with:
        yield ""
        yield out.heading("SHARES WITH")
        yield from out.fields((address, human_bytes(count)) for address, count in explanation.shares_with.items())
    if explanation.kept_because:
        yield ""
        yield out.heading("KEPT BECAUSE")
        for reason in explanation.kept_because:
            yield from out.wrapped(f"- {reason}")
    if explanation.blobs:
        yield ""
        yield out.heading("BLOBS")
        yield from out.table(_blob_columns(explanation.blobs[:_MAX_BLOBS]))
        more = len(explanation.blobs) - _MAX_BLOBS
        if more > 0:
            yield f"and {plural(more, 'blob')} more: --json lists them all"


def verification_lines(verification: Verification, out: Output) -> Iterator[str]:
    """What was checked, then each damaged file and whom it harms."""
    snapshots, turn = verification.snapshots, verification.turn
    subject = ", ".join(snapshots) if 0 < len(snapshots) <= _MAX_SNAPSHOTS else plural(len(snapshots), "snapshot")
    part = f" (part {turn + 1} of {verification.turns})" if turn is not None else ""
    blobs = f" in {plural(verification.checked_blobs, 'blob')}" if verification.checked_blobs else ""
    yield f"{subject}: {plural(verification.checked_files, 'file')}{blobs} checked at level {verification.level}{part}"
    yield f"read {human_bytes(verification.checked_bytes)} in {human_seconds(verification.seconds)}"
    if verification.restore_seconds is not None:
        yield f"restoring took {human_seconds(verification.restore_seconds)}"
    if not verification.damaged:
        yield out.paint("no damage", GREEN)
        return
    yield out.paint(plural(len(verification.damaged), "damaged file"), RED)
    yield from out.table(_damage_columns(verification.damaged))


def _damage_columns(damaged: Sequence[DamagedFile]) -> list[Column]:
    others = [f" and {len(file.other_names)} more" if file.other_names else "" for file in damaged]
    return [
        Column(
            title="FILE",
            cells=[f"{file.name}{more}" for file, more in zip(damaged, others, strict=True)],
            least=_NAME_LEAST,
        ),
        Column(title="REASON", cells=[file.reason for file in damaged], least=_NAME_LEAST),
        Column(title="HARMS", cells=[", ".join(file.snapshots) or "-" for file in damaged], least=_SNAPSHOTS_LEAST),
    ]


def _blob_columns(blobs: Sequence[BlobUse]) -> list[Column]:
    return [
        Column(title="BLOB", cells=[blob.key for blob in blobs], least=_KEY_LEAST),
        Column(title="STORED", cells=[human_bytes(blob.stored_bytes) for blob in blobs], right=True),
        Column(title="NEEDED BY", cells=[", ".join(blob.snapshots) for blob in blobs], least=_SNAPSHOTS_LEAST),
    ]
