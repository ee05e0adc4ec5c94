"""Will a job restore from this snapshot? What Flink checks at submission, checked before.

Flink looks up every operator of the snapshot by its id among those of the job. One with state that is not there ends
the submission, unless non-restored state is allowed: then that state is dropped, and nobody is told. One that is there
with another max parallelism ends it too, state or not. A job may have operators that the snapshot lacks.
Source: Flink 2.3.0, `Checkpoints.loadAndValidateCheckpoint`, `StateAssignmentOperation`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches

from msgspec import Struct

from eoctl.engines.flink import FlinkSnapshot
from formats.errors import InvalidInputError
from formats.flink.handles import size_of
from formats.flink.metadata import Operator, streams_of
from formats.flink.rewrite import COMMITTER
from formats.ids import OperatorId, operator_id

MAX_OPERATORS = 100_000

_HEX = re.compile(r"[0-9a-fA-F]{32}\Z")
_VERSION = re.compile(r"[-_. ]?v?[0-9]+\Z")


class JobOperator(Struct, frozen=True, kw_only=True):
    """An operator of the job: its uid, or its id where it has a uid hash. None: not known."""

    uid: str = ""
    id: str = ""
    parallelism: int | None = None
    max_parallelism: int | None = None

    @property
    def key(self) -> OperatorId:
        return OperatorId(self.id.lower()) if self.id else operator_id(self.uid)


class Unmapped(Struct, frozen=True, kw_only=True):
    """State of the snapshot that no operator of the job takes."""

    id: str
    uid: str
    name: str
    bytes: int
    states: tuple[str, ...]


class ParallelismConflict(Struct, frozen=True, kw_only=True):
    """An operator whose numbers do not go with the snapshot's."""

    id: str
    uid: str
    reason: str


class Preflight(Struct, frozen=True, kw_only=True):
    """`fits`: Flink would take it. `suggestions`: id -> the job's operator that was likely meant.

    `dropped_bytes`: what allowing non-restored state would drop. `starts_empty`: operators of the job that the snapshot
    lacks.
    """

    snapshot: str
    fits: bool
    unmapped: tuple[Unmapped, ...]
    suggestions: dict[str, str]
    parallelism: tuple[ParallelismConflict, ...]
    dropped_bytes: int
    starts_empty: tuple[str, ...]


def preflight(snapshot: FlinkSnapshot, job: Sequence[JobOperator]) -> Preflight:
    """What Flink would say of this job and this snapshot. Committers of the job's sinks need not be named."""
    by_id = {operator.key: operator for operator in _with_committers(job)}
    unmapped, conflicts = [], []
    known = {operator.id for operator in snapshot.metadata.operators}
    for operator in snapshot.metadata.operators:
        found = by_id.get(operator.id)
        if found is None:
            if has_state(operator):
                unmapped.append(_unmapped(operator))
        else:
            conflicts += [
                ParallelismConflict(id=operator.id, uid=operator.uid or found.uid, reason=reason)
                for reason in _conflicts(operator, found)
            ]
    missing = [operator for operator in job if operator.key not in known]
    return Preflight(
        snapshot=str(snapshot.path),
        fits=not unmapped and not conflicts,
        unmapped=tuple(unmapped),
        suggestions=dict(_suggestions(unmapped, missing)),
        parallelism=tuple(conflicts),
        dropped_bytes=sum(each.bytes for each in unmapped),
        starts_empty=tuple(operator.uid or operator.id for operator in missing),
    )


def has_state(operator: Operator) -> bool:
    """Flink would not let it go unnoticed."""
    return any(True for _ in streams_of(operator))


def read_uids(text: str, what: str) -> tuple[JobOperator, ...]:
    """A uid or id to a line; what follows `#` at a line's beginning is no uid. Raises: InvalidInputError."""
    lines = [line.strip() for line in text.splitlines()]
    return _checked([_named(line) for line in lines if line and not line.startswith("#")], what)


