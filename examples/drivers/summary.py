#!/usr/bin/env python3
"""A driver's script in Python: says what the run is, as its configuration tells, and what was asked for in it.

    batch-pipeline submit --dataset texts --description "Summarise" --output-dir summary \
        --config limits.toml examples/drivers/summary.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path


def main() -> None:
    """Reads the merged configuration, and puts a summary where the run writes."""
    config = tomllib.loads(Path(os.environ["BATCH_PIPELINE_CONFIG_PATH"]).read_text(encoding="utf-8"))
    workflow = config["workflow"]
    summary = {
        "run": workflow["run_id"],
        "commit": workflow["commit"],
        "level": workflow["access_level"],
        "limits": config.get("limits", {}),
        "arguments": sys.argv[1:],
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "summary.json")
        file.write_text(json.dumps(summary, indent=1), encoding="utf-8")
        subprocess.run([sys.executable, "-m", "batch_pipeline.container.put", str(file)], check=True)


if __name__ == "__main__":
    main()
