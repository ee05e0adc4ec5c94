"""The protocol as steps: what happens to HEAD, and sessions that upload, commit, are overtaken, crash and start again.

Each step is one storage request, or one swap of HEAD. Where a test is `broken == "..."`, that is a mutant: exactly
this rule is left out (tests/model/mutants.py). Names in brackets are the code that does it for real.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

from tests.model.explorer import POWER, Move
from tests.model.world import Entry, Head, Says, Store, World


class Actor(NamedTuple):
    """`plans`: the contents of each session's snapshot, in order; "ab" has two. A crash uses one up too."""

    kind: str  # writer, saver (savepoints), reader, repacker, forker
    plans: tuple[str, ...] = ("a",)
    pipe: int = 0


class Config(NamedTuple):
    actors: tuple[Actor, ...]
    eras: int = 2
    attempts: int = 1
    opens: int = 2  # of each writer, owners that it tries
    expire: bool = True
    undelete: bool = False
    crash: bool = False
    lossy: bool = False  # requests and replies get lost or late: unknown outcomes
    poison: int = 0  # names under which other bytes turn up
    disk: bool = False  # a local disk that loses power
    fsync: str = ""  # a directory's sync fails; synced again it "fails", or it "lies"
    early: bool = False  # a process dies right after its sync failed, before it could say so
    packs: bool = False
    destroy: bool = False
    lose: bool = False  # HEAD gets lost, and is rebuilt
    floors: bool = True  # any floor; False: only the highest and the present one
    broken: str = ""


class Packing(NamedTuple):
    """A pack on its way out: each old manifest and the new one. `stale`: live and trash at the start, for a mutant."""

    pack: int
    renewed: tuple[tuple[int, int], ...]
    stale: tuple[tuple[Entry, ...], tuple[Entry, ...]] | None = None


class Proc(NamedTuple):
    """One process. `own`: keys that its session must have confirmed; `late`: a dead process's request."""

    at: str = "idle"  # idle, work, sent, landed, stale, distrust, held
    job: str = ""  # of a request: open, commit
    n: int = 0  # sessions begun
    opened: int = 0
    attempt: int = 0
    owner: int = 0
    era: int = 0
    plan: Says = ()
    own: int = 0
    confirmed: int = 0
    linking: int = 0
    sent: Head | None = None
    late: tuple[Head, int, int] | None = None
    entry: Entry | None = None  # of a reader or fork: what it reads
    packing: Packing | None = None
    seen: Entry | None = None  # used by mutants only, as is `says`
    says: Says = ()