def read_operators(data: bytes, what: str) -> tuple[JobOperator, ...]:
    """JSON: a list of `{"uid": ..., "id": ..., "parallelism": ..., "max_parallelism": ...}`, each with a uid or an id.

    Raises: InvalidInputError.
    """
    import msgspec  # noqa: PLC0415  (its decoder is of use here only)

    try:
        return _checked(msgspec.json.decode(data, type=list[JobOperator]), what)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidInputError(
            f"{what} is no list of operators: {error}", hint='[{"uid": "totals", "max_parallelism": 128}]'
        ) from error


def _named(text: str) -> JobOperator:
    return JobOperator(id=text) if _HEX.match(text) else JobOperator(uid=text)


def _checked(operators: list[JobOperator], what: str) -> tuple[JobOperator, ...]:
    for operator in operators:
        if not operator.uid and not operator.id:
            raise InvalidInputError(f"{what} names an operator without uid and id")
        if operator.id and not _HEX.match(operator.id):
            raise InvalidInputError(f"{what}: not an operator id: {operator.id[:100]!r}", hint="32 hex digits")
    if not 0 < len(operators) <= MAX_OPERATORS:
        raise InvalidInputError(f"{what} names {len(operators)} operators (1 to {MAX_OPERATORS})")
    return tuple(operators)


def _with_committers(job: Sequence[JobOperator]) -> Iterator[JobOperator]:
    """A sink is two operators, of which only one has a uid that somebody gave."""
    for operator in job:
        if operator.uid:
            yield JobOperator(uid=f"{COMMITTER}{operator.uid}")
    yield from job


def _unmapped(operator: Operator) -> Unmapped:
    streams = list(streams_of(operator))
    states = {
        state.name
        for subtask in operator.subtasks
        for handle in (subtask.managed_operator, subtask.raw_operator)
        for state in (() if handle is None else handle.states)
    }
    roles = {stream.role for stream in streams} - {"operator"}
    return Unmapped(
        id=operator.id,
        uid=operator.uid,
        name=operator.name,
        bytes=sum(size_of(stream.handle) for stream in streams),
        states=tuple(sorted(states) + sorted(f"({role})" for role in roles)),
    )


def _conflicts(operator: Operator, found: JobOperator) -> Iterator[str]:
    theirs, ours = operator.max_parallelism, found.max_parallelism
    if ours is not None and ours != theirs and not operator.finished:
        yield f"max parallelism {ours} in the job, {theirs} in the snapshot"
    if found.parallelism is not None and ours is None and found.parallelism > theirs:
        yield f"parallelism {found.parallelism} in the job, max parallelism {theirs} in the snapshot"


def _suggestions(unmapped: Sequence[Unmapped], missing: Sequence[JobOperator]) -> Iterator[tuple[str, str]]:
    """By hashing what the job's uids may have been called before; and else by names that are alike."""
    uids = [operator.uid for operator in missing if operator.uid]
    uids += [f"{COMMITTER}{uid}" for uid in uids]
    former: dict[str, str] = {operator_id(form): uid for uid in reversed(uids) for form in _former(uid)}
    for each in unmapped:
        if each.id in former:
            yield each.id, former[each.id]
        elif each.uid:
            is_committer = each.uid.startswith(COMMITTER)
            same_kind = {uid.lower(): uid for uid in uids if uid.startswith(COMMITTER) == is_committer}
            for alike in get_close_matches(each.uid.lower(), same_kind, n=1):
                yield each.id, same_kind[alike]


def _former(uid: str) -> Iterator[str]:
    """What a uid may have been before: without its version or with one, in other case, with other dashes."""
    lead = COMMITTER if uid.startswith(COMMITTER) else ""
    own = uid.removeprefix(COMMITTER)
    bases = (own, _VERSION.sub("", own), own.lower(), own.replace("_", "-"), own.replace("-", "_"))
    for base in dict.fromkeys(bases):
        yield f"{lead}{base}"
        yield from (f"{lead}{base}{mark}{number}" for mark in ("-v", "_v", "-", "_") for number in range(1, 10))
