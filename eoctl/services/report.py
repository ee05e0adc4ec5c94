"""A report on a pipeline: growth, bytes by operator, sharing, durations; every manifest is read once."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from eoctl.services.report_values import OperatorShare, Origin, Report, ReportRow
from eoctl.services.resolve import Resolved, rows_of
from eoctl.services.roots import distinct, identity, read_roots, root_labels
from formats.manifest import Manifest, files_of
from storage.references import References, Root
from storage.store import Store

_MICRO = 1_000_000


def report(store: Store, resolved: Resolved) -> Report:
    """Of every snapshot of the pipeline up to this one, those in the trash or held too.

    Raises: CorruptError, BlobGoneError where a manifest is damaged: then nobody knows who shares what.
    """
    head, newest = resolved.head, resolved.entry
    labels = root_labels(head)
    sizes: dict[tuple[str, str], dict[str, int]] = {}
    last: list[Manifest] = []

    def meet(root: Root) -> None:
        entry = labels[root.label]
        sizes.setdefault(identity(entry), operator_sizes(root.manifest))
        if identity(entry) == identity(newest):
            last[:] = [root.manifest]

    references = References(read_roots(store, head, meet=meet))
    roots_of: dict[tuple[str, str], list[str]] = {}
    for label, entry in labels.items():
        roots_of.setdefault(identity(entry), []).append(label)
    statuses = {row.name or str(row.id): row.status for row in rows_of(head)}
    entries = [entry for entry in distinct(labels.values()).values() if entry.seq <= newest.seq]
    rows = []
    for entry in sorted(entries, key=lambda entry: entry.seq):
        own = roots_of[identity(entry)]
        rows.append(
            ReportRow(
                snapshot=entry.label,
                kind=entry.kind,
                status=statuses[entry.label],
                created_at=entry.created_at,
                full_bytes=entry.full_bytes,
                added_bytes=entry.added_bytes,
                stored_bytes=sum(references.needs(own[0]).values()),
                exclusive_bytes=sum(references.freed_by(own).values()),
                files=entry.files,
                duration_seconds=entry.duration_micros / _MICRO if entry.duration_micros else None,
                operators=sizes[identity(entry)],
            )
        )
    manifest = last[0]
    everything = {key for row in rows for key in references.needs(row.snapshot)}
    unique = sum(references.bytes_of(key) for key in everything)
    logical = sum(row.full_bytes for row in rows)
    now = store.ambient.now()
    return Report(
        pipeline=resolved.pipeline.name,
        made_at=now,
        newest=newest.label,
        newest_age_seconds=int(_seconds(now) - _seconds(newest.created_at)),
        snapshots=tuple(rows),
        operators=_shares(rows),
        origins=_origins(manifest),
        logical_bytes=logical,
        referenced_bytes=unique,
        saved_by_sharing=1 - unique / logical if logical else 0.0,
        timeout_seconds=manifest.metrics.timeout_micros / _MICRO or None,
    )


def operator_sizes(manifest: Manifest) -> dict[str, int]:
    """Uid, or id where there is none or two operators share one -> bytes of its files, those largest first."""
    uids = Counter(operator.uid for operator in manifest.operators)
    names = {
        operator.id: operator.uid if operator.uid and uids[operator.uid] == 1 else operator.id
        for operator in manifest.operators
    }
    found = dict.fromkeys(names.values(), 0)
    for operator, _, file in files_of(manifest):
        found[names[operator.id]] += file.bytes
    return dict(sorted(found.items(), key=lambda pair: (-pair[1], pair[0])))


def _shares(rows: list[ReportRow]) -> tuple[OperatorShare, ...]:
    oldest, newest = rows[0].operators, rows[-1].operators
    return tuple(
        OperatorShare(operator=name, full_bytes=size, growth_bytes=size - oldest[name] if name in oldest else None)
        for name, size in newest.items()
    )


def _origins(manifest: Manifest) -> tuple[Origin, ...]:
    """Oldest first."""
    sizes: Counter[int] = Counter()
    files: Counter[int] = Counter()
    for _, _, file in files_of(manifest):
        sizes[file.first_stored_in] += file.bytes
        files[file.first_stored_in] += 1
    return tuple(Origin(snapshot=str(number), bytes=sizes[number], files=files[number]) for number in sorted(files))


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()
