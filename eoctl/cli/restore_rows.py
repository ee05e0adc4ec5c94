"""`eoctl restore` of state by rows: to another parallelism, to operators of other names."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from eoctl.cli.invocation import Invocation
from eoctl.cli.mappings import move_lines
from eoctl.cli.next_steps import next_steps
from eoctl.cli.output import Output, fields_of
from eoctl.cli.quantities import human_bytes, human_seconds, plural
from eoctl.cli.state_sources import opened_state
from eoctl.cli.table import Column

if TYPE_CHECKING:
    from eoctl.services.rescale import Deal, RestoredState
    from eoctl.services.savepoint_build import SnapshotSource


def restore_rows(
    invocation: Invocation, snapshot: str, pipeline: str | None, target: Path, deal: Deal, *, dry_run: bool
) -> None:
    """The state is below `target`, and the answer says what each subtask has."""
    from eoctl.services.rescale import restore_rows as restore_state  # noqa: PLC0415  (start-up)

    with opened_state(invocation, snapshot, pipeline, held=not dry_run) as source:
        if dry_run:
            _plan(invocation, source, deal)
            return
        with tempfile.TemporaryDirectory(prefix="eoctl-restore-") as scratch:
            elapsed = invocation.ambient.elapsed
            restored = restore_state(source, target, deal, scratch=Path(scratch), elapsed=elapsed)
    value = {**fields_of(restored), "fell_back_from": [], "linked_files": 0}
    for note in restored.notes:
        invocation.out.notice(note)
    invocation.out.answer("restore", value, lambda: _lines(restored, invocation.out), brief=lambda: [restored.target])


def _plan(invocation: Invocation, source: SnapshotSource, deal: Deal) -> None:
    from eoctl.services.savepoint import move_rows  # noqa: PLC0415  (start-up)
    from eoctl.services.savepoint_build import names_of  # noqa: PLC0415  (start-up)
    from formats.remap import plan_remap  # noqa: PLC0415  (start-up)

    moves = move_rows(source, plan_remap(names_of(source), deal.mapping))
    invocation.out.answer(
        "restore",
        {"dry_run": True, "snapshot": source.address, "moves": moves},
        lambda: move_lines(moves, invocation.out),
        rows="moves",
        brief=lambda: (f"{move.old}={move.new}" for move in moves),
    )


def _lines(restored: RestoredState, out: Output) -> Iterator[str]:
    yield (
        f"{restored.snapshot} restored to {restored.target}: {plural(restored.rows, 'row')}, "
        f"{human_bytes(restored.bytes)} in {plural(restored.files, 'file')}, in {human_seconds(restored.seconds)}"
    )
    found = restored.operators
    groups = ["-" if one.key_groups is None else f"{one.key_groups[0]}-{one.key_groups[1] - 1}" for one in found]
    yield from out.table(
        [
            Column(title="OPERATOR", cells=[one.uid for one in found], least=8),
            Column(title="SUB", cells=[str(one.subtask) for one in found], right=True),
            Column(title="KEY GROUPS", short_title="GROUPS", cells=groups, right=True),
            Column(title="ROWS", cells=[f"{one.rows:,}" for one in found], right=True),
            Column(title="PATH", cells=[one.path for one in found], least=12),
        ]
    )
    yield from next_steps(restored)
