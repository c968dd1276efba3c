"""The configuration of a driver's script: merged, written as TOML, and read back as the same."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.access.configuration import driver_config, previewed_config, read_configs
from batch_pipeline.access.gate import decide
from batch_pipeline.records.toml import to_toml
from batch_pipeline.wire.errors import InvalidConfig
from tests.access.lab import ALICE, ask, facts, policy

_TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
_SCALARS = st.one_of(
    st.booleans(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False), _TEXTS, st.just([]), st.just("\x7f\\\"'\n")
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_TEXTS, inner, max_size=3)),
    max_leaves=12,
)


@given(st.dictionaries(_TEXTS, _VALUES, max_size=4))
def test_what_is_written_is_read_back_as_the_same(value: dict[str, Any]) -> None:
    assert tomllib.loads(to_toml(value)) == value


def test_files_are_merged_table_by_table_and_later_ones_win(tmp_path: Path) -> None:
    first, second = tmp_path / "a.toml", tmp_path / "b.toml"
    first.write_text("[limits]\nmost = 3\nleast = 1\n[other]\nday = 2026-11-21\n")
    second.write_text("[limits]\nmost = 4\n")
    merged = read_configs([str(first), str(second)])
    assert merged == {"limits": {"most": 4, "least": 1}, "other": {"day": "2026-11-21"}}


@pytest.mark.parametrize("text", [None, "a = ", "\xff"])
def test_a_file_that_is_none_is_named(text: str | None, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    if text is not None:
        file.write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidConfig, match=r"mine\.toml"):
        read_configs([str(file)])


def test_what_the_run_is_stands_above_what_the_user_gave() -> None:
    grant = decide(ask(config={"limits": {"most": 3}}), policy(), ALICE, facts())
    value = driver_config(grant, "RUN")
    assert value["limits"] == {"most": 3}
    assert value["workflow"]["access_level"] == "standard"
    assert value["workflow"]["image"].endswith(grant.image)
    assert value["storage"]["output"] == "s3://fusions-main/analysis/cohort-7/v2"


def test_a_preview_differs_in_nothing_but_what_nobody_knows_yet() -> None:
    asked = ask(config={"limits": {"most": 3}}, cwd="scripts/", script=("cohort.sh",))
    real = driver_config(decide(asked, policy(), ALICE, facts()), "RUN")
    preview = previewed_config(asked, policy(), ALICE)
    assert list(preview) == list(real)
    different = {key for key in real["workflow"] if real["workflow"][key] != preview["workflow"][key]}
    assert different == {"run_id", "image"}
    assert preview["storage"] == real["storage"]
