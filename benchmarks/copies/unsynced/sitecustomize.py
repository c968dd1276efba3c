"""Python imports this when it starts with this folder in PYTHONPATH: then nothing of ours waits for the disk.

For one row of `cells`, which tells what waiting costs.
"""

from __future__ import annotations

import os

from batch_pipeline.wire import durable

os.fsync = lambda fd: None
durable.sync = lambda paths: None
