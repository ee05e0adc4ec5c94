"""The graph of a pipeline: nodes with their uid, parallelism and maximum, and the edges between them.

Nodes come in the order of the flow. Flink's rules: a uid names an operator for ever, and its id is derived from it; max
parallelism is the number of key groups and never changes; a keyed edge deals records out by key group.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from enum import StrEnum
from typing import Any, TypeAlias

from msgspec import Struct

from eoctl.runtime.operators.protocol import Operator
from eoctl.runtime.sinks.protocol import Delivery, Sink
from eoctl.runtime.sources.protocol import Source
from formats.errors import UsageError
from formats.ids import operator_id
from formats.keygroups import MAX_MAX_PARALLELISM

MAX_SUBTASKS = 4096


class Guarantee(StrEnum):
    """What a pipeline promises about each record's effect on state and output."""

    AT_MOST_ONCE = "at-most-once"
    AT_LEAST_ONCE = "at-least-once"
    EXACTLY_ONCE = "exactly-once"


class Partition(StrEnum):
    """Which subtask a record goes to: the same, each in turn, its key's, or all."""

    FORWARD = "forward"
    REBALANCE = "rebalance"
    KEYED = "keyed"
    BROADCAST = "broadcast"


class Edge(Struct, frozen=True):
    """From a node to the input `gate` of the node that has the edge. `key`: of a record, where it is keyed."""

    upstream: str
    partition: Partition
    gate: int = 0
    key: Callable[[Any], Hashable] | None = None


class Reading(Struct, frozen=True):
    """What a source node does. `time`: of a record, milliseconds; records are at most `max_delay_ms` out of order."""

    source: Source
    time: Callable[[Any], int] | None = None
    max_delay_ms: int = 0


class Working(Struct, frozen=True):
    """What an operator node does: `make` gives each subtask an operator of its own."""

    make: Callable[[], Operator]


class Writing(Struct, frozen=True):
    """What a sink node does."""

    sink: Sink


Work: TypeAlias = Reading | Working | Writing


class Node(Struct, frozen=True, kw_only=True):
    """An operator of the graph. `key_type`: of its keys, a text of formats/types; "": plain values."""

    uid: str
    work: Work
    parallelism: int = 1
    max_parallelism: int = 128
    inputs: tuple[Edge, ...] = ()
    key_type: str = ""

    @property
    def id(self) -> str:
        return operator_id(self.uid)

    @property
    def keyed(self) -> bool:
        return any(edge.partition is Partition.KEYED for edge in self.inputs)


class Graph(Struct, frozen=True):
    """All nodes, each after those that it reads from."""

    nodes: tuple[Node, ...]

    def node(self, uid: str) -> Node:
        return next(node for node in self.nodes if node.uid == uid)

    def readers_of(self, uid: str) -> list[tuple[Node, Edge]]:
        """The edges that leave the node, with the nodes that have them."""
        return [(node, edge) for node in self.nodes for edge in node.inputs if edge.upstream == uid]


def check_graph(graph: Graph, guarantee: Guarantee) -> None:
    """The graph can run, and keep the guarantee.

    Raises: UsageError with the reason and the way out.
    """
    seen: set[str] = set()
    for node in graph.nodes:
        _check_node(node, seen)
        seen.add(node.uid)
        for edge in node.inputs:
            upstream = graph.node(edge.upstream)
            if edge.partition is Partition.FORWARD and upstream.parallelism != node.parallelism:
                raise UsageError(
                    f"{edge.upstream} has parallelism {upstream.parallelism} and {node.uid} {node.parallelism}, "
                    "and records go from each subtask to the same one",
                    hint="give them one parallelism, or put rebalance() between",
                )
    if not any(isinstance(node.work, Reading) for node in graph.nodes):
        raise UsageError("the pipeline has no source", hint="begin with pipeline.source(uid, ...)")
    if sum(node.parallelism for node in graph.nodes) > MAX_SUBTASKS:
        raise UsageError(f"the pipeline has more than {MAX_SUBTASKS} subtasks", hint="choose a smaller parallelism")
    _check_guarantee(graph, guarantee)


def _check_node(node: Node, seen: set[str]) -> None:
    if not node.uid or len(node.uid.encode()) > 255:
        raise UsageError(f"not a uid: {node.uid[:100]!r}", hint="a uid is 1 to 255 bytes of text")
    if node.uid in seen:
        raise UsageError(f"two operators have the uid {node.uid!r}", hint="uids name state: give each one its own")
    if not 1 <= node.parallelism <= node.max_parallelism <= MAX_MAX_PARALLELISM:
        raise UsageError(
            f"{node.uid}: parallelism {node.parallelism} of at most {node.max_parallelism}",
            hint=f"1 <= parallelism <= max_parallelism <= {MAX_MAX_PARALLELISM}",
        )
    if not all(edge.upstream in seen for edge in node.inputs):
        raise UsageError(f"{node.uid} reads from a node that comes after it, or is none")


def _check_guarantee(graph: Graph, guarantee: Guarantee) -> None:
    if guarantee is Guarantee.AT_MOST_ONCE:
        return
    for node in graph.nodes:
        match node.work:
            case Reading(source=source) if not source.replayable:
                raise UsageError(
                    f"{guarantee} cannot be kept: the source {node.uid} cannot be read again from a position",
                    hint="put what it gives into a log first, or state guarantee='at-most-once'",
                )
            case Writing(sink=sink) if guarantee is Guarantee.EXACTLY_ONCE and sink.delivery is Delivery.NEITHER:
                raise UsageError(
                    f"exactly-once cannot be kept: the sink {node.uid} is neither transactional nor idempotent",
                    hint="write under a key (a document id), use a transactional sink, "
                    "or state guarantee='at-least-once'",
                )
