"""eoctl: keep, explain and restore the snapshots of exactly-once stream pipelines.

Everything a script needs is importable from here, each name loaded at first use, so that `import eoctl` and
the command line stay cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "eoctl.library": ("open_store", "init_store", "StoreHandle", "PipelineHandle", "Writer"),
    "eoctl.services.checkpoint": ("Part",),
    "eoctl.services.retention": ("Policy",),
    "eoctl.engines.directory": ("DirectorySource",),
    "eoctl.engines.rocksdb": ("RocksdbCheckpoint", "RocksdbSource"),
    "eoctl.engines.sqlite": ("SqliteSource",),
    "eoctl.engines.tables": ("TableSource",),
    "eoctl.runtime.pipeline": ("Options", "Pipeline"),
    "eoctl.runtime.windows": ("COUNT", "Aggregate", "Session", "Sliding", "Tumbling", "collecting", "summing"),
    "eoctl.runtime.operators.keyed": ("ListState", "MapState", "ValueState"),
    "eoctl.runtime.deduplication": ("BloomPlan",),
    "eoctl.runtime.sources.files": ("LineFiles", "json_lines"),
    "eoctl.runtime.sources.generator": ("Generator",),
    "eoctl.runtime.sinks.files": ("Files",),
    "eoctl.runtime.sinks.sqlite": ("SqliteTable",),
    "eoctl.runtime.sinks.postgres": ("PostgresTable", "PostgresTransactions"),
    "eoctl.runtime.sources.postgres": ("PostgresRows",),
    "eoctl.runtime.sinks.kafka": ("KafkaTransactions",),
    "eoctl.runtime.sources.kafka": ("KafkaRecord", "KafkaTopic", "json_value"),
    "eoctl.runtime.sinks.http": ("HttpDocuments",),
    "eoctl.runtime.sinks.effects": ("DeferredEffects",),
    "eoctl.runtime.sinks.output_log": ("OutputLog", "read_log"),
    "eoctl.version": ("VERSION",),
    "formats.manifest": ("SinkState", "SourceOffsets", "Transaction"),
    "formats.errors": (
        "AccessDeniedError",
        "AnswerNoError",
        "BadManifestError",
        "BadNameError",
        "BlobGoneError",
        "BombError",
        "CommitUnknownError",
        "ConflictError",
        "CorruptError",
        "EoctlError",
        "FencedError",
        "IncompatibleError",
        "InvalidInputError",
        "NameClashError",
        "NoSpaceError",
        "OutcomeUnknownError",
        "SessionExpiredError",
        "SnapshotNotFoundError",
        "SourceChangedError",
        "StoreNotFoundError",
        "TooLargeError",
        "UnavailableError",
        "UnsafeBackendError",
        "UnsupportedError",
        "UsageError",
        "WrongStoreError",
    ),
}
_home_of = {name: home for home, names in _HOMES.items() for name in names}
__all__ = sorted(_home_of)  # noqa: PLE0605  (a list, made from the table above)


def __getattr__(name: str) -> Any:  # noqa: ANN401  (any public name)
    if name not in _home_of:
        message = f"module 'eoctl' has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(_home_of[name]), name)


def __dir__() -> list[str]:
    return __all__
