"""`eoctl selftest`: the simulation, on the user's machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from eoctl.cli.exit_codes import ANSWER_NO
from eoctl.cli.invocation import invocation_of
from eoctl.cli.output import Output, fields_of
from eoctl.cli.quantities import human_seconds, plural

if TYPE_CHECKING:
    from eoctl.selftest.report import Totals

app = typer.Typer()
_SEED_DIGITS = 8  # of a random one
_TRACE_LINES = 20


@app.command("selftest")
def selftest(
    ctx: typer.Context,
    *,
    seed: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="What happens, and when; none: a random one.")
    ] = None,
    hours: Annotated[int, typer.Option(metavar="H", min=1, help="How many hours to simulate in a run.")] = 24,
    runs: Annotated[int, typer.Option(metavar="R", min=1, help="How many runs, each with the next seed.")] = 1,
) -> None:
    """Simulate years of faults on the real code.

    Writers, rivals, gcs, restores and edits work on a store in memory, in virtual time, while one storage call of 20
    goes wrong: lost, late, repeated, refused, damaged, out of order; hosts stop for days, processes die, clocks jump by
    years. After every change the promises of docs/protocol.md are checked. The same seed and hours give the same run,
    call for call: the trace hash shows it. Your store is not touched.

    Exit 3: something did not hold; the seed to replay it is told.

    Example:
        eoctl selftest
        eoctl selftest --seed 7 --hours 100 --jsonl
    """
    from eoctl.selftest.report import Totals as Sum  # noqa: PLC0415  (start-up)
    from eoctl.selftest.simulation import simulate  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    ambient = invocation.ambient
    first = int(ambient.new_id(), 16) % 10**_SEED_DIGITS if seed is None else seed
    began = ambient.elapsed()
    done = Sum.of(simulate(first + number, hours) for number in range(runs))
    seconds = ambient.elapsed() - began
    out = invocation.out
    answer = fields_of(done) | {"seconds": seconds}
    out.answer("selftest", answer, lambda: _lines(out, done, seconds), rows="runs", brief=lambda: ())
    for run in done.runs:
        if run.violation:
            replay = f"eoctl selftest --seed {run.seed} --hours {run.hours}"
            out.notice(f"{run.violation}; replay: {replay}", "violation")
    if done.violations:
        raise typer.Exit(ANSWER_NO)


def _lines(out: Output, done: Totals, seconds: float) -> Iterator[str]:
    seeds = f"{done.runs[0].seed}" if len(done.runs) == 1 else f"{done.runs[0].seed} to {done.runs[-1].seed}"
    yield from out.fields(
        [
            ("Seed", seeds),
            ("Simulated", f"{plural(done.hours, 'hour')}, {plural(done.calls, 'storage call')}"),
            ("Commits", str(done.commits)),
            ("Restores", str(done.restores)),
            ("Gc runs", f"{done.gc_runs}, {plural(done.deletes, 'blob')} deleted, {done.packs_rewritten} re-packed"),
            ("Checked", plural(done.steps, "value") + " of HEAD"),
            ("Faults", f"{sum(done.faults.values())}: {', '.join(f'{k} {n}' for k, n in done.faults.items())}"),
            ("Trace hash", done.trace_hash),
            ("Violations", str(done.violations)),
            ("Took", human_seconds(seconds)),
        ]
    )
    for run in done.runs:
        if run.violation:
            yield ""
            yield out.heading(f"seed {run.seed}: {run.violation}")
            yield from run.trace[-_TRACE_LINES:]
