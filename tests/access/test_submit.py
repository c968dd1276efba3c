"""`submit` and `config` as somebody uses them, on a real remote and a real embedded Batch."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from batch_pipeline.localbatch.client import stop
from tests.access.conftest import begin
from tests.access.site import Site, events_of, read, until

pytestmark = pytest.mark.engine

TOKEN = "glpat-not-a-real-one-at-all"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One for all tests here: each writes below an output prefix of its own."""
    root = tmp_path_factory.mktemp("site")
    state = root / "state"
    begin(state)
    made = Site(root, state)
    made.examples()
    scripts = {"fails.sh": "#!/bin/sh\necho trouble\nexit 3\n", "says.sh": '#!/bin/sh\nprintf "%s\\n" "$@"\npwd\nenv\n'}
    made.code.commit(scripts)
    made.code.push()
    yield made
    stop(state)


@pytest.fixture(autouse=True)
def _clean(site: Site) -> Iterator[None]:
    yield
    site.code.git("reset", "--quiet", "--hard", "origin/main")
    site.code.git("clean", "--quiet", "-fd")


def runs(site: Site) -> set[Path]:
    return {*site.main.glob("runs/*"), *site.test.glob("runs/*")}


# The examples.


def test_a_shell_script_puts_its_table_where_the_run_writes(site: Site) -> None:
    ended = site.submit("--wait", "examples/drivers/lines.sh", output="lines")
    assert ended.returncode == 0, ended.stderr
    assert "level standard of texts" in ended.stdout
    rows = (site.main / "lines" / "lines.tsv").read_text().splitlines()
    texts = {path.stem: path.read_text().count("\n") for path in (site.code.work / "examples" / "texts").iterdir()}
    assert {row.split("\t")[0]: int(row.split("\t")[1]) for row in rows} == texts


def test_a_python_script_reads_the_merged_configuration(site: Site, tmp_path: Path) -> None:
    (tmp_path / "limits.toml").write_text("[limits]\nmost = 3\n")
    options = ("--config", str(tmp_path / "limits.toml"), "--wait", "--json")
    ended = site.submit(*options, "examples/drivers/summary.py", "--most", "4", output="summary")
    assert ended.returncode == 0, ended.stderr
    told = read(site.main / "summary" / "summary.json")
    assert told["limits"] == {"most": 3}
    assert told["arguments"] == ["--most", "4"]
    assert told["commit"] == site.code.git("rev-parse", "HEAD")
    assert told["run"] == json.loads(ended.stdout)["run_id"]


def test_a_pipeline_writes_below_the_output_prefix_and_knows_its_parent(site: Site) -> None:
    ended = site.submit("--wait", "examples/drivers/words.sh", output="words")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (child,) = (site.main / "words" / "runs").iterdir()
    record = read(child / "run.json")
    (parent,) = [run for run in site.main.glob("runs/*") if run.name == record["parent_run"]]
    assert (record["dataset"], record["access_level"], record["output_prefix"]) == ("texts", "standard", "words")
    assert (record["queue"], record["repository"], record["dirty"]) == ("main", f"file://{site.code.remote}", False)
    assert record["commit"] == read(parent / "run.json")["commit"] == site.code.git("rev-parse", "HEAD")
    end = read(parent / "end.json")
    assert end["children"] == [f"words/runs/{child.name}/run.json"]
    assert "words/cohort/count/words.tsv" in end["outputs"]["files"]


# What comes from the working directory.


def test_the_script_starts_in_the_same_folder_of_the_commit(site: Site) -> None:
    folder = site.code.work / "examples" / "drivers"
    (folder / "here.sh").write_text("#!/bin/sh\npwd\n")
    (folder / "here.sh").chmod(0o755)
    site.code.commit({})
    site.code.push()
    ended = site.submit("--wait", "here.sh", output="here", folder=folder)
    assert ended.returncode == 0, ended.stderr
    assert "/code/examples/drivers\n" in ended.stdout


def test_what_stands_behind_the_script_is_the_scripts(site: Site) -> None:
    ended = site.submit("--wait", "says.sh", "--dataset", "mine", "a b", "*", "$HOME", output="says")
    assert ended.returncode == 0, ended.stderr
    assert "--dataset\nmine\na b\n*\n$HOME\n" in ended.stdout