class Protocol:
    """The rules of tests/model/explorer.py for one configuration; subclassed in tests/model/actors.py."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.broken = config.broken
        self.store = Store(config.broken, disk=config.disk)
        self.settled = self.store.settled

    def start(self) -> tuple[World, list[Proc]]:
        pipes = 1 + max(actor.pipe for actor in self.config.actors)
        return World((Head(),) * pipes), [Proc() for _ in self.config.actors]

    def tx(self, proc: Proc, index: int) -> int:
        return 1 << 4 * index + proc.n

    # The commit rule [edits.commit, edits._check_proof].

    def allowed(self, head: Head, proc: Proc, bit: int) -> bool:
        """(a) A root of `head` refers to the key, or (b) this session confirmed it, in an era not below the floor."""
        store, key = self.store, self.store.key(bit)
        match self.broken:
            case "no base re-check" if not bit & proc.own and key.kind == "o":
                return True
            case "manifest key outside the rule" if key.kind == "m":
                return True
            case "m/ stands for o/" if self._twin(head, bit):
                return True
            case "fork names the source's keys" if key.pipe != 1 and proc.entry is not None:
                return True
        if bit & store.named(head):
            return True
        floor = head.floor
        era = key.era
        if self.broken == "no floor check" or (
            self.broken == "repack without the commit rule" and proc.job == "rewrite"
        ):
            return bool(bit & proc.confirmed)
        if self.broken == "commit rule off by one":
            floor -= 1
        if self.broken in {"rule (b) by the session's era", "key without era"}:
            era = proc.era
        return bool(bit & proc.confirmed) and era >= floor

    def _twin(self, head: Head, bit: int) -> bool:
        """Mutant: content "x" has the bytes of any manifest, and a referenced manifest's key is taken for a blob's."""
        key = self.store.key(bit)
        return key.digest == "x" and any(self.store.key(m).era == key.era for _, m in head.roots())

    # What happens to HEAD besides commits [edits.py]; each is one swap, applied to the value that it replaces.

    def shared_moves(self, world: World) -> Iterator[Move]:
        if world.unsynced is not None:
            yield Move("somebody reads HEAD", self.store.read(world))
        yield from self._loss_of_power(world)
        world = self.store.read(world)
        for pipe, head in enumerate(world.heads):
            if head.state == "lost":
                yield from self._rebuild(world, head)
            elif head.state == "destroyed":
                if self.broken == "destroyed HEAD advanced" and head.era < self.config.eras:
                    yield self._edit("advance", world, pipe, head._replace(era=head.era + 1, floor=head.floor))
            else:
                yield from self._advance(world, pipe, head)
                yield from self._retention(world, pipe, head)
                if self.config.destroy:
                    gone = head._replace(state="destroyed", attempt=head.attempt + 1, floor=head.era + 1)
                    gone = gone._replace(live=(), trash=(), holds=())
                    yield self._edit("destroy", world, pipe, gone, drops=True)
                if self.config.lose and world.lost is None:
                    heads = (head._replace(state="lost"), *world.heads[1:])
                    yield Move("HEAD is lost", world._replace(heads=heads, lost=head), others=pipe)

    def _edit(self, label: str, world: World, pipe: int, head: Head, *, drops: bool = False) -> Move:
        return Move(f"{label} {pipe}", self.store.swap(world, pipe, head, drops=drops), others=pipe)

    def _advance(self, world: World, pipe: int, head: Head) -> Iterator[Move]:
        """gc: era + 1, any floor up to the old era; trash goes or stays. No policy is trusted, so all are tried."""
        if head.era >= self.config.eras:
            return
        copies = {world.copy, head} if self.config.lose else {None}  # bak/ is advisory: not every copy is made
        lowest = 0 if self.broken == "floor moves back" else head.floor
        floors = range(lowest, head.era + 1) if self.config.floors else {head.floor, head.era}
        for floor, trash, copy in itertools.product(floors, {head.trash, ()}, copies):
            world = world._replace(copy=copy)
            new = head._replace(era=head.era + 1, floor=floor, trash=trash)
            label = f"advance to era {new.era}, floor {floor}{'' if trash == head.trash else ', trash dropped'}"
            yield self._edit(label, world, pipe, new, drops=True)
            if self.broken == "sweep before the swap is committed":
                doomed = world.doomed | self.store.garbage(world, pipe, new)
                yield Move(f"sweep as if {label}", world._replace(doomed=doomed))

    def _retention(self, world: World, pipe: int, head: Head) -> Iterator[Move]:
        for entry in head.live if self.config.expire else ():
            live = tuple(e for e in head.live if e != entry)
            new = head._replace(live=live, trash=(*head.trash, entry))
            yield self._edit(f"expire {entry[0]:x}", world, pipe, new)
        for entry in head.trash if self.config.undelete else ():
            new = head._replace(live=(*head.live, entry), trash=tuple(e for e in head.trash if e != entry))
            yield self._edit(f"undelete {entry[0]:x}", world, pipe, new)
        if self.broken == "undelete from memory":
            for entry in head.trash:
                yield Move("somebody reads the trash", world._replace(memory=entry))
            if world.memory and world.memory not in head.live:
                new = head._replace(live=(*head.live, world.memory))
                yield self._edit("undelete", world._replace(memory=None), pipe, new)

    def _loss_of_power(self, world: World) -> Iterator[Move]:
        """Every process dies; each name that is not durable stays or goes, and so does an unsynced HEAD."""
        if not self.config.disk:
            return
        names = self.store.each(world.linked | world.suspect)
        for kept in itertools.product((False, True), repeat=len(names)):
            survivors = sum(name for name, stays in zip(names, kept, strict=True) if stays)
            after = world._replace(present=world.present | survivors, linked=0, suspect=0, erring=False)
            yield Move("power is lost", after._replace(unsynced=None), others=POWER)
            if world.unsynced is not None:
                old, committed, dropped = world.unsynced
                after = after._replace(heads=(old,), committed=committed, dropped=dropped, unsynced=None)
                yield Move("power is lost, and HEAD's rename with it", after, others=POWER)

    def _rebuild(self, world: World, head: Head) -> Iterator[Move]:
        """`store repair --rebuild-head` [rebuild.py]: one era above all, its floor too, attempt + 1.

        Entries are those whose manifests lie in the store; perhaps those that only the copy in bak/ names, and those
        that were never committed. `head` is the HEAD that was lost: it stands for the large step in the counters.
        """
        store, copy = self.store, world.copy or Head()
        if self.broken == "old HEAD put back":
            yield Move("old HEAD put back", store.swap(world, 0, copy, drops=True), others=0)
            return
        era = copy.era if self.broken == "era kept on rebuild" else head.era + 1
        if era > self.config.eras:
            return
        found = head.live + head.trash
        old = tuple(entry for entry in copy.roots() if entry not in head.roots())
        readable = [bit for bit in store.each(world.present) if store.key(bit).kind == "m"]
        orphans = tuple((0, m) for m in readable if not store.refs(((0, m),)) & ~world.present)
        for entries in {found, found + old, found + old + orphans}:
            after, live = world, set()
            for tx, manifest in entries:
                says = tuple((content, self._copied(bit, era)) for content, bit in store.says(manifest))
                copies = {
                    new
                    for (_, new), (_, bit) in zip(says, store.says(manifest), strict=True)
                    if self._copy_is_there(world, bit)
                }
                if self.broken == "rebuilt in place":
                    live.add((tx, manifest))
                else:
                    new = store.manifest(0, says, era)
                    after = after._replace(present=after.present | sum(copies) | new)
                    live.add((tx, new))
            new_head = Head(era, era, head.attempt + 1, owner=-1, last_tx=-1, live=tuple(sorted(live)))
            match self.broken:
                case "attempt kept on rebuild":
                    new_head = new_head._replace(attempt=copy.attempt, owner=copy.owner)
                case "floor kept on rebuild":
                    new_head = new_head._replace(floor=copy.floor)
            # Here alone may entries go without trash and gc: those whose manifests were not found, and it says so.
            yield Move("HEAD is rebuilt", store.swap(after, 0, new_head, drops=True), others=0)

    def _copied(self, bit: int, era: int) -> int:
        return self.store.blob(0, self.store.contents(bit), era)

    def _copy_is_there(self, world: World, bit: int) -> bool:
        """Whether the copy is there afterwards: an entry is taken only if all are, and that is checked."""
        return self.broken != "rebuild does not check its copies" or bool(bit & world.present & ~world.doomed)
