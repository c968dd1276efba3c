"""`python -m benchmarks [cells|fusion|planning|startup …]`: measures and prints tables; without a name, all of them."""

from __future__ import annotations

import argparse
import sys

from benchmarks import measure

NAMES = ("startup", "planning", "cells", "fusion")


def main() -> int:
    """Runs the command line and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="*", help=f"which to run: {', '.join(NAMES)} (default: all)")
    parser.add_argument("--samples", type=int, default=1_000, help="samples of `cells` (default: 1000)")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default: 3)")
    parser.add_argument("--large", action="store_true", help="`cells` with 10,000 samples too")
    parser.add_argument("--no-peers", action="store_true", help="`cells` with bounds only; installs nothing")
    options = parser.parse_args()
    unknown = sorted(set(options.name) - set(NAMES))
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}; there are: {', '.join(NAMES)}")
    measure.become_reaper()
    for name in options.name or NAMES:
        if name == "cells":
            from benchmarks import cells

            cells.main(
                samples=options.samples, rounds=options.rounds, peers=not options.no_peers, large=options.large
            )
        elif name == "planning":
            from benchmarks import planning

            planning.main()
        elif name == "startup":
            from benchmarks import startup

            startup.main(rounds=options.rounds)
        else:
            from benchmarks import fusion

            fusion.main(rounds=options.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
