"""Pipelines in Python: what a script says, and the graph that it becomes.

    pipeline = Pipeline("usage", guarantee="exactly-once")
    events = pipeline.source("events", json_lines("in/*.jsonl"), time=lambda event: event["time"])
    hours = events.key_by(lambda event: event["customer"], type="string").window("hours", Tumbling(3_600_000), COUNT)
    hours.sink("files", Files("out"))

Every method that makes an operator takes its uid first, and its parallelism last.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from eoctl.runtime.alignment import Mode
from eoctl.runtime.coordinator import Rules
from eoctl.runtime.deduplication import BloomPlan
from eoctl.runtime.deployment import BACKENDS, Settings
from eoctl.runtime.graph import Edge, Graph, Guarantee, Node, Partition, Reading, Work, Working, Writing, check_graph
from eoctl.runtime.operators.deduplicate import BloomDeduplication, ExactDeduplication
from eoctl.runtime.operators.join import IntervalJoin
from eoctl.runtime.operators.keyed import Declared, Function, KeyedContext, Process, Running
from eoctl.runtime.operators.protocol import Operator
from eoctl.runtime.operators.stateless import batching, filtering, flat_mapping, mapping
from eoctl.runtime.operators.windowed import Sessions, Windowed
from eoctl.runtime.recovery import Choice
from eoctl.runtime.sinks.protocol import Sink, TimesOut
from eoctl.runtime.sources.protocol import Source
from eoctl.runtime.windows import COUNT, Aggregate, Session, Sliding, Tumbling
from formats.errors import UsageError
from formats.ids import PipelineId

if TYPE_CHECKING:
    from eoctl.library import StoreHandle
    from eoctl.runtime.run import Finished


class Options(Struct, frozen=True, kw_only=True):
    """How a pipeline runs and takes checkpoints. Seconds; `alignment_timeout` 0 is unaligned, None never.

    `state`: `heap`, or `rocksdb` for state beyond memory.
    """

    interval: float = 10.0
    timeout: float = 600.0
    min_pause: float = 0.0
    max_concurrent: int = 1
    tolerable_failures: int = 0
    alignment_timeout: float | None = None
    batch_size: int = 2048
    channel_capacity: int = 8
    retain_on_cancellation: bool = True
    state: str = "heap"


class Pipeline:
    """A dataflow with a stable name: sources, operators and sinks, and what it promises."""

    def __init__(
        self,
        name: str,
        *,
        guarantee: str = Guarantee.EXACTLY_ONCE,
        parallelism: int = 1,
        max_parallelism: int = 128,
        options: Options | None = None,
    ) -> None:
        self.name = PipelineId(name).name
        self.guarantee = Guarantee(guarantee)
        self.options = options or Options()
        self._parallelism = parallelism
        self._max_parallelism = max_parallelism
        self._nodes: list[Node] = []
        if self.options.state not in BACKENDS:
            raise UsageError(f"no such state backend: {self.options.state!r}", hint="heap or rocksdb")
        if self.options.alignment_timeout is not None and self.options.max_concurrent > 1:
            raise UsageError(
                "unaligned checkpoints overtake each other where several are under way", hint="max_concurrent=1"
            )

    def source(
        self,
        uid: str,
        source: Source,
        *,
        time: Callable[[Any], int] | None = None,
        max_delay_ms: int = 0,
        parallelism: int | None = None,
    ) -> Stream:
        """The source's records. `time`: a record's, in milliseconds; none comes more than `max_delay_ms` too late."""
        self.add(uid, Reading(source, time, max_delay_ms), (), parallelism)
        return Stream(self, uid)

    def run(
        self,
        store: StoreHandle,
        *,
        restore: str = "latest",
        remap: Mapping[str, str] | None = None,
        allow_non_restored: bool = False,
        allow_repeated_output: bool = False,
        take_over: bool = False,
        audit: str | Path | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Finished:
        """The pipeline has run to the end of its sources, or until `stop` said so; all of its output is visible.

        `restore`: `latest`, an id, a name, or `none`. `take_over`: fence off an attempt that seems to be live.
        Raises: UsageError, ConflictError, FencedError, CorruptError, IncompatibleError, PipelineFailedError.
        """
        from eoctl.runtime import run  # noqa: PLC0415  (it knows pipelines)

        request = run.Request(
            choice=Choice(
                snapshot="latest" if restore == run.FRESH else str(restore),
                remap=remap or {},
                allow_non_restored=allow_non_restored,
                allow_repeated_output=allow_repeated_output,
            ),
            fresh=restore == run.FRESH,
            take_over=take_over,
            audit=None if audit is None else Path(audit),
            stop=stop,
        )
        return run.run(store._store, self, request)  # noqa: SLF001  (of our own library)

    def graph(self) -> Graph:
        """What runs. Raises: UsageError where it cannot, or cannot keep what the pipeline promises."""
        graph = Graph(tuple(self._nodes))
        check_graph(graph, self.guarantee)
        longest = self.options.interval + self.options.min_pause + self.options.timeout
        for node in graph.nodes:
            if isinstance(node.work, Writing) and isinstance(node.work.sink, TimesOut):
                node.work.sink.check_patience(longest)
        return graph

    @property
    def rules(self) -> Rules:
        options = self.options
        return Rules(
            interval_seconds=options.interval,
            timeout_seconds=options.timeout,
            min_pause_seconds=options.min_pause,
            max_concurrent=options.max_concurrent,
            tolerable_failures=options.tolerable_failures,
        )

    @property
    def settings(self) -> Settings:
        exactly = self.guarantee is not Guarantee.AT_LEAST_ONCE
        return Settings(
            mode=Mode.EXACTLY_ONCE if exactly else Mode.AT_LEAST_ONCE,
            alignment_timeout_seconds=self.options.alignment_timeout if exactly else None,
            batch_size=self.options.batch_size,
            channel_capacity=self.options.channel_capacity,
            make_state=BACKENDS[self.options.state],
            at_most_once=self.guarantee is Guarantee.AT_MOST_ONCE,
            checkpoint_timeout_seconds=self.options.timeout,
        )

    def add(self, uid: str, work: Work, inputs: tuple[Edge, ...], parallelism: int | None, key_type: str = "") -> None:
        """One more node."""
        self._nodes.append(
            Node(
                uid=uid,
                work=work,
                parallelism=parallelism or self._parallelism,
                max_parallelism=self._max_parallelism,
                inputs=inputs,
                key_type=key_type,
            )
        )

    def parallelism_of(self, uid: str) -> int:
        return next(node.parallelism for node in self._nodes if node.uid == uid)

    @property
    def default_parallelism(self) -> int:
        return self._parallelism


class Stream:
    """Records of one node, on their way to others."""

    def __init__(self, pipeline: Pipeline, uid: str, *, partition: Partition | None = None) -> None:
        self._pipeline = pipeline
        self._uid = uid
        self._partition = partition

    def map(self, uid: str, function: Callable[[Any], Any], *, parallelism: int | None = None) -> Stream:
        """Each record is replaced by what `function` makes of it."""
        return self.apply(uid, lambda: mapping(function), parallelism=parallelism)

    def filter(self, uid: str, function: Callable[[Any], bool], *, parallelism: int | None = None) -> Stream:
        """Records for which `function` is true go on."""
        return self.apply(uid, lambda: filtering(function), parallelism=parallelism)

    def flat_map(self, uid: str, function: Callable[[Any], Iterable[Any]], *, parallelism: int | None = None) -> Stream:
        """Each record is replaced by all that `function` gives for it."""
        return self.apply(uid, lambda: flat_mapping(function), parallelism=parallelism)

    def map_batch(
        self, uid: str, function: Callable[[list[Any]], list[Any]], *, parallelism: int | None = None
    ) -> Stream:
        """As `map`, for the records of a batch at once: the fast way."""
        return self.apply(uid, lambda: batching(function), parallelism=parallelism)

    def apply(self, uid: str, make: Callable[[], Operator], *, parallelism: int | None = None) -> Stream:
        """An operator of one's own; each subtask has one that `make` makes."""
        self._pipeline.add(uid, Working(make), (self._edge(parallelism),), parallelism)
        return Stream(self._pipeline, uid)

    def rebalance(self) -> Stream:
        """Batches go to the next operator's subtasks in turn."""
        return Stream(self._pipeline, self._uid, partition=Partition.REBALANCE)

    def broadcast(self) -> Stream:
        """Every subtask of the next operator gets every record."""
        return Stream(self._pipeline, self._uid, partition=Partition.BROADCAST)

    def key_by(self, key: Callable[[Any], Hashable], *, type: str = "") -> KeyedStream:  # noqa: A002  (the word for it)
        """Records by key: those of one key go to one subtask. `type`: a text of formats/types; "": plain values."""
        return KeyedStream(self._pipeline, self._uid, key, type)

    def sink(self, uid: str, sink: Sink, *, parallelism: int | None = None) -> None:
        """The records go to `sink`."""
        self._pipeline.add(uid, Writing(sink), (self._edge(parallelism),), parallelism)

    def _edge(self, parallelism: int | None, gate: int = 0) -> Edge:
        if self._partition is not None:
            return Edge(self._uid, self._partition, gate)
        wanted = parallelism or self._pipeline.default_parallelism
        same = self._pipeline.parallelism_of(self._uid) == wanted
        return Edge(self._uid, Partition.FORWARD if same else Partition.REBALANCE, gate)


