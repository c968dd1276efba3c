"""`python -m batch_pipeline.localbatch`: starts the embedded Batch by hand, or stops the one of a state folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from batch_pipeline.localbatch.client import ENGINES, ensure, stop
from batch_pipeline.wire.errors import BatchPipelineError


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m batch_pipeline.localbatch", description=__doc__)
    parser.add_argument("--state", type=Path, required=True, help="folder for everything that the server keeps")
    parser.add_argument("--port", type=int, help="port on 127.0.0.1 (default: a free one)")
    parser.add_argument("--vcpus", type=int, help="vCPUs that jobs may use (default: all)")
    parser.add_argument("--memory", dest="memory_mib", type=int, help="MiB that jobs may use (default: all)")
    parser.add_argument("--idle-seconds", type=float, help="stop after so long without work (default: 600)")
    parser.add_argument("--grace-seconds", type=float, help="between SIGTERM and SIGKILL (default: 30)")
    parser.add_argument("--minimum-timeout", type=int, help="least timeout of a job in seconds (default: 60, as AWS)")
    parser.add_argument("--scratch", help="folder for scratch, for jobs that do not say")
    parser.add_argument("--cache", help="folder for cached references, for jobs that do not say")
    parser.add_argument(
        "--container", choices=("", *ENGINES), help="run attempts in their images (default: as processes)"
    )
    parser.add_argument("--foreground", action="store_true", help="serve in this process")
    parser.add_argument(
        "--stop", action="store_true", help="stop the server of this folder; what runs is adopted later"
    )
    options = vars(parser.parse_args(arguments))
    foreground, stopping = options.pop("foreground"), options.pop("stop")
    options["state"] = options["state"].resolve()
    chosen = {name: value for name, value in options.items() if value is not None}
    try:
        if stopping:
            stop(chosen["state"])
        elif foreground:
            from batch_pipeline.localbatch.server import Options, serve

            serve(Options(**chosen))
        else:
            print(ensure(chosen.pop("state"), **chosen).url)
    except BatchPipelineError as error:
        print(error.message, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
