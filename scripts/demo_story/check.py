"""Opens a RocksDB directory and compares every key and value with what the stream must have made by an offset."""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

from rocksdict import AccessType, Options, Rdict

from scripts.demo_story.orders import expected_state

MAX_SHOWN = 10


def main() -> int:
    """0: every key is there with the right value, and no other."""
    parser = argparse.ArgumentParser(prog="check", description=__doc__)
    parser.add_argument("state", type=Path)
    parser.add_argument("--offset", type=int, required=True, help="of the next order")
    parser.add_argument("--keys", type=int, required=True, help="how many customers there are")
    arguments = parser.parse_args()
    database = Rdict(str(arguments.state), options=Options(raw_mode=True), access_type=AccessType.read_only())
    expected = expected_state(arguments.offset, arguments.keys)
    keys = wrong = 0
    for found, wanted in itertools.zip_longest(database.items(), expected):
        keys += 1
        if found != wanted:
            wrong += 1
            print(f"wrong: found {_shown(found)}, wanted {_shown(wanted)}", file=sys.stderr)
            if wrong == MAX_SHOWN:
                break
    database.close()
    print(f"{keys:,} keys compared with what {arguments.offset:,} orders make: {wrong or 'none'} wrong")
    return 1 if wrong else 0


def _shown(pair: tuple[object, object] | None) -> str:
    return "nothing" if pair is None else f"{pair[0]!r}: {str(pair[1])[:80]}"


if __name__ == "__main__":
    sys.exit(main())
