"""The coordinator, event by event, and its rules on random histories."""

import random

import pytest

from eoctl.runtime.coordinator import (
    Abort,
    Acknowledged,
    Command,
    Complete,
    Declined,
    Event,
    Fail,
    NotPublished,
    Publish,
    Published,
    Rules,
    StopPublishing,
    Tick,
    Trigger,
    Wanted,
    begin,
    decide,
    wake_at,
)

A, B = ("source", 0), ("sink", 0)


class Machine:
    def __init__(self, **rules: float) -> None:
        self.rules = Rules(**{"interval_seconds": 10, "timeout_seconds": 60, "tolerable_failures": 9, **rules})  # type: ignore[arg-type]
        self.state = begin(frozenset({A, B}), 0, 0.0, self.rules)

    def __call__(self, now: float, *events: Event) -> list[Command]:
        commands: list[Command] = []
        for event in events or (Tick(),):
            self.state, more = decide(self.rules, self.state, event, now)
            commands += more
        return commands


def test_a_checkpoint_from_trigger_to_completion() -> None:
    machine = Machine()
    assert machine(9.9) == []
    assert machine(10) == [Trigger(1)]
    assert machine(11, Acknowledged(1, A)) == []
    assert machine(12, Acknowledged(1, B)) == [Publish(1)]
    assert machine(13, Published(1)) == [Complete(1)]
    assert machine.state.complete == 1
    assert machine(19.9) == []
    assert machine(20) == [Trigger(2)]


def test_the_pause_is_kept_after_a_checkpoint_ended() -> None:
    machine = Machine(min_pause_seconds=30)
    machine(10)
    machine(15, Acknowledged(1, A), Acknowledged(1, B), Published(1))
    assert wake_at(machine.rules, machine.state) == 45
    assert machine(44) == []
    assert machine(45) == [Trigger(2)]


def test_a_partial_acknowledgement_times_out_and_what_comes_later_is_dropped() -> None:
    machine = Machine()
    machine(10, Tick(), Acknowledged(1, A))
    assert machine(69) == []
    commands = machine(70)
    assert commands == [Abort(1, "not acknowledged within 60 s: sink/0"), Trigger(2)]
    assert machine(71, Acknowledged(1, B), Declined(1, B, "late"), Published(99)) == [Complete(99)]
    assert [one.missing for one in machine.state.pending] == [frozenset({A, B})]


def test_a_refusal_aborts() -> None:
    machine = Machine()
    machine(10)
    assert machine(11, Declined(1, B, "disk full")) == [Abort(1, "sink/0: disk full")]
    assert machine(20) == [Trigger(2)]


def test_one_failure_more_than_tolerated_fails_the_pipeline() -> None:
    machine = Machine(tolerable_failures=1)
    machine(10)
    machine(11, Declined(1, B, "no"))
    machine(20)
    commands = machine(21, Declined(2, B, "no again"))
    assert commands[-1] == Fail("2 checkpoints failed one after the other, the last one: sink/0: no again")
    assert machine(99) == []


def test_a_success_forgives_failures() -> None:
    machine = Machine(tolerable_failures=1)
    machine(10)
    machine(11, Declined(1, B, "no"))
    machine(20)
    machine(21, Acknowledged(2, A), Acknowledged(2, B), Published(2))
    machine(30)
    assert machine(31, Declined(3, B, "no")) == [Abort(3, "sink/0: no")]


def test_a_newer_complete_checkpoint_makes_an_older_one_pointless() -> None:
    machine = Machine(max_concurrent=2)
    machine(10)
    machine(20)
    machine(21, Acknowledged(1, A))
    assert machine(22, Acknowledged(2, A), Acknowledged(2, B)) == [
        Abort(1, "checkpoint 2 overtook it", failure=False),
        Publish(2),
    ]
    assert machine.state.failures == 0


def test_publications_come_one_after_the_other() -> None:
    machine = Machine(max_concurrent=2)
    machine(10)
    machine(20, Tick(), Acknowledged(1, A), Acknowledged(1, B))
    assert machine(21, Acknowledged(2, A), Acknowledged(2, B)) == []
    assert machine(22, Published(1)) == [Complete(1), Publish(2)]


def test_a_slow_publication_is_asked_to_stop_and_its_answer_decides() -> None:
    machine = Machine()
    machine(10)
    machine(11, Acknowledged(1, A), Acknowledged(1, B))
    assert machine(70) == [StopPublishing(1)]
    assert machine(80) == []
    assert machine(81, NotPublished(1, "stopped")) == [Abort(1, "not published within 60 s"), Trigger(2)]
    machine(82, Acknowledged(2, A), Acknowledged(2, B))
    assert machine(150) == [StopPublishing(2)]
    assert machine(151, Published(2)) == [Complete(2), Trigger(3)]


def test_a_failed_publication_aborts() -> None:
    machine = Machine()
    machine(10, Tick(), Acknowledged(1, A), Acknowledged(1, B))
    assert machine(11, NotPublished(1, "the store is full")) == [Abort(1, "the store is full")]


def test_a_wanted_checkpoint_is_taken_when_none_is_under_way() -> None:
    machine = Machine(max_concurrent=3)
    machine(10)
    assert machine(11, Wanted()) == []
    machine(12, Acknowledged(1, A), Acknowledged(1, B))
    assert machine(13, Published(1)) == [Complete(1), Trigger(2)]


@pytest.mark.parametrize("seed", range(40))
def test_rules_hold_on_random_histories(seed: int) -> None:
    rng = random.Random(seed)
    machine = Machine(max_concurrent=rng.randint(1, 3), timeout_seconds=rng.randint(5, 30), tolerable_failures=10**6)
    now = 0.0
    under_way: set[int] = set()
    publishing: set[int] = set()
    ended: set[int] = set()
    complete: list[int] = []
    acknowledged: dict[int, set[tuple[str, int]]] = {}
    for _ in range(600):
        now += rng.random() * 5
        some = rng.randint(max(1, machine.state.next_id - 4), machine.state.next_id)
        asked = rng.choice(sorted(publishing)) if publishing else 0
        events: list[Event] = [
            Tick(),
            Wanted(),
            *4 * [Acknowledged(some, A), Acknowledged(some, B)],
            Declined(some, A, "x"),
        ]
        events += [Published(asked), NotPublished(asked, "x")] if asked else []
        event = rng.choice(events)
        if isinstance(event, Acknowledged):
            acknowledged.setdefault(event.checkpoint, set()).add(event.subtask)
        if isinstance(event, Published | NotPublished):
            publishing.discard(event.checkpoint)
        for command in machine(now, event):
            match command:
                case Trigger(checkpoint):
                    assert checkpoint == max(ended | under_way, default=0) + 1, "ids are never used twice"
                    acknowledged[checkpoint] = set()
                    under_way.add(checkpoint)
                case Publish(checkpoint):
                    assert not publishing, "one publication at a time"
                    assert acknowledged[checkpoint] == {A, B}, "every acknowledgement is needed"
                    assert checkpoint > max(complete, default=0)
                    publishing.add(checkpoint)
                case Complete(checkpoint) | Abort(checkpoint):
                    assert checkpoint in under_way, "a checkpoint ends once"
                    under_way.discard(checkpoint)
                    ended.add(checkpoint)
                    if isinstance(command, Complete):
                        complete.append(checkpoint)
        assert len(under_way) <= machine.rules.max_concurrent
        assert {one.checkpoint for one in machine.state.pending} == under_way
    assert complete == sorted(complete)
    assert ended
