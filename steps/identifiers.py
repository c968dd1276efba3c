"""Ids of transcripts and genes: which of the FASTA is which of the GTF, and how the tools get them.

pizzly knows transcripts called `[A-Za-z0-9_.]+` alone and finds nothing for others, such as RefSeq's `rna-NM_000014.6`.
Such ids are written with `_`; transcripts.tsv has them as published.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Final

#: What pizzly cannot read in the name of a transcript.
UNSAFE: Final = re.compile(r"[^A-Za-z0-9_.]+")
#: Put before ids by converters from GFF3.
_PREFIX = re.compile(r"(rna-|transcript:)")
_VERSION = re.compile(r"\.\d+\Z")


def matching_ids(published: Iterable[str], annotated: Collection[str]) -> dict[str, str]:
    """Id in the FASTA -> id in the GTF, of the transcripts that both have.

    The same id, or else one with a version on one side only, or behind `rna-` or `transcript:`, where no second id of
    either file would match. Other versions of an id are other transcripts.
    """
    pairs: dict[str, str] = {}
    rest = []
    for name in published:
        if name in annotated:
            pairs[name] = name
        else:
            rest.append(name)
    taken = set(pairs)
    free: dict[str, list[str]] = {}
    if rest:
        for name in annotated:
            if name not in taken:
                free.setdefault(bare_id(name), []).append(name)
    copies = Counter(map(bare_id, rest))
    for name in rest:
        candidates = free.get(bare_id(name), [])
        if len(candidates) == copies[bare_id(name)] == 1 and _versions_agree(name, candidates[0]):
            pairs[name] = candidates[0]
    return pairs


def bare_id(name: str) -> str:
    """An id without its version and without a converter's prefix."""
    return _VERSION.sub("", _PREFIX.sub("", name, count=1))


def safe_ids(names: Collection[str], unsafe: re.Pattern[str]) -> dict[str, str]:
    """Id -> the tools' id: `_` for each match of `unsafe`, and a number behind it where another id is called so."""
    safe = {name: name for name in names if not unsafe.search(name)}
    taken = set(safe)
    for name in names:
        if name not in safe:
            base = candidate = unsafe.sub("_", name)
            number = 1
            while candidate in taken:
                number += 1
                candidate = f"{base}_{number}"
            safe[name] = candidate
            taken.add(candidate)
    return safe


def _versions_agree(one: str, other: str) -> bool:
    versions = {match[0] for name in (one, other) if (match := _VERSION.search(name))}
    return len(versions) <= 1
