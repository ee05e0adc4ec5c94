"""How long a failure lasts: until the state is back, and until the pipeline has caught up. See docs/planning.md."""

from __future__ import annotations

from msgspec import Struct

from formats.errors import UsageError


class Recovery(Struct, frozen=True, kw_only=True):
    """Seconds from the failure to the moment at which nothing is late any more.

    `replay_seconds` is infinite where the pipeline is no faster than its input.
    """

    restart_seconds: float
    restore_seconds: float
    replay_seconds: float
    replayed_records: float

    @property
    def seconds(self) -> float:
        """recovery = restart + restore + replay."""
        return self.restart_seconds + self.restore_seconds + self.replay_seconds


def recovery(
    *,
    age_seconds: float,
    restart_seconds: float,
    restore_seconds: float,
    records_per_second: float,
    capacity_per_second: float,
) -> Recovery:
    """A recovery from a snapshot whose offsets are `age_seconds` old when the failure happens.

    What is read again is the input of that time and of the time that restart and restore take; new input comes in
    meanwhile, so only `capacity - input` works it off. Raises: UsageError.
    """
    if records_per_second < 0 or capacity_per_second < 0:
        raise UsageError("a rate cannot be below 0", hint="records in a second")
    down = restart_seconds + restore_seconds
    spare = capacity_per_second - records_per_second
    backlog = records_per_second * (age_seconds + down)
    replay = 0.0 if backlog == 0 else backlog / spare if spare > 0 else float("inf")
    return Recovery(
        restart_seconds=restart_seconds,
        restore_seconds=restore_seconds,
        replay_seconds=replay,
        replayed_records=records_per_second * age_seconds,
    )


def worst_age(interval_seconds: float, duration_seconds: float) -> float:
    """The oldest that the newest complete checkpoint gets: it fails just before the next one is complete."""
    return interval_seconds + duration_seconds


def mean_age(interval_seconds: float, duration_seconds: float) -> float:
    """Its age on average over all moments at which a failure can come."""
    return interval_seconds / 2 + duration_seconds


def longest_age(
    recovery_seconds: float,
    *,
    restart_seconds: float,
    restore_seconds: float,
    records_per_second: float,
    capacity_per_second: float,
) -> float:
    """How old a snapshot may be for a recovery within `recovery_seconds`: `recovery` solved for the age.

    Below 0: no snapshot is young enough. Infinite: there is no input to read again.
    """
    down = restart_seconds + restore_seconds
    left = recovery_seconds - down
    if records_per_second == 0:
        return float("inf") if left >= 0 else -1.0
    return left * (capacity_per_second - records_per_second) / records_per_second - down
