"""Lower case, by a shell script."""

from __future__ import annotations

from batch_pipeline import Input, Output, Step


class Lower(Step):
    """Writes the text in lower case (lower.sh)."""

    script = "lower.sh"
    memory_mb = 64

    text = Input()
    lowered = Output("{sample}.lower.txt")
