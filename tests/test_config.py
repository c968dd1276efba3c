from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.config import DEFAULTS, known_keys, load_settings, place_of_setting, variable_of
from batch_pipeline.records.origin import config_json
from batch_pipeline.wire.errors import InvalidConfig


def problem_of(tmp_path: Path, file: str = "", environ: dict[str, str] | None = None, **flags: object) -> str:
    if file:
        (tmp_path / "batch_pipeline.toml").write_text(file)
    with pytest.raises(InvalidConfig) as caught:
        load_settings(
            {key.replace("__", "."): value for key, value in flags.items()}, environ=environ or {}, folder=tmp_path
        )
    return caught.value.message


def test_option_beats_environment_beats_file_beats_defaults(tmp_path: Path) -> None:
    (tmp_path / "batch_pipeline.toml").write_text('[backend]\nqueue = "file"\nattempts = 5\n[store]\nroot = "f"\n')
    environ = {"BATCH_PIPELINE__BACKEND__QUEUE": "environment", "BATCH_PIPELINE__BACKEND__ATTEMPTS": "7"}
    settings = load_settings({"backend.queue": "option"}, environ=environ, folder=tmp_path)
    assert (settings.backend.queue, settings.backend.attempts, settings.store.root) == ("option", 7, "f")
    assert settings.backend.name == "embedded"
    assert settings.origins["backend.queue"] == "the command line"
    assert settings.origins["backend.attempts"] == "$BATCH_PIPELINE__BACKEND__ATTEMPTS"


def test_config_names_another_file(tmp_path: Path) -> None:
    (tmp_path / "batch_pipeline.toml").write_text('[backend]\nqueue = "here"\n')
    (tmp_path / "other.toml").write_text('[backend]\nqueue = "there"\n')
    settings = load_settings(environ={}, folder=tmp_path, config=tmp_path / "other.toml")
    assert settings.backend.queue == "there"


def test_the_manual_has_every_key_after_a_paragraph() -> None:
    text = DEFAULTS.read_text()
    found, section, before = [], "", ""
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif match := re.match(r"(\w+) = ", line):
            assert before.startswith("#"), f"{section}.{match[1]} has no paragraph"
            found.append(f"{section}.{match[1]}")
        before = line
    assert sorted(found) == sorted(known_keys())


def test_a_variable_is_named_by_its_section_and_key() -> None:
    assert variable_of("backend.queue") == "BATCH_PIPELINE__BACKEND__QUEUE"


@pytest.mark.parametrize(
    ("file", "rule"),
    [
        ('[backend]\nqueu = "x"\n', "no setting 'backend.queu'"),
        ('[backand]\nqueue = "x"\n', "no setting 'backand.queue'"),
        ('backend = "aws"\n', "no setting 'backend'"),
        ("[backend.name]\nx = 1\n", "no setting 'backend.name.x'"),
        ("[backend\n", "is not valid TOML"),
        ("[backend]\nqueue = 3\n", "Setting backend.queue is 3"),
        ('[backend]\nqueue = "a b"\n', "a queue's name is 1 to 128 letters"),
        ('[backend]\nname = "slurm"\n', "should be 'embedded' or 'aws'"),
        ("[backend]\nattempts = 11\n", "less than or equal to 10"),
        ('[backend]\nattempts = "many"\n', "a valid integer"),
        ("[pipeline]\nmin_success = 0\n", "greater than 0"),
        ("[pipeline]\nmin_success = nan\n", "finite number"),
        ('[pipeline]\ncheck_results = "maybe"\n', "a valid boolean"),
        ('[pipeline]\nname = "a b"\n', "a name is 1 to 40 letters"),
        ('[pipeline]\nreference = "a/b"\n', "a reference's name is"),
        ('[store]\nprefix = "../up"\n', "none beginning with a dot"),
        ("[params]\nbootstraps = [1, 2]\n", "Setting params.bootstraps"),
        ("[tags]\nowner = 1\n", "Setting tags.owner"),
    ],
)
def test_a_wrong_file_is_told_with_its_key(tmp_path: Path, file: str, rule: str) -> None:
    assert rule in problem_of(tmp_path, file)


def test_an_unknown_key_is_told_with_the_nearest_and_all_known(tmp_path: Path) -> None:
    message = problem_of(tmp_path, environ={"BATCH_PIPELINE__BACKEND__QUEU": "x"})
    assert "$BATCH_PIPELINE__BACKEND__QUEU" in message
    assert "Did you mean backend.queue?" in message
    assert all(key in message for key in known_keys())


