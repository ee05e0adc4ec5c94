"""What is shared: HEADs, stored keys, and what was said to whom. The two rules and the invariants live here.

A set of keys is an integer with one bit for each key. gc is the strongest that the delete rule allows: a key that was
garbage in a committed HEAD once is `doomed`, which means that it may vanish and come back at any moment from then on
(late and repeated deletes, uploads, copies, by any number of gcs with HEADs of any age). So a doomed key that HEAD
refers to is a lost file, and nothing else about deleting needs to be explored.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from tests.model.explorer import ViolationError

Says = tuple[tuple[str, int], ...]  # a manifest: each content and the key (its bit) that holds it
Entry = tuple[int, int]  # txid, manifest key


# Mutants that let a counter go back: their harm has to show, not only the counter.
COUNTERS = frozenset(
    {
        "no CAS",
        "floor moves back",
        "old HEAD put back",
        "attempt kept on rebuild",
        "era kept on rebuild",
        "floor kept on rebuild",
    }
)


class Key(NamedTuple):
    """`digest`: the contents of a blob ("a"; a pack is "ab"); of a manifest, what it says."""

    pipe: int
    kind: str
    digest: str | Says
    era: int


class Head(NamedTuple):
    """A value of HEAD. Its `seq` and nonce are its place in the exploration: a swapped HEAD makes requests stale."""

    era: int = 1
    floor: int = 0
    attempt: int = 0
    owner: int = 0
    last_tx: int = 0
    live: tuple[Entry, ...] = ()
    trash: tuple[Entry, ...] = ()
    holds: tuple[tuple[int, Entry], ...] = ()
    state: str = "active"

    def roots(self) -> tuple[Entry, ...]:
        return (*self.live, *self.trash, *(entry for _, entry in self.holds))


class World(NamedTuple):
    heads: tuple[Head, ...]
    present: int = 0  # complete and durable
    linked: int = 0  # local disk: named, but the directory is not synced
    suspect: int = 0  # local disk: named, and the sync of the directory failed
    doomed: int = 0
    poison: int = 0  # other bytes lie under the name
    committed: int = 0  # txids that were in a HEAD (I2)
    dropped: int = 0  # txids that left it as they may (I6)
    told: int = 0  # txids reported as success
    failed: int = 0  # txids reported as failure
    unsynced: tuple[Head, int, int] | None = None  # HEAD, committed, dropped that a loss of power brings back
    copy: Head | None = None  # bak/
    lost: Head | None = None  # the last value of a HEAD that was lost: late deletes may still follow from it
    erring: bool = False  # local disk: a further sync of a suspect name fails too
    note: bool = False  # "sync-failed" among the pins
    memory: Entry | None = None  # used by mutants only


class Store:
    """Keys and their bits, the delete rule, the swap, the invariants."""

    def __init__(self, broken: str = "", *, disk: bool = False) -> None:
        self.broken = broken
        self.disk = disk
        self._bits: dict[Key, int] = {}
        self.keys: list[Key] = []
        self._of_era: dict[tuple[int, int], int] = {}
        self.refs = cache(self._refs)
        self.kept = cache(self._kept)

    # Keys.

    def blob(self, pipe: int, digest: str, era: int) -> int:
        return self._bit(Key(pipe, "o", digest, 1 if self.broken == "key without era" else era))

    def manifest(self, pipe: int, says: Says, era: int) -> int:
        return self._bit(Key(pipe, "m", says, era))

    def key(self, bit: int) -> Key:
        return self.keys[bit.bit_length() - 1]

    def contents(self, blob: int) -> str:
        return str(self.key(blob).digest)

    def says(self, manifest: int) -> Says:
        digest = self.key(manifest).digest
        assert isinstance(digest, tuple)
        return digest

    def each(self, mask: int) -> list[int]:
        bits = []
        while mask:
            bits.append(mask & -mask)
            mask &= mask - 1
        return bits

    def below(self, pipe: int, era: int) -> int:
        mask = 0
        for older in range(1, era):
            mask |= self._of_era.get((pipe, older), 0)
        return mask

    def _bit(self, key: Key) -> int:
        bit = self._bits.get(key)
        if bit is None:
            bit = self._bits[key] = 1 << len(self.keys)
            self.keys.append(key)
            era = (key.pipe, key.era)
            self._of_era[era] = self._of_era.get(era, 0) | bit
        return bit

    def _refs(self, roots: tuple[Entry, ...]) -> int:
        """The keys that the roots refer to, manifests included."""
        mask = 0
        for _, manifest in roots:
            mask |= manifest
            for _, bit in self.says(manifest):
                mask |= bit
        return mask

    def named(self, head: Head) -> int:
        return self.refs(head.roots())

    # The delete rule: `key.era < floor`, and no root of a committed HEAD refers to it.

    def garbage(self, world: World, pipe: int, head: Head) -> int:
        floor = head.floor + (self.broken == "delete rule off by one")
        return (world.present | world.linked | world.suspect) & self.below(pipe, floor) & ~self.kept(head)

    def _kept(self, head: Head) -> int:
        """What gc takes for referenced: as `named`, but for mutants."""
        roots = head.roots()
        match self.broken:
            case "trash is no root":
                roots = head._replace(trash=()).roots()
            case "gc blind to holds":
                roots = head._replace(holds=()).roots()
            case "unreadable manifest is empty":
                return sum({manifest for _, manifest in roots})
            case "gc blind to manifests":
                return self.refs(roots) & ~sum({manifest for _, manifest in roots})
            case "pack is garbage while one slice is needed":
                needed = [pair for _, manifest in roots for pair in self.says(manifest)]
                whole = {bit for _, bit in needed if {c for c, b in needed if b == bit} == set(self.contents(bit))}
                return sum(whole | {manifest for _, manifest in roots})
        return self.refs(roots)

    def settled(self, world: World) -> World:
        """The world after every sweep that may happen in it. Raises: ViolationError."""
        doomed = world.doomed
        for pipe, head in enumerate(world.heads):
            if world.unsynced is None or self.broken == "gc on an unsynced HEAD":
                doomed |= self.garbage(world, pipe, head)
            else:
                doomed |= self.garbage(world, pipe, world.unsynced[0])
        if world.lost is not None:
            doomed |= self.garbage(world, 0, world.lost)
        world = world._replace(doomed=doomed)
        self.check(world)
        return world

    # The swap of HEAD.

    def read(self, world: World) -> World:
        """Whoever acts on a HEAD has synced its directory (backends/local.py, open)."""
        return world if world.unsynced is None else self.settled(world._replace(unsynced=None))

    def swap(self, world: World, pipe: int, head: Head, tx: int = 0, *, drops: bool = False) -> World:
        """HEAD is `head`; on a disk not yet synced. `tx`: what it commits. `drops`: roots may go."""
        old = world.heads[pipe]
        for name in ("era", "floor", "attempt"):
            if getattr(head, name) < getattr(old, name) and self.broken not in COUNTERS:
                raise ViolationError(f"I3: {name} goes back from {getattr(old, name)} to {getattr(head, name)}")
        if tx & world.committed:
            raise ViolationError("I2: committed twice")
        unsynced = (old, world.committed, world.dropped) if self.disk else None
        if drops:
            world = world._replace(dropped=world.dropped | _txids(old.roots()) & ~_txids(head.roots()))
        heads = (*world.heads[:pipe], head, *world.heads[pipe + 1 :])
        return world._replace(heads=heads, committed=world.committed | tx, unsynced=unsynced)

    def check(self, world: World) -> None:
        """The invariants of a world. Raises: ViolationError."""
        roots = 0
        for pipe, head in enumerate(world.heads):
            named = self.named(head)
            roots |= _txids(head.roots())
            for trouble, why in (
                (named & ~(world.present | world.linked | world.suspect | world.poison), "is missing"),
                (named & world.doomed, "may be deleted"),
                (named & world.poison, "has other bytes"),
            ):
                if trouble:
                    raise ViolationError(f"I1: {self.told(trouble & -trouble)} is referenced and {why}")
            for bit in self.each(named):
                if self.key(bit).pipe != pipe:
                    raise ViolationError(f"I11: pipeline {pipe} refers to {self.told(bit)}")
            if head.floor > head.era and not (head.state == "destroyed" and not head.roots()):
                raise ViolationError("I3: floor above era")
            if head.state == "destroyed" and head.floor != head.era + 1:
                raise ViolationError("I3: a destroyed HEAD has changed")
        if world.committed & ~world.dropped & ~roots:
            raise ViolationError("I6: an entry has vanished")
        if world.told & ~world.committed:
            raise ViolationError("I2: reported as success, but not in HEAD's history")
        if world.failed & world.committed:
            raise ViolationError("I2: reported as failure, but committed")

    def told(self, bit: int) -> str:
        key = self.key(bit)
        if key.kind == "o":
            return f"{key.pipe}/o/{key.digest}.{key.era}"
        said = ",".join(f"{content}:{self.told(blob)}" for content, blob in self.says(bit))
        return f"{key.pipe}/m/({said}).{key.era}"


def _txids(roots: tuple[Entry, ...]) -> int:
    mask = 0
    for tx, _ in roots:
        mask |= tx
    return mask
