"""Many seeds of the runtime's simulation, told as they fail, and what they brought: scripts/simulate-runtime."""

import argparse
import sys
import time
from collections import Counter

from formats.errors import EoctlError
from tests.simulation.exactly_once import run_seed


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/simulate-runtime", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=100, help="how many")
    arguments = parser.parse_args()
    seen = Counter[str]()
    began = time.monotonic()
    failed = 0
    for seed in range(arguments.seed, arguments.seed + arguments.seeds):
        try:
            seen.update(run_seed(seed))
        except (AssertionError, EoctlError) as error:
            failed += 1
            sys.stdout.write(f"seed {seed}: {type(error).__name__}: {str(error)[:300]}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{arguments.seeds} seeds in {time.monotonic() - began:.0f} s, {failed} failed\n")
    for name, count in sorted(seen.items()):
        sys.stdout.write(f"  {name}: {count}\n")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
