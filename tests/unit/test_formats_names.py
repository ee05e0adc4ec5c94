"""File names: what may be created below any directory on any system, and what may not; each row an attack or a slip."""

from __future__ import annotations

import pytest

from formats.errors import BadNameError, NameClashError
from formats.names import MAX_NAME_BYTES, MAX_PART_BYTES, check_file_name, check_file_names

GOOD = [
    "a",
    "000012.sst",
    "a/b/c",
    ".hidden",
    "...",
    "..a",
    "a..",
    "a/.../b",
    "with space",
    " ",
    "größe",
    "日本語/ファイル",
    "emoji 🙂",
    "ab:c",
    "1:/b",
    "a/C:/b",
    "con",
    "%2e%2e/a",
    "~",
    "-rf",
    "x" * MAX_PART_BYTES,
    "ä" * (MAX_PART_BYTES // 2),
    "/".join(["x" * 200] * 20),
    "/".join(["d"] * 100),
]
BAD = {
    "empty": "",
    "absolute": "/etc/passwd",
    "only a slash": "/",
    "parent": "..",
    "parent first": "../a",
    "parent inside": "a/../../b",
    "parent last": "a/..",
    "here": ".",
    "here inside": "a/./b",
    "empty part": "a//b",
    "slash at the end": "a/",
    "backslash": "a\\b",
    "backslash parent": "..\\a",
    "UNC": "\\\\host\\share",
    "drive": "C:",
    "drive and path": "c:/windows",
    "drive and name": "Z:name",
    "a stream of a file": "a:b",
    "NUL": "a\0b",
    "NUL at the end": "a\0",
    "newline": "a\nb",
    "newline at the end": "a\n",
    "carriage return": "a\rb",
    "tab": "a\tb",
    "escape": "\x1b[2J",
    "delete": "a\x7f",
    "C1 control": "a\x85b",
    "lone surrogate": "a\udcff",
    "lone high surrogate": "\ud800",
    "not NFC": "u\u0308",
    "not NFC, Kelvin": "\u212a",
    "not NFC, Hangul": "\u1112\u1161\u11ab",
    "part too long": "x" * (MAX_PART_BYTES + 1),
    "part too long in bytes": "ä" * (MAX_PART_BYTES // 2 + 1),
    "part too long inside": "a/" + "x" * (MAX_PART_BYTES + 1) + "/b",
    "name too long": "/".join(["x" * 200] * 21),
    "name too long by one byte": "/".join([*["x" * 200] * 20, "x" * (MAX_NAME_BYTES + 1 - 20 * 201)]),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_file_may_be_called_so(name) -> None:
    check_file_name(name)
    check_file_names([name])
    check_file_names(["before", name, "zzz/after"])


@pytest.mark.parametrize("name", BAD.values(), ids=BAD.keys())
def test_a_file_may_not_be_called_so(name) -> None:
    with pytest.raises(BadNameError):
        check_file_name(name)
    for names in ([name], ["before", name], [name, "after"], ["a", "b/c", name, "größe"]):
        with pytest.raises(BadNameError):
            check_file_names(names)


def test_a_name_may_be_as_long_as_this() -> None:
    name = "/".join([*["x" * 200] * 20, "x" * (MAX_NAME_BYTES - 20 * 201)])
    assert len(name) == MAX_NAME_BYTES
    check_file_name(name)


@pytest.mark.parametrize(
    "names",
    [
        ["a", "a"],
        ["a", "A"],
        ["a/b", "A/b"],
        ["a/b", "a/B"],
        ["dir/x", "Dir/y"],
        ["d/e/x", "d/E/y"],
        ["d/e/x", "D/e/f/y"],
        ["größe", "GRÖSSE"],
        ["straße", "strasse"],
        ["ﬁle", "file"],
        ["\u03c3", "\u03c2"],  # the two small sigmas
        ["İ", "i̇"],
        ["a", "a/b"],
        ["A", "a/b"],
        ["a/b", "a"],
        ["a/b", "a/b/c"],
        ["a/B", "a/b/c/d"],
        ["größe/x", "Größe"],
        ["b", "größe/x", "B"],
    ],
)
def test_two_names_that_are_one_somewhere_clash(names) -> None:
    for order in (names, names[::-1], [*names, "other"], ["dir0/other", *names]):
        with pytest.raises(NameClashError):
            check_file_names(order)


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["a", "b"],
        ["a/b", "a/c"],
        ["a.b", "a/b"],
        ["a", "ab/c"],
        ["a/b", "ab"],
        ["ä", "a"],
        ["d/a", "e/a", "e/f/a"],
    ],
)
def test_names_that_differ_everywhere_do_not_clash(names) -> None:
    check_file_names(names)
    check_file_names(tuple(reversed(names)))
