"""The others: readers under a hold, gc's re-packing [repack.py, edits.rewrite], forks into another pipeline."""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.explorer import Move, ViolationError
from tests.model.protocol import Packing, Proc
from tests.model.sessions import Sessions
from tests.model.world import Entry, Head, World


class Actors(Sessions):
    """All rules of the model."""

    def idle(self, world: World, proc: Proc, index: int) -> Iterator[Move]:
        actor = self.config.actors[index]
        if world.heads[0].state == "lost":
            return
        match actor.kind:
            case "reader" | "forker" if proc.entry is None:
                if proc.n < len(actor.plans):
                    yield from self._hold(self.store.read(world), proc, index)
            case "reader":
                yield from self._read(world, proc, index)
            case "forker" if proc.n == len(actor.plans):
                yield self._release(self.store.read(world), proc, index)
            case "forker":
                yield from self._fork(self.store.read(world), proc, index)
            case "repacker":
                if proc.n < len(actor.plans):
                    yield from self._repack(self.store.read(world), proc, index)
            case _:
                yield from super().idle(world, proc, index)

    # Holds: always on pipeline 0, and always a root of the value that is swapped [edits.hold, edits.release].

    def _hold(self, world: World, proc: Proc, index: int) -> Iterator[Move]:
        head = world.heads[0]
        if head.state != "active":
            return
        roots = set(head.roots())
        if self.broken in {"hold from memory", "read what was there before the hold"}:
            if proc.seen is None:
                for entry in roots:
                    yield Move(f"{index} reads HEAD", world, proc._replace(seen=entry))
                return
            roots = {proc.seen} if self.broken == "hold from memory" else {e for e in roots if e[0] == proc.seen[0]}
        for entry in roots:
            reads = proc.seen or entry
            holding = proc._replace(entry=reads, n=proc.n + (self.config.actors[index].kind == "reader"), seen=None)
            if self.broken == "fork without a hold":
                yield Move(f"{index} reads {entry[0]:x}", world, holding)
                continue
            new = head._replace(holds=(*head.holds, (4 * index + proc.n, entry)))
            yield Move(f"{index} holds {entry[0]:x}", self.store.swap(world, 0, new), holding, 0)

    def _release(self, world: World, proc: Proc, index: int) -> Move:
        head = world.heads[0]
        kept = tuple(hold for hold in head.holds if hold[0] // 4 != index)
        after = self.store.swap(world, 0, head._replace(holds=kept), drops=True)
        return Move(f"{index} releases", after, proc._replace(entry=None), 0)

    def _read(self, world: World, proc: Proc, index: int) -> Iterator[Move]:
        """I7: who reads under a hold finds every key that the held manifest named when the hold was taken."""
        assert proc.entry is not None
        self._must_find(world, proc.entry, self.store.refs((proc.entry,)), index)
        if world.heads[0].state == "active":
            yield self._release(self.store.read(world), proc, index)

    def _must_find(self, world: World, entry: Entry, bits: int, index: int) -> None:
        missing = bits & (world.doomed | ~world.present)
        if missing:
            text = f"I7: {self.store.told(missing & -missing)} may be gone under a hold on {entry[0]:x}"
            raise ViolationError(text, f"{index} reads {entry[0]:x}")

    # Fork: a copy into pipeline 1 in that pipeline's own era, under a new manifest.

    def _fork(self, world: World, proc: Proc, index: int) -> Iterator[Move]:
        assert proc.entry is not None
        says = self.store.says(proc.entry[1])
        if world.heads[1].state != "active":
            return
        if self.broken == "fork names the source's keys":
            working = proc._replace(at="work", job="commit", n=proc.n + 1, era=world.heads[1].era, plan=says)
            yield Move(f"{index} plans the source's keys", world, working)
            return
        for move in self.begin(world, proc, index, "".join(content for content, _ in says)):
            if self.broken == "fork does not confirm its copies":
                move = move._replace(actor=move.actor._replace(confirmed=move.actor.own))  # noqa: PLW2901
            yield move

    def upload(self, world: World, proc: Proc, index: int, bit: int) -> Iterator[Move]:
        key = self.store.key(bit)
        if self.config.actors[index].kind == "forker" and key.kind == "o":
            assert proc.entry is not None
            says = self.store.says(proc.entry[1])
            sources = {blob for content, blob in says if content in self.store.contents(bit)}
            self._must_find(world, proc.entry, sum(sources) | proc.entry[1], index)
            if self.broken == "hold released before the copy is done":
                yield self._release(self.store.read(world), proc, index)._replace(actor=proc)
        if proc.job == "rewrite" and key.kind == "o" and proc.packing is not None and proc.packing.pack & world.doomed:
            yield Move(f"{index} finds its pack gone", world, self.done(proc))
        yield from super().upload(world, proc, index, bit)

    # Re-packing, a session of gc's own.

    def _repack(self, world: World, proc: Proc, index: int) -> Iterator[Move]:
        """The needed slices of a pack go into a new one; each root that names the pack gets a new manifest."""
        store, head = self.store, world.heads[0]
        if head.state != "active":
            return
        named = {pair for _, manifest in head.roots() for pair in store.says(manifest)}
        for pack in {bit for _, bit in named}:
            digest = store.contents(pack)
            needed = "".join(content for content in digest if (content, pack) in named)
            if needed == digest:
                continue
            new = store.blob(0, needed, head.era)
            moved = []
            for manifest in {m for _, m in self._movable(head)}:
                says = store.says(manifest)
                if any(bit == pack for _, bit in says):
                    renewed = tuple((content, new if bit == pack else bit) for content, bit in says)
                    moved.append((manifest, store.manifest(0, renewed, head.era)))
            if not moved:
                continue
            manifests = sum({m for _, m in moved})
            sure = 0
            if self.broken == "repacked slices not confirmed":
                sure = new
            elif self.broken == "repacked manifests not uploaded":
                sure = manifests
            stale = (head.live, head.trash) if self.broken == "repack from a stale HEAD" else None
            working = proc._replace(at="work", job="rewrite", n=proc.n + 1, era=head.era, own=new | manifests)
            working = working._replace(packing=Packing(pack, tuple(moved), stale), confirmed=sure)
            yield Move(f"{index} re-packs {store.told(pack)}", world, working)

    def _movable(self, head: Head) -> tuple[Entry, ...]:
        """Roots that get a new manifest. A hold keeps its own: who reads under it has read that manifest already."""
        return head.roots() if self.broken == "repack moves holds" else head.live + head.trash

    def rewrite(self, world: World, proc: Proc, index: int) -> Iterator[Move]:
        """[edits.rewrite] One swap under the commit rule; roots that are gone meanwhile stay gone."""
        world = self.store.read(world)
        head = world.heads[0]
        assert proc.packing is not None
        renewed = dict(proc.packing.renewed)
        if head.state != "active":
            yield Move(f"{index} is refused", world, self.done(proc))
            return
        touched = {renewed[m] for _, m in self._movable(head) if m in renewed}
        named = self.store.refs(tuple((0, m) for m in touched))
        if not all(self.allowed(head, proc, bit) for bit in self.store.each(named)):
            yield Move(f"{index} is too late to re-pack", world, self.done(proc))
            return
        live, trash, holds = head.live, head.trash, head.holds
        if proc.packing.stale is not None:
            live, trash = proc.packing.stale
        new = head._replace(
            live=tuple((tx, renewed.get(m, m)) for tx, m in live),
            trash=tuple((tx, renewed.get(m, m)) for tx, m in trash),
        )
        if self.broken == "repack moves holds":
            new = new._replace(holds=tuple((name, (tx, renewed.get(m, m))) for name, (tx, m) in holds))
        after = self.store.swap(world, 0, new)
        if self.broken == "repack deletes the old pack":
            after = after._replace(doomed=after.doomed | proc.packing.pack)
        yield Move(f"{index} swaps the manifests", after, self.done(proc), 0)
