"""A report as one HTML file: no script, no request, readable in light and dark, wide and narrow, and printed.

Every figure of the tables has its exact value in a `data-value`, as the JSON document has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from html import escape

from eoctl.services.charts import SPAN_UNITS, Series, lines, stacks
from eoctl.services.report_values import Report, ReportRow
from eoctl.version import VERSION

COLOURS = ("c1", "c2", "c3", "c4", "c5", "c6")
_OTHERS = "others"
NEAR = 0.1  # of the timeout
_TEXTS = {"OPERATOR", "CHECKPOINT", "SNAPSHOT", "KIND", "STATUS", "CREATED"}
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_CSS = """
:root{--bg:#fff;--fg:#1b2330;--dim:#5b6675;--line:#d9dee5;--card:#f6f8fa;
--c1:#2563eb;--c2:#d97706;--c3:#059669;--c4:#9333ea;--c5:#db2777;--c6:#0e7490;--c7:#8a94a3;--bad:#c62828}
@media(prefers-color-scheme:dark){:root{--bg:#11161d;--fg:#e4e9f0;--dim:#9aa6b5;--line:#2b3440;--card:#19212b;
--c1:#6ea0ff;--c2:#f0a94a;--c3:#4cc79b;--c4:#bd8bff;--c5:#f27bb5;--c6:#5cc2d6;--c7:#8a94a3;--bad:#ff7b72}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1240px;padding:16px;background:var(--bg);color:var(--fg);
font:15px/1.45 system-ui,sans-serif}
h1{font-size:1.5rem;margin:.2em 0}h2{font-size:1.05rem;margin:0 0 .5em}
p{color:var(--dim);margin:.2em 0 1em}
.tiles,.grid2{display:grid;gap:12px;margin-bottom:16px}
.tiles{grid-template-columns:repeat(auto-fit,minmax(150px,1fr))}
.grid2{grid-template-columns:repeat(auto-fit,minmax(min(100%,430px),1fr))}
.tile,section{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:12px}
.tile b{display:block;font-size:1.35rem}.tile span{color:var(--dim);font-size:.85rem}
svg{width:100%;height:auto;display:block}
svg text{font-size:13px;fill:var(--dim)}svg .grid{stroke:var(--line)}
svg polyline{fill:none;stroke-width:2}svg line.limit{stroke:var(--bad);stroke-dasharray:5 4}
svg text.limit{fill:var(--bad)}
.key{display:flex;flex-wrap:wrap;gap:4px 14px;font-size:.85rem;color:var(--dim);margin-top:6px}
.key i{display:inline-block;width:10px;height:10px;border-radius:2px;margin-right:5px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:5px 9px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th{color:var(--dim);font-weight:600}th:first-child,td:first-child,.t{text-align:left}
@media(max-width:520px){svg text{font-size:19px}th,td{padding:4px 5px}body{padding:8px}}
@media print{body{max-width:none}section{break-inside:avoid}}
"""


def render_html(report: Report) -> str:
    """The whole file; the same report gives the same text."""
    rows = report.snapshots
    times = [_seconds(row.created_at) for row in rows]
    operators = _operator_series(rows, [share.operator for share in report.operators])
    durations = Series("duration", "c1", tuple(row.duration_seconds for row in rows))
    sizes = (
        Series("full", "c1", tuple(float(row.full_bytes) for row in rows)),
        Series("added", "c2", tuple(float(row.added_bytes) for row in rows)),
    )
    sharing = (
        Series("of this snapshot alone", "c2", tuple(float(row.exclusive_bytes) for row in rows)),
        Series("shared with others", "c1", tuple(float(row.stored_bytes - row.exclusive_bytes) for row in rows)),
    )
    title = f"{escape(report.pipeline)}: snapshots up to {escape(report.newest)}"
    parts = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        f"<title>{title}</title>\n<style>{_CSS}</style>\n</head>\n<body>",
        f"<h1>{title}</h1>",
        (
            f"<p>{len(rows)} snapshots, {_moment(rows[0].created_at)} to {_moment(rows[-1].created_at)} UTC. "
            f"Made {_moment(report.made_at)} UTC by eoctl {VERSION}.</p>"
        ),
        _tiles(report),
        '<div class="grid2">',
        _card("Size of each snapshot", lines(times, sizes, _bytes, label="size over time", limit=None), sizes),
        _card("Bytes by operator", stacks(times, operators, _bytes, label="bytes by operator"), operators),
        _card("Stored bytes, shared or not", stacks(times, sharing, _bytes, label="sharing"), sharing),
    ]
    if any(value is not None for value in durations.values):
        parts.append(_duration_card(times, durations, report.timeout_seconds))
    parts += [
        "</div>",
        _operator_table(report),
        _origin_table(report),
        _snapshot_table(report),
        "</body>\n</html>\n",
    ]
    return "\n".join(parts)


def _duration_card(times: Sequence[float], durations: Series, timeout: float | None) -> str:
    """With the timeout as a line where it is near: elsewhere it would press everything down to nothing."""
    longest = max(value for value in durations.values if value is not None)
    near = timeout if timeout is not None and longest >= NEAR * timeout else None
    title = "Duration" if timeout is None else f"Duration; the timeout is {_span(timeout)}"
    chart = lines(times, (durations,), _span, label="duration over time", limit=near, units=SPAN_UNITS)
    return _card(title, chart, ())


def _tiles(report: Report) -> str:
    newest = report.snapshots[-1]
    tiles: list[tuple[str, str, float | None, str]] = [
        ("newest_age_seconds", "age of the newest", report.newest_age_seconds, _span(report.newest_age_seconds)),
        ("full_bytes", "its full size", newest.full_bytes, _bytes(newest.full_bytes)),
        ("logical_bytes", "all snapshots in full", report.logical_bytes, _bytes(report.logical_bytes)),
        ("referenced_bytes", "stored for them", report.referenced_bytes, _bytes(report.referenced_bytes)),
        ("saved_by_sharing", "saved by sharing", report.saved_by_sharing, _percent(report.saved_by_sharing)),
    ]
    if report.timeout_seconds is not None:
        tiles.append(("timeout_seconds", "timeout", report.timeout_seconds, _span(report.timeout_seconds)))
    cells = [
        f'<div class="tile"><b data-name="{name}" data-value="{value}">{text}</b><span>{label}</span></div>'
        for name, label, value, text in tiles
    ]
    return f'<div class="tiles">\n{"".join(cells)}\n</div>'


def _operator_series(rows: Sequence[ReportRow], names: Sequence[str]) -> tuple[Series, ...]:
    """The largest operators of the newest snapshot, and all others together."""
    known = list(names)
    for row in rows:
        known += [name for name in row.operators if name not in known]
    known = [name for name in known if any(row.operators.get(name, 0) for row in rows)]
    shown = known if len(known) <= len(COLOURS) else known[: len(COLOURS) - 1]
    series = [
        Series(name, colour, tuple(float(row.operators.get(name, 0)) for row in rows))
        for name, colour in zip(shown, COLOURS, strict=False)
    ]
    if len(shown) < len(known):
        rest = known[len(shown) :]
        series.append(Series(_OTHERS, "c7", tuple(float(sum(row.operators.get(n, 0) for n in rest)) for row in rows)))
    return tuple(series)


def _card(title: str, chart: str, key: Iterable[Series]) -> str:
    marks = "".join(f'<span><i style="background:var(--{one.colour})"></i>{escape(one.name)}</span>' for one in key)
    legend = f'<div class="key">{marks}</div>' if marks else ""
    return f"<section>\n<h2>{escape(title)}</h2>\n{chart}\n{legend}\n</section>"


def _operator_table(report: Report) -> str:
    total = sum(share.full_bytes for share in report.operators)
    rows = [
        [
            _text(share.operator),
            _cell(share.full_bytes, _bytes),
            f"<td>{100 * share.full_bytes / total:.1f} %</td>" if total else "<td>-</td>",
            _cell(share.growth_bytes, _signed),
        ]
        for share in report.operators
    ]
    return _table("operators", "Operators of the newest", ("OPERATOR", "BYTES", "SHARE", "GROWTH"), rows)


def _origin_table(report: Report) -> str:
    rows = [
        [_text(origin.snapshot), _cell(origin.bytes, _bytes), _cell(origin.files, _count)] for origin in report.origins
    ]
    return _table("origins", "Where the newest one's bytes were first stored", ("CHECKPOINT", "BYTES", "FILES"), rows)


def _snapshot_table(report: Report) -> str:
    titles = ("SNAPSHOT", "KIND", "STATUS", "CREATED", "FULL", "ADDED", "STORED", "ALONE", "FILES", "DURATION")
    rows = [
        [
            _text(row.snapshot),
            _text(row.kind),
            _text(row.status),
            _text(row.created_at),
            _cell(row.full_bytes, _bytes),
            _cell(row.added_bytes, _bytes),
            _cell(row.stored_bytes, _bytes),
            _cell(row.exclusive_bytes, _bytes),
            _cell(row.files, _count),
            _cell(row.duration_seconds, _span),
        ]
        for row in reversed(report.snapshots)
    ]
    return _table("snapshots", "Snapshots, newest first", titles, rows)


def _table(name: str, title: str, titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th class="t">{text}</th>' if text in _TEXTS else f"<th>{text}</th>" for text in titles)
    body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return (
        f'<section style="margin-bottom:16px">\n<h2>{escape(title)}</h2>\n<div class="scroll"><table id="{name}">'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>\n</section>"
    )


def _text(text: str) -> str:
    return f'<td class="t">{escape(text)}</td>'


def _cell(value: float | None, form: Callable[[float], str]) -> str:
    return "<td>-</td>" if value is None else f'<td data-value="{value}">{form(value)}</td>'


def _bytes(value: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if value < 1023.95 or unit == "PiB":
            return f"{value:.0f} {unit}" if unit == "B" or value == int(value) else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError


def _signed(value: float) -> str:
    return f"{'-' if value < 0 else '+'}{_bytes(abs(value))}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share > 0 else "nothing"


def _count(value: float) -> str:
    return f"{int(value):,}"


def _span(seconds: float) -> str:
    if abs(seconds) < 1:
        return f"{1000 * seconds:.0f} ms"
    for unit, size, end in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800)):
        if abs(seconds) < end:
            value = seconds / size
            return f"{value:.0f} {unit}" if value == int(value) else f"{value:.1f} {unit}"
    return f"{seconds / 86_400:.1f} d"


def _moment(time: str) -> str:
    return f"{datetime.fromisoformat(time):%Y-%m-%d %H:%M:%S}"


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()
