"""`python -m batch_pipeline.container ARGUMENTS…`: one container life with this process's environment."""

from __future__ import annotations

import os
import sys

from batch_pipeline.container.entry import run_child

if __name__ == "__main__":
    # Nothing is left to clean up, and obstore's threads need not be joined.
    code = run_child(dict(os.environ), sys.argv[1:], {})
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
