"""A store with the order of one driver, and its repository: what a driver's life needs, without a backend."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from batch_pipeline.wire import layout
from batch_pipeline.wire.digest import sha256_of_bytes
from batch_pipeline.wire.order import Checkout, DriverOrder
from batch_pipeline.wire.store import Store, open_store
from tests.access.repositories import Repository

RUN = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
TOKEN = "glpat-not-a-real-one-at-all"
FILES = {
    "main.sh": '#!/bin/sh\necho "argument $1"\npwd\nenv\nexit ${CODE:-0}\n',
    "plain.py": "import sys\nprint('python', sys.argv[1])\n",
    "plain.pl": "print 1\n",
    "deep/here.sh": "#!/bin/sh\npwd\n",
    "slow.sh": "#!/bin/sh\necho begun\nexec sleep 60\n",
}


class Bench:
    """A store with the order of one run, and its repository."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.code = Repository(root, "code")
        self.commit = self.code.commit(FILES)
        self.code.push()
        self.store: Store = open_store(str(root / "store"), create=True)
        self.scratch = root / "scratch"

    def checkout(self, **changes: Any) -> Checkout:
        tree = self.code.git("rev-parse", f"{self.commit}^{{tree}}")
        return replace(Checkout(url=f"file://{self.code.remote}", commit=self.commit, tree=tree), **changes)

    def order(self, **changes: Any) -> DriverOrder:
        config = b"[limits]\nmost = 3\n"
        self.store.put(layout.driver_config(RUN), config)
        base = DriverOrder(
            run_id=RUN,
            dataset="texts",
            access_level="standard",
            user="ada",
            output="cohort-7",
            script=("main.sh", "one two"),
            entry="main.sh",
            checkouts=(self.checkout(),),
            environment={"COLOUR": "blue"},
            config=layout.driver_config(RUN),
            config_sha256=sha256_of_bytes(config),
        )
        return replace(base, **changes)

    def environment(self, order: DriverOrder) -> dict[str, str]:
        data = json.dumps(order.to_json()).encode()
        self.store.put(layout.driver_order(RUN), data)
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.root),
            "BATCH_FILE_TYPE": "driver",
            "BATCH_PIPELINE_STORE": self.store.url,
            "BATCH_PIPELINE_DRIVER": layout.driver_order(RUN),
            "BATCH_PIPELINE_DRIVER_SHA256": sha256_of_bytes(data),
            "BATCH_PIPELINE_SCRATCH": str(self.scratch),
            "BATCH_PIPELINE_SECRET_0123456789ABCDEF": TOKEN,
            "AWS_BATCH_JOB_ID": "job-1",
            "AWS_BATCH_JOB_ATTEMPT": "1",
        }

    def start(self, environment: dict[str, str]) -> subprocess.Popen[str]:
        package = str(Path(__file__).resolve().parents[2])
        return subprocess.Popen(
            [sys.executable, "-m", "batch_pipeline.container"],
            env={**environment, "PYTHONPATH": package},
            cwd=self.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, environment: dict[str, str]) -> tuple[int, str]:
        process = self.start(environment)
        out, _ = process.communicate(timeout=60)
        return process.returncode, out

    def end(self) -> dict[str, Any]:
        return dict(self.store.get_json(layout.run_end(RUN)))

    def ended(self) -> bool:
        return (self.root / "store" / layout.run_end(RUN)).exists()

    def events(self) -> list[str]:
        keys = sorted(self.store.keys(layout.events(RUN)))
        return [self.store.get_json(key)["event"] for key in keys]
