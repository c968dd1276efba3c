"""Which transcript of a FASTA is which of a GTF, and what the tools call it."""

from __future__ import annotations

import pytest

from steps.identifiers import UNSAFE, matching_ids, safe_ids


@pytest.mark.parametrize(
    ("published", "annotated", "pairs"),
    [
        (["T1.2"], ["T1.2"], {"T1.2": "T1.2"}),
        (["T1"], ["T1.2"], {"T1": "T1.2"}),
        (["T1.2"], ["T1"], {"T1.2": "T1"}),
        (["T1.2"], ["T1.3"], {}),
        (["T1"], ["T1.2", "T1.3"], {}),
        (["T1.2", "T1.3"], ["T1"], {}),
        (["T1.2", "T1"], ["T1.2"], {"T1.2": "T1.2"}),
        (["NM_1.6"], ["rna-NM_1.6"], {"NM_1.6": "rna-NM_1.6"}),
        (["T1.2"], ["transcript:T1"], {"T1.2": "transcript:T1"}),
        (["T1"], ["T1.2", "T1.2_PAR_Y"], {"T1": "T1.2"}),
        (["ERCC-00002"], ["T1"], {}),
    ],
)
def test_ids_match_where_one_alone_can_be_meant(
    published: list[str], annotated: list[str], pairs: dict[str, str]
) -> None:
    assert matching_ids(published, annotated) == pairs


@pytest.mark.parametrize(
    ("names", "safe"),
    [
        (["T_1.2", "T1"], ["T_1.2", "T1"]),
        (["HLA-A", "a|b:c", "x--y"], ["HLA_A", "a_b_c", "x_y"]),
        (["A-1", "A:1", "A_1"], ["A_1_2", "A_1_3", "A_1"]),
        (["A-1", "A_1", "A_1_2"], ["A_1_3", "A_1", "A_1_2"]),
    ],
)
def test_safe_ids_are_unique_and_do_not_rename_safe_ones(names: list[str], safe: list[str]) -> None:
    assert [safe_ids(names, UNSAFE)[name] for name in names] == safe
