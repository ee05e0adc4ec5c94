"""What is to be done after a restore, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eoctl.services.rescale import RestoredState
    from eoctl.services.values import Restored


def next_steps(restored: Restored | RestoredState) -> Iterator[str]:
    """Where sources go on, which transactions to end, what is not there."""
    for uid, positions in restored.source_offsets.items():
        told = ", ".join(f"{partition} at {position}" for partition, position in positions.items())
        yield f"source {uid} goes on from: {told}"
    if restored.transactions.commit:
        yield f"transactions to commit: {', '.join(restored.transactions.commit)}"
    if restored.transactions.abort:
        yield f"transactions to abort: {', '.join(restored.transactions.abort)}"
    if restored.non_restored:
        yield f"not restored: {', '.join(restored.non_restored)}"
