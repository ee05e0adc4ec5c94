"""File names that could escape, clash or confuse."""

from __future__ import annotations

from collections.abc import Callable

from formats.errors import BadNameError, EoctlError, NameClashError

BAD_NAMES: dict[str, tuple[str, type[EoctlError]]] = {
    name: (text, BadNameError)
    for name, text in {
        "nothing": "",
        "a slash": "/",
        "an absolute path": "/etc/passwd",
        "the parent": "..",
        "the directory itself": ".",
        "a path that climbs": "../outside/precious",
        "a path that climbs high": "../" * 40 + "outside/precious",
        "a path that climbs inside": "a/../../../outside/precious",
        "a path that ends above": "a/..",
        "a path through itself": "a/./b",
        "a path that begins with itself": "./a",
        "a directory": "a/",
        "an empty part": "a//b",
        "a UNC path": "//server/share/x",
        "a UNC path of Windows": r"\\server\share\x",
        "a device path of Windows": r"\\?\C:\x",
        "a backslash": r"a\b",
        "a climbing backslash": r"..\..\outside",
        "a drive": "C:",
        "a path on a drive": "C:/x",
        "a path beside a drive": "c:x",
        "a NUL": "a\0b",
        "a NUL at its end": "a\0",
        "a line feed": "a\nb",
        "a carriage return": "a\rb",
        "a line feed at its end": "a\n",
        "a tab": "a\tb",
        "an escape": "\x1b[2J",
        "a bell": "\a",
        "a delete": "\x7f",
        "a control of C1": "a\x85b",
        "an umlaut in two": "u\u0308",
        "a Kelvin sign": "\u212a",
        "Hangul in three": "\u1112\u1161\u11ab",
        "an Angstrom sign": "\u212b",
        "256 letters": "x" * 256,
        "128 umlauts": "\u00e4" * 128,
        "256 letters in a directory": "a/" + "x" * 256 + "/b",
        "4,097 bytes": "/".join(["\u00e4" * 120] * 17) + "b",
        "129 directories": "a/" * 129 + "b",
        "2,000 directories": "a/" * 2000 + "b",
        "2,000 climbs": "../" * 1300 + "b",
    }.items()
}

BAD_LISTS: dict[str, tuple[Callable[[], list[str]], type[EoctlError]]] = {
    name: (texts, NameClashError)
    for name, texts in {
        "twice the same": lambda: ["a", "a"],
        "a and A": lambda: ["a", "A"],
        "a/b and A/b": lambda: ["a/b", "A/b"],
        "in directories of two cases": lambda: ["Dir/x", "dir/y"],
        "in deep directories of two cases": lambda: ["d/E/x", "d/e/f/y", "d/z"],
        "with a sharp s and with two": lambda: ["stra\u00dfe", "strasse"],
        "with a ligature and without": lambda: ["\ufb01le", "file"],
        "with the two small sigmas": lambda: ["\u03c3", "\u03c2"],
        "a and a/b": lambda: ["a", "a/b"],
        "A and a/b": lambda: ["A", "a/b"],
        "a/b and a/B/c": lambda: ["a/B/c/d", "a/b"],
        "a file that is far above": lambda: ["a", "a-b", "a/b/c/d/e/f"],
        "100,000, the last in two cases": lambda: [*(f"{n:06}" for n in range(100_000)), "z", "Z"],
        "2,000 deep ones, the last a directory": lambda: [
            *(f"{n:04}/" + "a/" * 120 + "x" for n in range(2000)),
            "0000/a",
        ],
    }.items()
}
BAD_LISTS |= {
    name: (texts, BadNameError)
    for name, texts in {
        "well but for one that climbs": lambda: ["a", "b", "../c"],
        "100,000, the last climbs": lambda: [*(f"{n:06}" for n in range(100_000)), "~/../x"],
        "500 of 2,000 directories": lambda: [f"{n:03}/" + "a/" * 2000 + "x" for n in range(500)],
        "20,000 of 4,000 bytes": lambda: [f"{n:05}/" + "x" * 3994 for n in range(20_000)],
    }.items()
}