def test_a_commit_that_is_named_needs_no_working_directory(site: Site, tmp_path: Path) -> None:
    commit = site.code.git("rev-parse", "HEAD")
    named = ("--repository", "code", "--commit", commit)
    ended = site.submit("--wait", *named, "says.sh", "hello", output="named", folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "hello\n" in ended.stdout


def test_a_program_of_the_machine_runs_at_level_test_without_code(site: Site, tmp_path: Path) -> None:
    words = ("--wait", "--skip-repo-checkout", "echo", "hello")
    ended = site.submit(*words, level="test", output="echo", folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "hello\n" in ended.stdout


# What is refused, and leaves nothing.


def test_a_changed_tree_is_refused_above_test(site: Site) -> None:
    (site.code.work / "says.sh").write_text("#!/bin/sh\necho changed\n")
    before = runs(site)
    ended = site.submit("says.sh")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "has changes that the commit lacks" in ended.stderr
    assert runs(site) == before


def test_a_file_that_was_not_committed_is_a_change(site: Site) -> None:
    (site.code.work / "more.txt").write_text("x")
    assert "has changes that the commit lacks" in site.submit("says.sh").stderr


def test_a_commit_that_was_not_pushed_is_refused_at_all_levels(site: Site) -> None:
    site.code.commit({"says.sh": "#!/bin/sh\necho mine\n"})
    for level in ("test", "standard"):
        ended = site.submit("says.sh", level=level)
        assert ended.returncode == 2
        assert "Push it first" in ended.stderr


def test_all_that_is_wrong_is_told_at_once_as_json_too(site: Site) -> None:
    before = runs(site)
    ended = site.submit("--json", "--env", "PATH=/evil", "--commit", "HEAD", "--repository", "code", "x", output="../x")
    assert ended.returncode == 2
    told = json.loads(ended.stdout)
    assert told["status"] == 403
    assert len(told["problems"]) == 3
    assert all(set(problem) == {"thing", "rule", "remedy", "status"} for problem in told["problems"])
    assert runs(site) == before


def test_no_flag_leads_round_the_gate(site: Site) -> None:
    ended = site.submit("--skip-repo-checkout", "--yes", "bash", "-c", "id", level="full")
    assert ended.returncode == 2
    assert "reviewed code only" in ended.stderr


def test_full_wants_a_yes(site: Site) -> None:
    assert "--yes" in site.submit("says.sh", level="full").stderr
    assert site.submit("--yes", "--dry-run", "says.sh", level="full").returncode == 0


def test_without_policies_nobody_runs(site: Site) -> None:
    ended = site.submit("says.sh", env={"BATCH_PIPELINE__ACCESS__POLICIES": ""})
    assert ended.returncode == 2
    assert "access.policies" in ended.stderr


def test_a_remote_that_is_away_is_told(site: Site) -> None:
    away = site.code.remote.with_name("away.git")
    site.code.remote.rename(away)
    try:
        ended = site.submit("says.sh")
    finally:
        away.rename(site.code.remote)
    assert ended.returncode == 4
    assert "git fetch" in ended.stderr


def test_a_variable_without_a_value_is_wrong_use(site: Site) -> None:
    assert site.submit("--env", "COLOUR", "says.sh").returncode == 2


# What is submitted.


def test_a_dry_run_tells_what_would_be_and_writes_nothing(site: Site) -> None:
    before = runs(site)
    ended = site.submit("--dry-run", "--json", "says.sh", output="dry/run")
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert (told["commit"], told["output"]) == (site.code.git("rev-parse", "HEAD"), "dry/run")
    assert runs(site) == before


def test_a_script_that_fails_ends_the_wait_with_1_and_its_reason(site: Site) -> None:
    ended = site.submit("--wait", "fails.sh", output="fails")
    assert ended.returncode == 1
    assert "trouble\n" in ended.stdout
    assert "exit code 3" in ended.stderr


def test_a_run_is_recorded_with_what_was_asked_and_what_came_of_it(site: Site) -> None:
    before = runs(site)
    assert site.submit("--wait", "--env", "COLOUR=blue", "says.sh", "x", output="recorded").returncode == 0
    (run,) = runs(site) - before
    record = read(run / "run.json")
    assert (record["kind"], record["argv"], record["environment"]) == ("driver", ["says.sh", "x"], {"COLOUR": "blue"})
    assert record["repository"] == f"file://{site.code.remote}"
    assert record["command"][:1] == ["submit"]
    assert [event["event"] for event in events_of(run)] == ["driver began", "ended"]
    shown = site.call("runs", "--store", str(site.main), "--json")
    assert run.name in {item["run_id"] for item in json.loads(shown.stdout)}


def test_what_the_user_gives_cannot_move_the_run(site: Site) -> None:
    """Had the gate let them through, the order's own would still win; the script sees only these."""
    ended = site.submit("--wait", "says.sh", output="seen")
    found = dict(line.split("=", 1) for line in ended.stdout.splitlines() if "=" in line)
    assert found["BATCH_PIPELINE__STORE__URL"] == str(site.main / "seen")
    assert found["BATCH_PIPELINE__BACKEND__QUEUE"] == "main"
    assert "BATCH_PIPELINE_DRIVER" not in found


def test_a_repositorys_token_is_nowhere(site: Site) -> None:
    (site.root / "secret").write_text(f"{TOKEN}\n")
    (site.root / "secret").chmod(0o600)
    policy = (site.root / "policies" / "texts.toml").read_text()
    site.policy(policy.replace("entry_points =", f'secret = "file:{site.root}/secret"\nentry_points =', 1))
    try:
        ended = site.submit("--wait", "--verbose", "says.sh", output="private")
    finally:
        site.policy(policy)
    assert ended.returncode == 0, ended.stderr
    assert TOKEN not in ended.stdout + ended.stderr
    places = (site.main, site.state, site.root / "cache", site.root / "scratch", site.root / "jobs-cache")
    files = [path for place in places for path in place.rglob("*") if path.is_file()]
    assert any(path.suffix == ".sqlite" or "log" in path.name for path in files)
    assert [str(path) for path in files if TOKEN.encode() in path.read_bytes()] == []


def test_a_driver_is_cancelled_by_its_run(site: Site) -> None:
    site.code.commit({"slow.sh": "#!/bin/sh\nexec sleep 300\n"})
    site.code.push()
    run = site.submitted("slow.sh", output="slow")
    until(lambda: events_of(run), "the driver's beginning")
    ended = site.call("cancel", run.name, "--store", str(site.main))
    assert ended.returncode == 0, ended.stderr
    assert read(run / "end.json")["problem"].startswith("cancelled: by ")
    until(lambda: "driver interrupted" in [event["event"] for event in events_of(run)], "the attempt's end")
    again = site.call("cancel", run.name, "--store", str(site.main))
    assert "has ended" in again.stdout
    assert [event["event"] for event in events_of(run)].count("driver began") == 1


# The preview.


def test_config_prints_what_the_script_would_read(site: Site, tmp_path: Path) -> None:
    (tmp_path / "limits.toml").write_text("[limits]\nmost = 3\n")
    shared = ("--dataset", "texts", "--description", "A test", "--output-dir", "preview")
    before = runs(site)
    ended = site.call("config", *shared, "--config", str(tmp_path / "limits.toml"), "says.sh", "--flag")
    assert ended.returncode == 0, ended.stderr
    told = tomllib.loads(ended.stdout)
    assert told["limits"] == {"most": 3}
    assert told["workflow"]["script"] == ["says.sh", "--flag"]
    assert told["storage"]["output"] == f"{site.test}/preview"
    assert runs(site) == before


def test_config_refuses_protected_tables_as_submit_does(site: Site, tmp_path: Path) -> None:
    (tmp_path / "evil.toml").write_text('[workflow]\naccess_level = "full"\n')
    shared = ("--dataset", "texts", "--description", "A test", "--output-dir", "preview")
    ended = site.call("config", *shared, "--config", str(tmp_path / "evil.toml"), "says.sh")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "protected" in ended.stderr
