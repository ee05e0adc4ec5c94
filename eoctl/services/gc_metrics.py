"""The figures of a run of gc, for Prometheus."""

from __future__ import annotations

from eoctl.services.gc_rows import GcRun
from eoctl.services.prometheus import Metric


def gc_metrics(run: GcRun, finished: float) -> tuple[Metric, ...]:
    """The figures of a run that ended at `finished`, in seconds since 1970."""
    good = [row for row in run.pipelines if not row.error]

    def of(name: str, help_text: str, field: str) -> Metric:
        samples = tuple(((("pipeline", row.pipeline),), float(getattr(row, field))) for row in good)
        return Metric(f"eoctl_gc_{name}", help_text, "gauge", samples)

    success = tuple(
        ((("pipeline", row.pipeline),), float(not (row.error or row.stopped or row.dangling))) for row in run.pipelines
    )
    dangling = tuple(((("pipeline", row.pipeline),), float(len(row.dangling))) for row in good)
    return (
        Metric("eoctl_gc_finished_time_seconds", "When the run ended.", "gauge", (((), finished),)),
        Metric("eoctl_gc_success", "1 where the pipeline was collected and nothing is missing.", "gauge", success),
        Metric("eoctl_gc_dangling", "Blobs that snapshots need and that are not there.", "gauge", dangling),
        of("deleted_blobs", "Blobs that the run deleted.", "deleted_blobs"),
        of("freed_bytes", "Stored bytes that the run freed.", "freed_bytes"),
        of("garbage_blobs", "Blobs that were garbage when the run looked.", "garbage_blobs"),
        of("live_blobs", "Blobs and manifests that snapshots need.", "live_blobs"),
        of("live_bytes", "Stored bytes that snapshots need.", "live_bytes"),
        of("stored_bytes", "Stored bytes after the run.", "stored_bytes"),
        of("young_orphans", "Unreferenced blobs that may be in use by an upload.", "young_orphans"),
        of("repacked_bytes", "Bytes of packs that the run wrote again.", "repacked_bytes"),
        of("duration_seconds", "What the pipeline took.", "seconds"),
    )
