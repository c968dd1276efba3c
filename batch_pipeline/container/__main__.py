"""`python -m batch_pipeline.container ARGUMENTS…`: one container life with this process's environment."""

from __future__ import annotations

import os
import sys

from batch_pipeline.container.entry import run_child
from batch_pipeline.wire.contract import Variable
from batch_pipeline.wire.orphans import adopt_orphans
from batch_pipeline.wire.processes import Limit, is_marked, new_mark, put_mark

if __name__ == "__main__":
    if Variable.UMASK in os.environ:
        os.umask(int(os.environ[Variable.UMASK], 8))
    # Whatever a step leaves behind comes to this process, and ends with the step.
    adopt_orphans()
    if not is_marked():
        put_mark(Limit.ATTEMPT, new_mark(Limit.ATTEMPT))
    # Nothing is left to clean up, and obstore's threads need not be joined.
    code = run_child(dict(os.environ), sys.argv[1:], {})
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