def test_every_wrong_value_is_told_at_once(tmp_path: Path) -> None:
    message = problem_of(tmp_path, "[backend]\nattempts = 0\n", {"BATCH_PIPELINE__WATCH__POLL_SECONDS": "-1"})
    assert "backend.attempts" in message
    assert str(tmp_path) in message
    assert "$BATCH_PIPELINE__WATCH__POLL_SECONDS" in message


def test_a_missing_config_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"cannot be read: No such file"):
        load_settings(environ={}, config=tmp_path / "none.toml")


def test_parameters_and_tags_are_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "batch_pipeline.toml").write_text(
        '[params]\nbootstraps = 30\n[params.kallisto]\nbootstraps = 5\n[tags]\nowner = "ada"\n'
    )
    environ = {"BATCH_PIPELINE__PARAMS__PIZZLY__K": "31", "BATCH_PIPELINE__TAGS__COST": "x"}
    settings = load_settings({"params.k": 9}, environ=environ, folder=tmp_path)
    assert settings.params == {"k": 9, "bootstraps": 30, "kallisto.bootstraps": 5}
    assert settings.tags == {"owner": "ada", "cost": "x"}


@pytest.mark.parametrize(
    ("flags", "location"),
    [
        ({}, "store/default"),
        ({"store.bucket": "B"}, "store/B"),
        ({"store.bucket": "B", "store.prefix": "/a/b/"}, "store/B/a/b"),
        ({"store.bucket": "s3://B"}, "store/B"),
        ({"store.bucket": "B", "backend.name": "aws"}, "s3://B"),
        ({"store.url": "s3://C/x/", "store.prefix": "p"}, "s3://C/x/p"),
        ({"store.url": "/data", "store.bucket": "B"}, "/data"),
    ],
)
def test_where_the_store_lies(flags: dict[str, str], location: str, tmp_path: Path) -> None:
    assert load_settings(flags, environ={}, folder=tmp_path).store_location == location


def test_a_bucket_on_the_command_line_beats_a_store_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "batch_pipeline.toml").write_text('[store]\nurl = "/elsewhere"\n')
    assert load_settings({"store.bucket": "B"}, environ={}, folder=tmp_path).store_location == "store/B"


@pytest.mark.parametrize(
    ("flags", "rule"),
    [
        ({"backend.name": "aws"}, "No store was named"),
        ({"store.bucket": "a/b"}, "is not a name"),
        ({"store.bucket": ".."}, "is not a name"),
    ],
)
def test_a_store_that_cannot_be_is_refused(flags: dict[str, str], rule: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=rule):
        _ = load_settings(flags, environ={}, folder=tmp_path).store_location


def test_the_embedded_state_lies_where_the_system_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    settings = load_settings(environ={}, folder=tmp_path)
    assert settings.embedded.folder == Path("/state/batch_pipeline/localbatch")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/ada")
    assert settings.embedded.folder == Path("/home/ada/.local/state/batch_pipeline/localbatch")
    chosen = load_settings({"embedded.state": "here"}, environ={}, folder=tmp_path)
    assert chosen.embedded.folder == Path.cwd() / "here"


PRESETS = """[backend]
queue = "usual"
attempts = 2
[steps.call]
memory_mb = 1000
cpus = 1
[preset.aws.backend]
queue = "spot"
attempts = 4
[preset.aws.steps.call]
memory_mb = 8000
[preset.big.steps.call]
memory_mb = 64000
[preset.bucket.store]
bucket = "B"
"""


