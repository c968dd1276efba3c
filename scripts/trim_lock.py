"""Takes out of Pipfile.lock what is never used: the address of an index, and packages that MultiQC names in vain.

MultiQC depends on packages for what our report does not do: pictures as files (kaleido), a parquet file of its data
(pyarrow), processors without AVX2 (polars-runtime-compat), and summaries by a language model (tiktoken, regex). They
take 590 MB, and MultiQC imports them only where it needs them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

FILE: Final = Path(__file__).parents[1] / "Pipfile.lock"
#: Category -> packages.
UNUSED: Final = {"multiqc": ("kaleido", "polars-runtime-compat", "pyarrow", "regex", "tiktoken")}


def trimmed(lock: dict[str, Any]) -> dict[str, Any]:
    """The content of a lock file without them."""
    kept = {
        category: {name: pin for name, pin in pins.items() if name not in UNUSED.get(category, ())}
        for category, pins in lock.items()
        if category != "_meta"
    }
    return {"_meta": {**lock["_meta"], "sources": []}, **kept}


if __name__ == "__main__":
    FILE.write_text(json.dumps(trimmed(json.loads(FILE.read_text())), indent=4) + "\n")
