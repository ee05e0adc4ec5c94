"""The aligner: what it answers to barriers in every mode, and that the cut it makes is consistent on any graph."""

import random

import pytest

from eoctl.runtime.alignment import Aligner, Captured, GivenUp, Mode, Snapshot
from eoctl.runtime.channels import Channel
from eoctl.runtime.records import Barrier, Batch

ALO = Mode.AT_LEAST_ONCE


def test_an_aligned_input_is_blocked_until_all_barriers_are_there() -> None:
    aligner = Aligner(3)
    assert aligner.received(0, 1, 0.0) == []
    assert [aligner.blocks(channel) for channel in range(3)] == [True, False, False]
    assert aligner.received(2, 1, 1.0) == []
    assert aligner.received(1, 1, 5.0) == [Snapshot(1, unaligned=False), Captured(1)]
    assert not any(aligner.blocks(channel) or aligner.captures(channel) for channel in range(3))
    assert aligner.alignment_seconds == 5.0
    assert aligner.checkpoint is None


def test_at_the_first_unaligned_barrier_the_snapshot_is_taken_and_open_inputs_are_captured() -> None:
    aligner = Aligner(2, timeout_seconds=0)
    assert aligner.received(1, 1, 0.0, unaligned=True) == [Snapshot(1, unaligned=True)]
    assert (aligner.captures(0), aligner.captures(1)) == (True, False)
    assert not aligner.blocks(0)
    assert not aligner.blocks(1)
    assert aligner.received(0, 1, 2.0, unaligned=True) == [Captured(1)]


def test_an_unaligned_barrier_turns_an_alignment_under_way() -> None:
    aligner = Aligner(3, timeout_seconds=9)
    aligner.received(0, 1, 0.0)
    assert aligner.received(1, 1, 1.0, unaligned=True) == [Snapshot(1, unaligned=True)]
    assert [aligner.captures(channel) for channel in range(3)] == [False, False, True]
    assert not aligner.blocks(0)


def test_the_timeout_counts_from_the_first_barrier_in_a_channel() -> None:
    aligner = Aligner(2, timeout_seconds=1.0)
    aligner.announced(1, 10.0)
    aligner.announced(1, 10.9)
    assert aligner.overdue(10.99) is None
    assert aligner.overdue(11.0) == 1
    assert aligner.go_unaligned(1, 11.0) == [Snapshot(1, unaligned=True)]
    assert aligner.overdue(20.0) is None
    assert aligner.received(0, 1, 11.0) == []
    assert aligner.received(1, 1, 12.0) == [Captured(1)]
    assert aligner.overdue(20.0) is None


def test_at_least_once_blocks_nothing_and_takes_the_snapshot_at_the_last_barrier() -> None:
    aligner = Aligner(2, ALO, timeout_seconds=0)
    assert aligner.received(0, 1, 0.0) == []
    assert not aligner.blocks(0)
    assert aligner.overdue(99.0) is None
    assert aligner.received(1, 1, 1.0) == [Snapshot(1, unaligned=False), Captured(1)]


def test_a_newer_barrier_gives_up_the_alignment_under_way() -> None:
    aligner = Aligner(2)
    aligner.received(0, 1, 0.0)
    assert aligner.received(1, 2, 1.0) == [GivenUp(1)]
    assert [aligner.blocks(0), aligner.blocks(1)] == [False, True]
    assert aligner.received(1, 1, 1.5) == []
    assert aligner.received(0, 2, 2.0) == [Snapshot(2, unaligned=False), Captured(2)]


def test_barriers_of_an_aborted_checkpoint_are_passed_over() -> None:
    aligner = Aligner(2)
    aligner.received(0, 1, 0.0)
    assert aligner.aborted(1) == [GivenUp(1)]
    assert aligner.received(1, 1, 1.0) == []
    assert aligner.aborted(1) == []
    assert not aligner.blocks(0)
    aligner.aborted(3)
    assert aligner.received(0, 2, 2.0) == []
    assert aligner.received(0, 4, 2.0) == []
    assert aligner.blocks(0)


def test_one_input_needs_no_alignment() -> None:
    assert Aligner(1).received(0, 7, 0.0) == [Snapshot(7, unaligned=False), Captured(7)]


Records = dict[tuple[int, int], list[object]]


