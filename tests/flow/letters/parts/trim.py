"""Words of some samples without their vowels."""

from __future__ import annotations

from batch_pipeline import Input, Output, Param, Step


class Trim(Step):
    """Takes the vowels away, where the sheet says so."""

    when = "kind != 'plain' and trims"
    command = "echo {sample} >> {log}; tr -d aeiou < {text} > {trimmed}"
    memory_mb = 64

    text = Input()
    trimmed = Output("{sample}.trimmed.txt")
    log = Output("log.txt")
    trims: bool = Param(True, help="Take vowels away.")
