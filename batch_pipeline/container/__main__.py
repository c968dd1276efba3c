"""`python -m batch_pipeline.container ARGUMENTS…`: one container life with this process's environment."""

from __future__ import annotations

import os
import sys

from batch_pipeline.container.entry import run_child
from batch_pipeline.wire.contract import Variable

if __name__ == "__main__":
    if Variable.UMASK in os.environ:
        os.umask(int(os.environ[Variable.UMASK], 8))
    # Nothing is left to clean up, and obstore's threads need not be joined.
    code = run_child(dict(os.environ), sys.argv[1:], {})
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
