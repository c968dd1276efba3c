"""Lives a cell as another user, and tells as JSON how that ended: `python -m tests.container.users UID ROOT SCRATCH`.

A process of its own, for obstore's threads do not survive a fork. It is root's until it has lived a cell, and so has
imported everything: the interpreter may lie where only root can read. A fourth argument is a folder for the cache: then
the store is in memory and the cell reads a reference.
"""

from __future__ import annotations

import json
import os
import pwd
import sys
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from batch_pipeline.wire.store import NotInStore, open_store
from tests.container.conftest import Workshop

#: Imported only for errors otherwise.
_NEEDED = (pwd, traceback)


def become(uid: int) -> None:
    """Gives up being root for good."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def main(uid: str, root: str, scratch: str, cache: str = "") -> None:
    """Prints exit code, log, whether there is a receipt, the result and why it failed."""
    with TemporaryDirectory() as first:
        rehearsal = Workshop(root=Path(first), store=open_store("memory://first"))
        assert rehearsal.live(rehearsal.script()) == 0, rehearsal.log
    become(int(uid))
    workshop = Workshop(root=Path(root), store=open_store("memory://users" if cache else f"{root}/store", create=True))
    facts: dict[str, Any] = {"references": (workshop.reference("index", "references/g/k", b"REF"),)} if cache else {}
    told = {"BATCH_PIPELINE_SCRATCH": scratch, **({"BATCH_PIPELINE_CACHE": cache} if cache else {})}
    code = workshop.live({**workshop.script(**facts), **told})
    failure = workshop.failure()
    try:
        result = workshop.result().decode()
    except NotInStore:
        result = ""
    print(
        json.dumps(
            {
                "code": code,
                "log": workshop.log.decode(),
                "vouched": workshop.receipt() is not None,
                "result": result,
                "reason": failure.end_reason if failure else "",
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
