"""For every test: how hard Hypothesis tries, and which lanes ran.

A lane is a group of tests that needs something special: a real server, a library, a lot of time. The tests in
`tests/servers/NAME` are lane NAME, and so is a test marked `lane("NAME")`; what is marked `slow` or `rocksdb`
and is in no other lane is lane `slow` or `rocksdb`. A lane in which a test was skipped or not selected is
announced at the end of the run, because a lane that nobody misses rots. With CI=true it fails the run.
`EOCTL_TEST_LANES=ignore` turns both off, for a run that leaves lanes out on purpose. `EOCTL_TEST_ALL=1` makes long
tests as long as CI has time for, `EOCTL_TEST_LONG=1` as long as the figures in docs/ say.
"""

import os
import signal
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import settings

_IN_CI = os.environ.get("CI", "").lower() in {"1", "true"}
_ALL = os.environ.get("EOCTL_TEST_ALL") == "1"
_NOTES = "eoctl-lanes"
_LANES_COUNT = os.environ.get("EOCTL_TEST_LANES") != "ignore"

# No deadline: a shared machine is slow at times. In CI a failure must not depend on luck.
settings.register_profile("default", deadline=None, max_examples=50, derandomize=_IN_CI)
settings.register_profile("all", deadline=None, max_examples=500, derandomize=_IN_CI)
settings.load_profile("all" if _ALL else "default")


class Lanes:
    """Notes, for each lane, the tests that did not run, and why: here, or in the workers of pytest-xdist."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._missing: dict[str, dict[str, str]] = {}  # lane -> test -> reason

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self._note(_lanes_of_path(report.nodeid), report.nodeid, _skip_reason(report))

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        for item in items:
            self._note(_lanes_of(item), item.nodeid, _selection(item.config))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.skipped and not hasattr(report, "wasxfail"):
            self._note(_lanes_of(item), item.nodeid, _skip_reason(report))
        return report

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """A worker has ended; what it noted comes with it."""
        for lane, tests in getattr(node, "workeroutput", {}).get(_NOTES, {}).items():
            self._missing.setdefault(lane, {}).update(tests)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if hasattr(self._config, "workeroutput"):
            self._config.workeroutput[_NOTES] = self._missing
        elif _IN_CI and self._missing and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    # Outermost, so that only pytest's closing line comes after what is written here.
    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
        yield
        for line in self.lines():
            terminalreporter.write_line(line, red=_IN_CI, yellow=not _IN_CI)
        if _IN_CI and self._missing:
            terminalreporter.write_line("FAILED: with CI=true no lane may be skipped", red=True)

    def lines(self) -> Iterator[str]:
        """One line for each lane with tests that did not run, sorted by lane."""
        for lane, tests in sorted(self._missing.items()):
            told = "; ".join(f"{reason} (tests: {count})" for reason, count in Counter(tests.values()).most_common())
            yield f"SKIPPED LANE {lane}: {told}"

    def _note(self, lanes: Iterable[str], test: str, reason: str) -> None:
        for lane in lanes:
            self._missing.setdefault(lane, {})[test] = reason


def pytest_configure(config: pytest.Config) -> None:
    # A shell starts what runs in the background deaf to Ctrl-C, and every process below inherits that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if _LANES_COUNT:
        config.pluginmanager.register(Lanes(config), _NOTES)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    """The tests of one server file go to one worker: they share what takes long to start."""
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            if _lanes_of_path(item.nodeid):
                item.add_marker(pytest.mark.xdist_group(PurePosixPath(item.nodeid.partition("::")[0]).stem))


def _lanes_of(item: pytest.Item) -> set[str]:
    return _lanes_of_path(item.nodeid) | _lanes_of_markers(item)


def _lanes_of_path(nodeid: str) -> set[str]:
    match PurePosixPath(nodeid.partition("::")[0]).parts:
        case ("tests", "servers", name, *_):
            return {PurePosixPath(name).stem.removeprefix("test_")}
        case _:
            return set()


def _lanes_of_markers(item: pytest.Item) -> set[str]:
    named = {str(marker.args[0]) for marker in item.iter_markers("lane")}
    if named or _lanes_of_path(item.nodeid):
        return named
    return {name for name in ("slow", "rocksdb") if item.get_closest_marker(name)}


def _skip_reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    text = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
    return " ".join(text.removeprefix("Skipped: ").split())


def _selection(config: pytest.Config) -> str:
    options = [
        f"{flag} '{value}'" for flag, value in (("-m", config.option.markexpr), ("-k", config.option.keyword)) if value
    ]
    return f"left out by {' and '.join(options) or 'the selection'}"