@pytest.mark.parametrize(
    ("flags", "environ", "values"),
    [
        ({}, {}, ("usual", 2, {"memory_mb": 1000, "cpus": 1})),
        ({"preset": "aws"}, {}, ("spot", 4, {"memory_mb": 8000, "cpus": 1})),
        ({}, {"PRESET": "aws"}, ("spot", 4, {"memory_mb": 8000, "cpus": 1})),
        ({"preset": "big"}, {"PRESET": "aws"}, ("usual", 2, {"memory_mb": 64000, "cpus": 1})),
        ({"preset": ""}, {"PRESET": "aws"}, ("usual", 2, {"memory_mb": 1000, "cpus": 1})),
        (
            {"preset": "aws", "backend.queue": "option", "steps.call.cpus": "2"},
            {"BACKEND__QUEUE": "variable", "BACKEND__ATTEMPTS": "7", "STEPS__CALL__CPUS": "3"},
            ("option", 7, {"memory_mb": 8000, "cpus": 2}),
        ),
        ({}, {"STEPS__CALL__IMAGE": "i", "STEPS__NEW__TIMEOUT_SECONDS": "0"}, ("usual", 2, {})),
    ],
)
def test_option_beats_environment_beats_preset_beats_file(
    flags: dict[str, str], environ: dict[str, str], values: tuple[str, int, dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "batch_pipeline.toml").write_text(PRESETS)
    settings = load_settings(
        flags, environ={f"BATCH_PIPELINE__{name}": value for name, value in environ.items()}, folder=tmp_path
    )
    queue, attempts, of_call = values
    assert (settings.backend.queue, settings.backend.attempts) == (queue, attempts)
    if of_call:
        assert settings.steps == {"call": of_call}
    else:
        assert settings.steps == {
            "call": {"memory_mb": 1000, "cpus": 1, "image": "i"},
            "new": {"timeout_seconds": 0},
        }


@pytest.mark.parametrize(
    ("flags", "environ", "params"),
    [
        ({}, {}, {"quality": 1, "call.quality": 2, "trim.quality": 3}),
        ({"params.quality": "9"}, {}, {"quality": "9"}),
        ({"params.quality": "9", "params.call.quality": "8"}, {}, {"quality": "9", "call.quality": "8"}),
        ({"params.call.quality": "8"}, {"PARAMS__QUALITY": "9"}, {"quality": "9", "call.quality": "8"}),
        ({"preset": "strict"}, {}, {"quality": 7}),
        ({"params.other": "9"}, {}, {"quality": 1, "call.quality": 2, "trim.quality": 3, "other": "9"}),
    ],
)
def test_a_parameter_of_all_steps_goes_before_what_an_earlier_place_has_for_one(
    flags: dict[str, str], environ: dict[str, str], params: dict[str, object], tmp_path: Path
) -> None:
    text = (
        '[params]\nquality = 1\n"call.quality" = 2\n[params.trim]\nquality = 3\n[preset.strict.params]\nquality = 7\n'
    )
    (tmp_path / "batch_pipeline.toml").write_text(text)
    variables = {f"BATCH_PIPELINE__{name}": value for name, value in environ.items()}
    assert load_settings(flags, environ=variables, folder=tmp_path).params == params


@pytest.mark.parametrize(
    ("key", "place"),
    [
        ("backend.queue", "{file}, line 8"),
        ("steps.call.memory_mb", "{file}, line 11"),
        ("steps.call.cpus", "{file}, line 6"),
        ("backend.attempts", "$BATCH_PIPELINE__BACKEND__ATTEMPTS"),
        ("store.prefix", "the command line"),
        ("watch.poll_seconds", "defaults"),
    ],
)
def test_each_value_has_the_place_where_it_was_written(key: str, place: str, tmp_path: Path) -> None:
    (tmp_path / "batch_pipeline.toml").write_text(PRESETS)
    environ = {"BATCH_PIPELINE__BACKEND__ATTEMPTS": "7"}
    settings = load_settings({"preset": "aws", "store.prefix": "p"}, environ=environ, folder=tmp_path)
    assert place_of_setting(settings, key) == place.format(file=tmp_path / "batch_pipeline.toml")


def test_what_is_chosen_is_recorded_and_what_is_not_used_is_not(tmp_path: Path) -> None:
    (tmp_path / "batch_pipeline.toml").write_text(PRESETS)
    record = config_json(load_settings({"preset": "aws"}, environ={}, folder=tmp_path))
    assert (record["preset"], record["settings"]["steps"]) == ("aws", {"call": {"memory_mb": 8000, "cpus": 1.0}})
    assert record["origins"]["steps.call.memory_mb"] == f"{tmp_path / 'batch_pipeline.toml'}, preset aws"
    plain = config_json(load_settings(environ={}, folder=tmp_path / "none"))
    assert "preset" not in plain
    assert "steps" not in plain["settings"]


def test_a_presets_bucket_beats_a_store_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "batch_pipeline.toml").write_text(f'[store]\nurl = "/elsewhere"\n{PRESETS}')
    settings = load_settings({"preset": "bucket"}, environ={}, folder=tmp_path)
    assert settings.store_location == "store/B"


def test_loading_settings_does_not_import_pydantics_models() -> None:
    code = (
        "import sys; from batch_pipeline.config import load_settings; load_settings(environ={});"
        "print('pydantic_core' in sys.modules, 'pydantic' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["True", "False"]