class KeyedStream:
    """Records of one node by key."""

    def __init__(self, pipeline: Pipeline, uid: str, key: Callable[[Any], Hashable], type_text: str) -> None:
        self._pipeline = pipeline
        self._uid = uid
        self._key = key
        self._type = type_text

    def count(self, uid: str, *, parallelism: int | None = None) -> Stream:
        """For each record `(key, how many so far)`."""
        return self.running(uid, COUNT, parallelism=parallelism)

    def running(self, uid: str, aggregate: Aggregate, *, parallelism: int | None = None) -> Stream:
        """For each record `(key, the aggregate so far)`."""
        return self._apply(uid, lambda: Running(aggregate), parallelism)

    def process(
        self,
        uid: str,
        function: Function,
        *,
        states: Iterable[Declared] = (),
        on_timer: Callable[[KeyedContext, int], Iterable[Any] | None] | None = None,
        parallelism: int | None = None,
    ) -> Stream:
        """What `function(context, record)` gives, with state of its key and timers."""
        return self._apply(uid, partial(Process, (function,), tuple(states), on_timer), parallelism)

    def window(
        self,
        uid: str,
        windows: Tumbling | Sliding | Session,
        aggregate: Aggregate = COUNT,
        *,
        parallelism: int | None = None,
    ) -> Stream:
        """`(key, start, end, result)` of each window that is over."""
        if isinstance(windows, Session):
            session = windows
            Sessions(session, aggregate)
            return self._apply(uid, lambda: Sessions(session, aggregate), parallelism)
        return self._apply(uid, partial(Windowed, windows, aggregate), parallelism)

    def deduplicate(
        self, uid: str, ttl_ms: int, *, bloom: BloomPlan | None = None, parallelism: int | None = None
    ) -> Stream:
        """The first record of each key within `ttl_ms`: exactly, or by a Bloom filter."""
        if bloom is None:
            return self._apply(uid, lambda: ExactDeduplication(ttl_ms), parallelism)
        plan = bloom
        if plan.ttl_ms != ttl_ms:
            raise UsageError(f"two times to live: {ttl_ms} and {plan.ttl_ms} ms", hint="give BloomPlan the same")
        return self._apply(uid, lambda: BloomDeduplication(plan), parallelism)

    def join(
        self, uid: str, other: KeyedStream, *, lower_ms: int, upper_ms: int, parallelism: int | None = None
    ) -> Stream:
        """`(key, ours, theirs)` where their time is within `lower_ms .. upper_ms` of ours."""
        IntervalJoin(lower_ms, upper_ms)
        return self._apply(uid, lambda: IntervalJoin(lower_ms, upper_ms), parallelism, other)

    def process_with(
        self,
        uid: str,
        other: KeyedStream,
        functions: tuple[Function, Function],
        *,
        states: Iterable[Declared] = (),
        on_timer: Callable[[KeyedContext, int], Iterable[Any] | None] | None = None,
        parallelism: int | None = None,
    ) -> Stream:
        """As `process`, of two inputs with one function for each; they share the key's state."""
        return self._apply(uid, partial(Process, functions, tuple(states), on_timer), parallelism, other)

    def _apply(
        self, uid: str, make: Callable[[], Operator], parallelism: int | None, other: KeyedStream | None = None
    ) -> Stream:
        inputs = [Edge(self._uid, Partition.KEYED, 0, self._key)]
        if other is not None:
            inputs.append(Edge(other._uid, Partition.KEYED, 1, other._key))  # noqa: SLF001  (of our own kind)
        make()  # what is declared wrongly is told now
        self._pipeline.add(uid, Working(make), tuple(inputs), parallelism, self._type)
        return Stream(self._pipeline, uid)
