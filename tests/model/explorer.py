"""Breadth-first exploration to exhaustion: every reachable state once, a shortest trace to the first violation.

A state is one integer: the number of a world in the low bits, above it one number for each actor. The numbers stand
for interned values, so two states are equal exactly where the integers are: nothing is hashed away. What an actor can
do depends on the world and on itself only; it is computed once for each such pair and kept as differences to add.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

WORLD_BITS, ACTOR_BITS = 26, 20
MAX_REMEMBERED = 1_500_000


class ViolationError(Exception):
    """An invariant does not hold; `label` is the step that broke it."""

    def __init__(self, text: str, label: str = "?") -> None:
        super().__init__(text)
        self.label = label


class Move(NamedTuple):
    """One step: what the world and the actor become, and whom it concerns besides.

    `others`: the pipeline whose HEAD was swapped, so that requests under way to it have become stale; POWER where
    every process dies; None where nobody notices.
    """

    label: str
    world: Any
    actor: Any = None
    others: int | None = None


POWER = -1


class Rules(Protocol):
    """What is explored."""

    def start(self) -> tuple[Any, list[Any]]: ...
    def settled(self, world: Any) -> Any:
        """The world in its normal form. Raises: ViolationError."""
        ...

    def shared_moves(self, world: Any) -> Iterator[Move]: ...
    def moves_of(self, world: Any, actor: Any, index: int) -> Iterator[Move]: ...
    def overtaken(self, actor: Any, index: int, pipe: int) -> Any:
        """The actor after somebody else swapped that pipeline's HEAD, or after a loss of power."""
        ...


class Result(NamedTuple):
    states: int
    transitions: int
    depth: int
    seconds: float
    violation: str | None
    trace: list[str]
    finished: bool
    kinds: frozenset[str]  # of steps that were taken: their labels without names and numbers


class Numbers:
    """Values and their numbers."""

    def __init__(self, bits: int) -> None:
        self._numbers: dict[Any, int] = {}
        self.values: list[Any] = []
        self._limit = 1 << bits

    def of(self, value: Any) -> int:
        number = self._numbers.get(value)
        if number is None:
            number = self._numbers[value] = len(self.values)
            self.values.append(value)
            if number >= self._limit:
                raise OverflowError("too many values for the bits of a state")
        return number


class Space:
    """The states of some rules, as integers, and the steps between them."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.worlds = Numbers(WORLD_BITS)
        self.actors = Numbers(ACTOR_BITS)
        self.kinds: set[str] = set()
        self._remembered: dict[int, Any] = {}
        self._settled: dict[Any, int] = {}
        self._shifted: dict[tuple[int, int, int], int] = {}
        world, actors = rules.start()
        self._shifts = [WORLD_BITS + ACTOR_BITS * index for index in range(len(actors))]
        self.start = self._world(world)
        for shift, actor in zip(self._shifts, actors, strict=True):
            self.start |= self.actors.of(actor) << shift
        self._parts = [(1 << WORLD_BITS) - 1]
        self._parts += [self._parts[0] | ((1 << ACTOR_BITS) - 1) << shift for shift in self._shifts]

    def successors(self, state: int) -> list[int]:
        """Raises: ViolationError, with its step's label."""
        found: list[int] = []
        remembered = self._remembered
        for index, part in enumerate(self._parts):
            key = (state & part) << 3 | index
            steps = remembered.get(key)
            if steps is None:
                if len(remembered) > MAX_REMEMBERED:
                    remembered.clear()
                steps = remembered[key] = self._steps(state, index)
            quiet, loud = steps
            for delta in quiet:
                found.append(state + delta)  # noqa: PERF401  (a comprehension is slower for so few)
            for delta, others in loud:
                found.append(state + delta + self._moved(state, index, others))
        return found

    def label(self, state: int, successor: int) -> str:
        for index in range(len(self._parts)):
            for label, delta, others in self._labelled(state, index):
                if state + delta + (0 if others is None else self._moved(state, index, others)) == successor:
                    return label
        return "?"

    def _steps(self, state: int, index: int) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
        steps = []
        for label, delta, others in self._labelled(state, index):
            steps.append((delta, others))
            self.kinds.add(" ".join(word for word in label.split() if word.strip(",:").replace("-", "").isalpha()))
        quiet = tuple({delta for delta, others in steps if others is None and delta})
        return quiet, tuple({(delta, others) for delta, others in steps if others is not None})

    def _labelled(self, state: int, index: int) -> Iterator[tuple[str, int, int | None]]:
        """The steps of actor `index` - 1, or of nobody in particular for 0."""
        here = state & self._parts[0]
        world = self.worlds.values[here]
        if index:
            shift = self._shifts[index - 1]
            before = state >> shift & (1 << ACTOR_BITS) - 1
            moves = self.rules.moves_of(world, self.actors.values[before], index - 1)
        else:
            moves = self.rules.shared_moves(world)
        for move in moves:
            try:
                delta = self._world(move.world) - here
            except ViolationError as violation:
                violation.label = move.label
                raise
            if index:
                delta += self.actors.of(move.actor) - before << shift
            yield move.label, delta, move.others

    def _world(self, world: Any) -> int:
        number = self._settled.get(world)
        if number is None:
            number = self._settled[world] = self.worlds.of(self.rules.settled(world))
        return number

    def _moved(self, state: int, index: int, others: int) -> int:
        delta = 0
        for other, shift in enumerate(self._shifts):
            if other != index - 1:
                number = state >> shift & (1 << ACTOR_BITS) - 1
                key = (number, other, others)
                shifted = self._shifted.get(key)
                if shifted is None:
                    after = self.rules.overtaken(self.actors.values[number], other, others)
                    shifted = self._shifted[key] = self.actors.of(after) - number << shift
                delta += shifted
        return delta


def explore(rules: Rules, limit: int | None = None) -> Result:
    """Every state that can be reached, level by level; stops at the first violation or at `limit` states."""
    began = time.perf_counter()
    space = Space(rules)
    parents = {space.start: -1}
    level = [space.start]
    transitions = depth = 0

    def result(violation: str | None, trace: list[str], *, finished: bool) -> Result:
        seconds = time.perf_counter() - began
        kinds = frozenset(space.kinds)
        return Result(len(parents), transitions, depth, seconds, violation, trace, finished, kinds)

    while level:
        following = []
        for state in level:
            try:
                found = space.successors(state)
            except ViolationError as violation:
                return result(str(violation), [*_trace(space, parents, state), violation.label], finished=False)
            transitions += len(found)
            for successor in found:
                if successor not in parents:
                    parents[successor] = state
                    following.append(successor)
            if limit is not None and len(parents) > limit:
                return result(None, [], finished=False)
        level = following
        depth += 1
    return result(None, [], finished=True)


def _trace(space: Space, parents: dict[int, int], state: int) -> list[str]:
    labels: list[str] = []
    while (parent := parents[state]) >= 0:
        labels.append(space.label(parent, state))
        state = parent
    return labels[::-1]
