"""Reports of verifications, kept in the store: written once each, read newest first."""

from __future__ import annotations

from collections.abc import Iterator

from formats.errors import EoctlError, InvalidInputError, UnsupportedError
from formats.ids import PipelineId
from formats.report import (
    MAX_REPORT_BYTES,
    Report,
    decode_report,
    encode_report,
    parse_report_name,
    report_name,
)
from storage import layout
from storage.backend import Key, KeyAbsentError
from storage.store import Store

MAX_NAME_TRIES = 1000


def keep_report(store: Store, pipeline: PipelineId, report: Report) -> tuple[str, str]:
    """The name of the report in the store and "", or "" and why it is not kept: nothing depends on it."""
    data = encode_report(report)
    try:
        for number in range(MAX_NAME_TRIES):
            key = _key(pipeline, report_name(report.created_at, report.level, number))
            if store.backend.create(key, data):
                return key.path, ""
    except EoctlError as error:
        return "", error.message
    return "", f"there are {MAX_NAME_TRIES} reports of this moment"


def read_reports(store: Store, pipeline: PipelineId, level: str) -> Iterator[Report]:
    """The reports of that level that can be read, newest first."""
    names = []
    for found in store.backend.list(layout.reports(pipeline)):
        name = found.key.path.rpartition("/")[2]
        parsed = parse_report_name(name)
        if parsed is not None and parsed.level == level:
            names.append((parsed, name))
    for _, name in sorted(names, reverse=True):
        key = _key(pipeline, name)
        try:
            with store.backend.open(key) as file:
                report = decode_report(file.read(MAX_REPORT_BYTES + 1), str(key))
        except (KeyAbsentError, InvalidInputError, UnsupportedError):
            continue  # gone, damaged, or of a newer eoctl: it tells nothing
        if (report.store, report.pipeline, report.level) == (store.record.id, pipeline.name, level):
            yield report


def _key(pipeline: PipelineId, name: str) -> Key:
    return Key(f"{layout.reports(pipeline)}/{name}")
