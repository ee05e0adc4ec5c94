"""Arguments and options that several commands have in common."""

from __future__ import annotations

from typing import Annotated

import typer

from eoctl.cli.completion import complete_pipelines, complete_snapshots

Pipeline = Annotated[
    str | None,
    typer.Option(
        "-p",
        "--pipeline",
        metavar="PIPELINE",
        help="The pipeline; needed only where the store has several.",
        autocompletion=complete_pipelines,
    ),
]
Snapshot = Annotated[
    str,
    typer.Argument(
        metavar="SNAP",
        help="PIPELINE@42, PIPELINE@latest or PIPELINE@NAME.",
        autocompletion=complete_snapshots,
    ),
]