class Node:
    """Counts what it took from each channel; sends each record on to one of its outputs."""

    def __init__(self, name: int, rng: random.Random, timeout: float | None, mode: Mode) -> None:
        self.name, self.rng = name, rng
        self.inputs: list[Channel] = []
        self.outputs: list[Channel] = []
        self.timeout, self.mode = timeout, mode
        self.taken: dict[tuple[int, int], list[object]] = {}
        self.sent: dict[tuple[int, int], list[object]] = {}
        self.cut: tuple[Records, Records] | None = None
        self.captured: dict[tuple[int, int], list[object]] = {}
        self.overtaken: dict[tuple[int, int], list[object]] = {}
        self.whole = False
        self.serial = 0

    def open(self) -> None:
        self.aligner = Aligner(max(1, len(self.inputs)), self.mode, self.timeout)
        self.taken = {key(channel): [] for channel in self.inputs}
        self.sent = {key(channel): [] for channel in self.outputs}

    def send(self) -> None:
        channel = self.rng.choice(self.outputs)
        self.serial += 1
        record = (self.name, self.serial)
        channel.put(Batch([record]))
        self.sent[key(channel)].append(record)

    def snapshot(self, checkpoint: int, *, unaligned: bool) -> None:
        self.cut = ({k: list(v) for k, v in self.taken.items()}, {k: list(v) for k, v in self.sent.items()})
        for channel in self.outputs:
            barrier = Barrier(checkpoint, unaligned)
            if unaligned:
                self.overtaken[key(channel)] = [b.values[0] for b in channel.overtake(barrier)]
            else:
                channel.put(barrier)

    def act(self, actions, now) -> None:
        for action in actions:
            match action:
                case Snapshot(checkpoint, unaligned):
                    self.snapshot(checkpoint, unaligned=unaligned)
                    for place, channel in enumerate(self.inputs) if unaligned else ():
                        if self.aligner.captures(place) and (before := channel.advance(checkpoint)) is not None:
                            self.captured.setdefault(key(channel), []).extend(b.values[0] for b in before)
                            self.act(self.aligner.received(place, checkpoint, now), now)
                case Captured():
                    self.whole = True

    def step(self, now: float) -> None:
        late = self.aligner.overdue(now)
        if late is not None and self.inputs:
            self.act(self.aligner.go_unaligned(late, now), now)
        open_channels = [p for p, c in enumerate(self.inputs) if c.queue and not self.aligner.blocks(p)]
        if not open_channels:
            return
        place = self.rng.choice(open_channels)
        channel = self.inputs[place]
        for barrier in channel.arrived:
            self.aligner.announced(barrier.checkpoint, now)
        element = channel.take()
        if isinstance(element, Barrier):
            self.act(self.aligner.received(place, element.checkpoint, now, unaligned=element.unaligned), now)
            return
        assert isinstance(element, Batch)
        self.taken[key(channel)].append(element.values[0])
        if self.aligner.captures(place):
            self.captured.setdefault(key(channel), []).append(element.values[0])
        if self.outputs:
            self.send()


def key(channel: Channel) -> tuple[int, int]:
    return channel.upstream[1], channel.target[1]


def run(seed: int, mode: Mode = Mode.EXACTLY_ONCE, timeout: float | None = None) -> list[Node]:
    """A random graph that sends, takes one checkpoint at a random moment and drains."""
    rng = random.Random(seed)
    nodes = [Node(number, rng, timeout, mode) for number in range(rng.randint(3, 8))]
    for number, node in enumerate(nodes[1:], 1):
        for source in rng.sample(range(number), rng.randint(1, min(3, number))) if number > 1 else []:
            channel = Channel(("n", source), ("n", number), 0, capacity=1000)
            nodes[source].outputs.append(channel)
            node.inputs.append(channel)
    for node in nodes:
        node.open()
    sources = [node for node in nodes if not node.inputs]
    trigger_at = rng.randint(0, 150)
    for now in range(400):
        if now == trigger_at:
            for node in sources:
                node.snapshot(1, unaligned=timeout == 0 and mode is Mode.EXACTLY_ONCE)
                node.whole = True
        node = rng.choice(nodes)
        if node.inputs:
            node.step(float(now))
        elif node.outputs and rng.random() < 0.7:
            node.send()
    now = 400
    while any(channel.queue for node in nodes for channel in node.inputs):
        now += 1
        for node in nodes:
            node.step(float(now))
    return nodes


def inconsistent(nodes: list[Node]) -> list[str]:
    """Channels of whose records the cut has one twice, or lacks one."""
    found = []
    for node in nodes:
        assert node.cut is not None, "every node took its snapshot"
        assert node.whole
        for channel in node.inputs:
            upstream = nodes[channel.upstream[1]]
            assert upstream.cut is not None
            sent = upstream.cut[1][key(channel)]
            in_flight = node.captured.get(key(channel), []) + upstream.overtaken.get(key(channel), [])
            if node.cut[0][key(channel)] + in_flight != sent:
                found.append(f"{key(channel)}: sent {sent}, taken {node.cut[0][key(channel)]}, in flight {in_flight}")
    return found


@pytest.mark.parametrize("timeout", [None, 0, 5.0, 60.0])
def test_the_cut_is_consistent_on_random_graphs(timeout: float | None) -> None:
    in_flight = 0
    for seed in range(150):
        nodes = run(seed, timeout=timeout)
        assert inconsistent(nodes) == [], f"seed {seed}"
        in_flight += sum(
            len(records) for node in nodes for records in [*node.captured.values(), *node.overtaken.values()]
        )
    assert (in_flight > 0) == (timeout is not None), "the modes were met"


def test_without_alignment_the_cut_is_not_consistent() -> None:
    assert any(inconsistent(run(seed, ALO)) for seed in range(50))
