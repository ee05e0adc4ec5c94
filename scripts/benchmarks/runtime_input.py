"""What the pipelines of the comparison read: records `(key, milliseconds)`, in order of time, and the windows' size."""

import random

WINDOW_MS = 10_000
KEYS = 1000
PER_MS = 10


def records(count: int) -> list[tuple[str, int]]:
    rng = random.Random(7)
    keys = [f"user-{number}" for number in range(KEYS)]
    return [(rng.choice(keys), number // PER_MS) for number in range(count)]
