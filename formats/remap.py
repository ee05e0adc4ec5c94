"""Remapping: which operator's state goes to which operator. Pure: a plan of moves from names, or an error.

All mappings apply at once, so that a swap is two mappings and a cycle is many. A name is an operator's uid, or its id,
32 hex digits. State that comes to one operator from two is refused unless merging is asked for.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Literal

import msgspec
from msgspec import Struct

from formats.errors import IncompatibleError, InvalidInputError, TooLargeError, UsageError
from formats.ids import HEX32_PATTERN, OperatorId, operator_id

MAX_MAPPING_BYTES = 1 << 20
_hex32 = re.compile(HEX32_PATTERN)

Action = Literal["kept", "remapped", "merged", "dropped", "not restored"]


class BadRemapError(IncompatibleError):
    """A mapping that does not fit the operators of the snapshot."""

    kind = "bad-remap"


class OperatorName(Struct, frozen=True, order=True):
    """An operator as a snapshot names it; the uid may be empty."""

    uid: str
    id: OperatorId

    def __str__(self) -> str:
        return self.uid or self.id


class OperatorMapping(Struct, frozen=True, kw_only=True):
    """What was asked for. `operators`: those that the restored pipeline has; None: any."""

    remap: tuple[tuple[str, str], ...] = ()
    drop: tuple[str, ...] = ()
    operators: tuple[str, ...] | None = None
    merge: bool = False
    allow_non_restored: bool = False

    def __bool__(self) -> bool:
        return bool(self.remap or self.drop or self.operators is not None)


class Move(Struct, frozen=True, kw_only=True):
    """What becomes of one operator's state."""

    old: OperatorName
    new: OperatorName | None
    action: Action


class _File(Struct, forbid_unknown_fields=True):
    remap: dict[str, str] = {}
    drop: tuple[str, ...] = ()
    operators: tuple[str, ...] | None = None
    merge: bool = False


def parse_mapping(text: str, what: str) -> OperatorMapping:
    """The mapping of a TOML file: a table `remap`, lists `drop` and `operators`, a boolean `merge`.

    Raises: InvalidInputError, TooLargeError.
    """
    if len(text) > MAX_MAPPING_BYTES:
        raise TooLargeError(f"{what} has more than {MAX_MAPPING_BYTES} characters")
    try:
        found = msgspec.convert(tomllib.loads(text), _File)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, RecursionError) as error:
        message = f"{what} is no mapping: {error}"
        hint = '[remap] "old uid" = "new uid"; before it drop = ["uid"], operators = ["uid"], merge = true'
        raise InvalidInputError(message, hint=hint) from error
    return OperatorMapping(
        remap=tuple(found.remap.items()), drop=found.drop, operators=found.operators, merge=found.merge
    )


def parse_pair(text: str) -> tuple[str, str]:
    """`OLD=NEW`, cut at the last `=`. Raises: UsageError."""
    old, equals, new = text.rpartition("=")
    if not equals or not old or not new:
        raise UsageError(f"not a mapping: {text!r}", hint="--remap OLD=NEW; a uid that holds '=' goes into --map FILE")
    return old, new


def together(*mappings: OperatorMapping) -> OperatorMapping:
    """All of them as one."""
    lists = [mapping.operators for mapping in mappings if mapping.operators is not None]
    return OperatorMapping(
        remap=tuple(pair for mapping in mappings for pair in mapping.remap),
        drop=tuple(name for mapping in mappings for name in mapping.drop),
        operators=tuple(name for names in lists for name in names) if lists else None,
        merge=any(mapping.merge for mapping in mappings),
        allow_non_restored=any(mapping.allow_non_restored for mapping in mappings),
    )


def plan_remap(known: Iterable[OperatorName], mapping: OperatorMapping) -> tuple[Move, ...]:
    """One move for each operator, in their order.

    Raises: BadRemapError, which names the nearest operators, or what would come together in one.
    """
    operators = tuple(known)
    new = _targets(operators, mapping)
    dropped = {_find(operators, name).id for name in mapping.drop}
    if both := dropped & new.keys():
        raise BadRemapError(f"an operator is dropped and remapped: {_named(operators, min(both))}")
    wanted = None if mapping.operators is None else {_target(operators, name).id for name in mapping.operators}
    moves = []
    for operator in operators:
        goal = new.get(operator.id, operator)
        action: Action = "kept" if goal == operator else "remapped"
        if operator.id in dropped:
            action = "dropped"
        elif wanted is not None and goal.id not in wanted:
            action = "not restored"
        moves.append(Move(old=operator, new=goal if action in {"kept", "remapped"} else None, action=action))
    _check_restored(moves, mapping)
    return _merged(moves, mapping)


def _targets(operators: Sequence[OperatorName], mapping: OperatorMapping) -> dict[OperatorId, OperatorName]:
    new: dict[OperatorId, OperatorName] = {}
    for source, target in mapping.remap:
        operator, goal = _find(operators, source), _target(operators, target)
        if new.setdefault(operator.id, goal) != goal:
            raise BadRemapError(f"{source!r} is mapped to two operators: {new[operator.id]} and {goal}")
    return new


def _check_restored(moves: Sequence[Move], mapping: OperatorMapping) -> None:
    lost = [str(move.old) for move in moves if move.action == "not restored"]
    if lost and not mapping.allow_non_restored:
        raise IncompatibleError(
            f"state that no operator asks for: {', '.join(lost[:5])}{', ...' if len(lost) > 5 else ''}",
            hint=f"--remap {lost[0]}=UID, --drop {lost[0]}, or --allow-non-restored-state",
            non_restored=lost,
        )


def _merged(moves: Sequence[Move], mapping: OperatorMapping) -> tuple[Move, ...]:
    counts = Counter(move.new.id for move in moves if move.new is not None)
    found = []
    for move in moves:
        if move.new is not None and counts[move.new.id] > 1:
            if not mapping.merge:
                sources = [str(other.old) for other in moves if other.new is not None and other.new.id == move.new.id]
                message = f"{' and '.join(sources)} would both become {move.new}"
                raise BadRemapError(message, hint="--merge where they have no key in common; else --drop one of them")
            found.append(Move(old=move.old, new=move.new, action="merged"))
        else:
            found.append(move)
    return tuple(found)


def _find(operators: Sequence[OperatorName], name: str) -> OperatorName:
    """The operator of that uid or id."""
    for operator in operators:
        if operator.uid == name or (_hex32.match(name) and operator.id == name):
            return operator
    names = [text for operator in operators for text in (operator.uid, operator.id) if text]
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean: {', '.join(near)}" if near else f"its operators: {', '.join(map(str, operators)) or 'none'}"
    raise BadRemapError(f"the snapshot has no operator {name!r}", hint=hint, suggestions=near)


def _target(operators: Sequence[OperatorName], name: str) -> OperatorName:
    """The operator that a new name stands for: one that the snapshot has, else one to be."""
    for operator in operators:
        if name in {operator.uid, operator.id}:
            return operator
    if not name:
        raise BadRemapError("an operator's uid is not empty")
    return OperatorName("", OperatorId(name)) if _hex32.match(name) else OperatorName(name, operator_id(name))


def _named(operators: Sequence[OperatorName], identity: OperatorId) -> OperatorName:
    return next(operator for operator in operators if operator.id == identity)
