"""The gate as a function of values: what passes, what is refused, and that nothing else passes."""

from __future__ import annotations

import ast
import json
import tomllib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.access import gate
from batch_pipeline.access.configuration import driver_config
from batch_pipeline.access.driver_job import order_of, record_of
from batch_pipeline.access.gate import decide, precheck
from batch_pipeline.access.names import PROTECTED_TABLES, RESERVED_NAMES, STORES_OWN
from batch_pipeline.access.policy import parse_policy, repository_key
from batch_pipeline.access.request import AdmissionFacts, EntryKind, Level, SubmitRequest, SubmoduleFacts, UserIdentity
from batch_pipeline.config import load_settings
from batch_pipeline.records.toml import to_toml
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import InvalidConfig, Refused
from tests.access.lab import ALICE, DIGEST, HEAD, POLICY, REPOSITORY, SHA, ask, facts, policy

pytestmark = pytest.mark.properties

PRIVILEGED = ["standard", "full"]
LEVELS = ["test", *PRIVILEGED]


def refused(asked: SubmitRequest, found: AdmissionFacts | None = None, identity: UserIdentity = ALICE) -> Refused:
    with pytest.raises(Refused) as caught:
        decide(asked, policy(), identity, facts() if found is None else found)
    assert {problem.status for problem in caught.value.problems} <= {400, 403, 409}
    return caught.value


@pytest.mark.parametrize("level", LEVELS)
def test_what_breaks_no_rule_passes_with_all_that_is_submitted(level: str) -> None:
    grant = decide(ask(level), policy(), ALICE, facts())
    assert grant.level is Level(level)
    assert grant.commit == SHA
    assert grant.image == f"registry.example.org/driver@{DIGEST}"
    assert grant.job_role.endswith(f"fusions-{level}")
    assert grant.entry == "scripts/cohort.sh"
    assert grant.policy_sha256 == policy().sha256


def test_outputs_lie_in_the_levels_own_place() -> None:
    assert decide(ask("standard"), policy(), ALICE, facts()).output == "analysis/cohort-7/v2"
    assert decide(ask("full"), policy(), ALICE, facts()).output == "cohort-7/v2"


def test_everything_that_is_wrong_is_told_at_once() -> None:
    error = refused(ask(description="", output_dir="../x", environment={"PATH": "/evil"}, commit="HEAD"))
    assert len(error.problems) == 4
    assert error.status == 403


def test_who_is_no_member_learns_nothing_else() -> None:
    error = refused(ask(description="", output_dir=".."), identity=UserIdentity(name="eve@example.org", source="oidc"))
    assert [problem.status for problem in error.problems] == [403]
    assert "eve@example.org" in error.message


def test_whoever_is_known_may_use_level_test_where_the_policy_says_so() -> None:
    eve = UserIdentity(name="eve@example.org", source="oidc")
    assert decide(ask("test"), policy(), eve, facts()).identity == eve
    error = refused(ask("test"), identity=UserIdentity(name="", source="oidc"))
    assert [(problem.subject, problem.status) for problem in error.problems] == [("membership", 403)]


def test_a_role_that_was_taken_is_a_member_by_its_alias() -> None:
    text = POLICY.replace('"alice@example.org"', '"arn:aws:iam::1:role/team"')
    session = UserIdentity(
        name="arn:aws:sts::1:assumed-role/team/alice", source="sts", aliases=("arn:aws:iam::1:role/team",)
    )
    assert decide(ask(), policy(text), session, facts()).identity.name == session.name


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    "output",
    [
        "",
        " ",
        "/",
        "/etc",
        "..",
        "a/../b",
        "a/..",
        "./a",
        ".",
        "a//b",
        "s3://other/x",
        "file:///x",
        "a\\b",
        "a\nb",
        "~/x",
        "a\x00b",
        "%2e%2e/x",
        "a/ b",
        "-x",
        "a/\u202ex",
        "x" * 600,
    ],
)
def test_an_output_prefix_stays_inside(level: str, output: str) -> None:
    assert refused(ask(level, output_dir=output)).status == 400


def test_an_output_is_none_of_the_stores_own_folders() -> None:
    places = {line.split("/")[0].strip() for line in (layout.__doc__ or "").splitlines() if line.startswith("    ")}
    assert places == STORES_OWN
    for place in places:
        assert refused(ask("test", output_dir=f"{place}/01ARZ3NDEKTSV4RRFFQ69G5FAV")).status == 403


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    "name",
    [
        "BATCH_PIPELINE__STORE__URL",
        "BATCH_PIPELINE_RUN",
        "AWS_ACCESS_KEY_ID",
        "BATCH_FILE_S3_URL",
        "LD_PRELOAD",
        "path",
        "PYTHONPATH",
        "PYTHONSTARTUP",
        "GIT_SSH_COMMAND",
        "BASH_ENV",
        "https_proxy",
        "R_PROFILE_USER",
        "OPENSSL_CONF",
        "PERLLIB",
        "BCFTOOLS_PLUGINS",
        "HDF5_PLUGIN_PATH",
        "MAKEFILES",
        *sorted(RESERVED_NAMES),
    ],
)
def test_reserved_variables_are_refused(level: str, name: str) -> None:
    error = refused(ask(level, environment={name: "x"}))
    assert error.status == 403
    assert name in error.message


@pytest.mark.parametrize("name", ["", "A=B", "1A", "A B", "Ä", "A\n", "A-B"])
def test_a_variable_has_a_name_of_letters(name: str) -> None:
    assert refused(ask(environment={name: "x"})).status == 400


def test_a_variable_that_looks_like_a_secret_is_refused_without_its_value() -> None:
    error = refused(ask(environment={"GITHUB_TOKEN": "ghp_hunter2"}))
    assert error.status == 400
    assert "hunter2" not in error.message


TOKENS = [
    "AKIA" + "ABCDEFGHIJKLMNOP",
    "ghp_" + "a" * 36,
    "https://ada:hunter2@example.org/x",
    "-----BEGIN RSA PRIVATE KEY-----",
]


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize("where", ["script", "environment", "config", "description"])
def test_what_is_plainly_a_secret_is_refused_and_not_repeated(where: str, token: str) -> None:
    changes: dict[str, Any] = {
        "script": ("main.py", f"--key={token}"),
        "environment": {"COLOUR": token},
        "config": {"mine": {"deep": ["x", token]}},
        "description": f"with {token}",
    }
    error = refused(ask("test", **{where: changes[where]}))
    assert error.status == 400
    assert token not in error.message


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("table", [*sorted(PROTECTED_TABLES), "Workflow", " workflow ", "workflow.access_level"])
def test_protected_tables_are_refused(level: str, table: str) -> None:
    assert refused(ask(level, config={table: {"access_level": "full"}})).status == 403


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    "commit",
    [
        "HEAD",
        "head",
        "refs/heads/HEAD",
        "FETCH_HEAD",
        "ORIG_HEAD",
        "@",
        "HEAD~1",
        "@{u}",
        "a..b",
        "-x",
        "--upload-pack=x",
        "a b",
        "main^{}",
        ":/fix",
        f"{SHA}\n",
    ],
)
def test_a_commit_that_moves_or_is_none_is_refused(level: str, commit: str) -> None:
    assert refused(ask(level, commit=commit)).status == 400


@pytest.mark.parametrize("level", PRIVILEGED)
@pytest.mark.parametrize("commit", ["main", "v1.0", SHA[:12], SHA.upper(), f"{SHA}0"])
def test_reviewed_code_is_named_by_a_full_sha(level: str, commit: str) -> None:
    assert refused(ask(level, commit=commit)).status == 400


def test_level_test_takes_a_branch_and_runs_what_it_stands_for() -> None:
    assert decide(ask("test", commit="main"), policy(), ALICE, facts()).commit == SHA


CODE_TRICKS: dict[str, tuple[dict[str, Any], int]] = {
    "not on the remote": ({"commit": ""}, 409),
    "the SHA of a tag object": ({"commit": HEAD}, 409),
    "not merged": ({"merged": False}, 403),
    "no protected branch": ({"protected_head": "", "merged": False}, 403),
    "another branch looked at": ({"protected_branch": "feature"}, 403),
    "another repository looked at": ({"repository": "https://github.com/eve/fusions"}, 409),
    "a history cut off": ({"shallow": True}, 403),
    "a link": ({"entry_kind": EntryKind.LINK}, 403),
    "a folder": ({"entry_kind": EntryKind.FOLDER}, 403),
    "inside a submodule": ({"entry_kind": EntryKind.SUBMODULE}, 403),
    "no such file": ({"entry_kind": EntryKind.MISSING}, 409),
    "no such folder": ({"cwd_missing": True}, 409),
    "a foreign submodule": ({"submodules": (SubmoduleFacts(path="x", url="u", commit=SHA, allowed=False),)}, 403),
    "a submodule's unmerged commit": (
        {"submodules": (SubmoduleFacts(path="x", url="u", commit=SHA, allowed=True, merged=False),)},
        403,
    ),
    "a submodule nobody looked at": (
        {"submodules": (SubmoduleFacts(path="x", url="u", commit=SHA, allowed=True),)},
        403,
    ),
    "a submodule's commit that is not there": (
        {"submodules": (SubmoduleFacts(path="x", url="u", commit="", allowed=True, merged=True),)},
        409,
    ),
}


@pytest.mark.parametrize("level", PRIVILEGED)
@pytest.mark.parametrize("trick", CODE_TRICKS)
def test_what_the_remote_says_against_it_is_refused(level: str, trick: str) -> None:
    changes, status = CODE_TRICKS[trick]
    assert refused(ask(level), facts(code=changes)).status == status


@pytest.mark.parametrize("level", PRIVILEGED)
@pytest.mark.parametrize(
    "script",
    [
        ("bash", "-c", "id"),
        ("/bin/sh", "x"),
        ("other.py",),
        ("scripts/deep/x.sh",),
        ("../main.py",),
        ("scripts/../x.sh",),
        ("./../fusions/main.py",),
        (".git/hooks/x.sh",),
        ("-c",),
        ("scripts\\x.sh",),
    ],
)
def test_only_entry_points_may_be_started_above_test(level: str, script: tuple[str, ...]) -> None:
    assert refused(ask(level, script=script)).status == 403


def test_level_test_starts_a_file_of_the_commit_or_a_program_of_the_image() -> None:
    missing = facts(code={"entry_kind": EntryKind.MISSING})
    assert refused(ask("test", script=("scripts/cohort.sh",)), missing).status == 409
    assert decide(ask("test", script=("bash", "scripts/cohort.sh")), policy(), ALICE, missing).entry == ""


def test_level_test_runs_code_that_nobody_reviewed() -> None:
    unmerged = SubmoduleFacts(path="x", url="u", commit=SHA, allowed=True, merged=False)
    grant = decide(ask("test"), policy(), ALICE, facts(code={"merged": False, "submodules": (unmerged,)}))
    assert grant.submodules == (unmerged,)


def test_the_working_directory_is_part_of_the_entry_point() -> None:
    assert decide(ask(cwd="scripts", script=("./cohort.sh",)), policy(), ALICE, facts()).entry == "scripts/cohort.sh"
    assert refused(ask(cwd="tools", script=("main.py",))).status == 403
    assert refused(ask(cwd="../tools")).status == 400


@pytest.mark.parametrize("level", PRIVILEGED)
def test_without_a_repository_only_level_test_runs(level: str) -> None:
    without = {"repository": "", "commit": "", "script": ("bash", "-c", "id")}
    assert refused(ask(level, **without)).status == 403
    grant = decide(ask("test", **without), policy(), ALICE, facts())
    assert (grant.repository, grant.commit, grant.entry) == ("", "", "")


@pytest.mark.parametrize(
    ("image", "status"),
    [
        ({"digest": ""}, 409),
        ({"digest": "sha256:3fa9"}, 409),
        ({"asked_digest": "sha256:" + "0" * 64}, 409),
        ({"digest": "sha256:" + "0" * 64}, 403),
        ({"repository": "registry.example.org/driver-evil"}, 403),
        ({"repository": "eve.example.org/driver"}, 403),
    ],
)
@pytest.mark.parametrize("level", PRIVILEGED)
def test_only_allowed_images_with_a_digest_pass(level: str, image: dict[str, Any], status: int) -> None:
    assert refused(ask(level), facts(image=image)).status == status


#: Another digest that the policy allows, too.
MOVED = "sha256:" + "3fa9" * 15 + "0000"


@pytest.mark.parametrize("level", LEVELS)
def test_an_image_named_by_digest_passes_only_while_its_tag_leads_there(level: str) -> None:
    """At level test as well: what runs is what was named, and not what the tag leads to by now."""
    named = ask(level, image=f"registry.example.org/driver:1@{DIGEST}")
    assert decide(named, policy(), ALICE, facts(image={"asked_digest": DIGEST})).image.endswith(DIGEST)
    error = refused(named, facts(image={"asked_digest": DIGEST, "digest": MOVED}))
    assert error.status == 409
    assert MOVED[:19] in error.message


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("digest", ["", "sha256:3fa9", f"{DIGEST}0", DIGEST.upper()])
def test_an_image_without_a_whole_digest_runs_at_no_level(level: str, digest: str) -> None:
    assert refused(ask(level), facts(image={"digest": digest})).status == 409
    assert refused(ask(level), AdmissionFacts(code=facts().code)).status == 409


SECOND_IMAGE = """
[[images]]
repository = "registry.example.org/r"
digests = ["sha256:1111", "sha256:2222"]
"""


@pytest.mark.parametrize(
    ("image", "is_allowed"),
    [
        ({}, True),
        ({"repository": "registry.example.org/r", "digest": "sha256:" + "1" * 64}, True),
        ({"repository": "registry.example.org/r", "digest": "sha256:" + "2" * 64}, True),
        ({"repository": "registry.example.org/r"}, False),
        ({"digest": "sha256:" + "1" * 64}, False),
    ],
)
@pytest.mark.parametrize("level", PRIVILEGED)
def test_each_allowed_image_has_digests_of_its_own(level: str, image: dict[str, Any], is_allowed: bool) -> None:
    rules, found = policy(POLICY + SECOND_IMAGE), facts(image=image)
    if is_allowed:
        assert found.image is not None
        assert decide(ask(level), rules, ALICE, found).image == found.image.pinned
        return
    with pytest.raises(Refused, match="allowed images only"):
        decide(ask(level), rules, ALICE, found)


@pytest.mark.parametrize("level", PRIVILEGED)
def test_where_no_image_is_allowed_reviewed_code_runs_in_none(level: str) -> None:
    rules = replace(policy(POLICY.replace("queue =", "without_image = true\nqueue =")), images=())
    with pytest.raises(Refused, match="Use one of none"):
        decide(ask(level), rules, ALICE, facts())
    assert decide(ask(level, image=""), rules, ALICE, AdmissionFacts(code=facts().code)).image == ""


def test_a_run_needs_an_image_unless_the_policy_says_otherwise() -> None:
    assert refused(ask("test", image=""), AdmissionFacts(code=facts().code)).status == 400
    text = POLICY.replace('members = ["*"]', 'members = ["*"]\nwithout_image = true')
    assert decide(ask("test", image=""), policy(text), ALICE, AdmissionFacts(code=facts().code)).image == ""
    assert decide(ask("test", image=""), policy(text), ALICE, facts()).image == "", "nobody named an image"


def test_a_dirty_tree_is_refused_above_test() -> None:
    assert refused(ask(dirty=True)).status == 409
    assert decide(ask("test", dirty=True), policy(), ALICE, facts()).commit == SHA


def test_level_full_is_asked_for_twice() -> None:
    assert "--yes" in refused(ask("full", confirmed=False)).message


def test_the_url_that_is_fetched_is_the_policys() -> None:
    for spelling in ("git@github.com:example/fusions.git", "https://GitHub.com/example/fusions.git", "fusions"):
        assert decide(ask(repository=spelling), policy(), ALICE, facts()).repository == REPOSITORY


@pytest.mark.parametrize(
    "url",
    [
        "ext::sh -c id",
        "https://eve:x@github.com/example/fusions",
        "http://github.com/example/fusions",
        "--upload-pack=id",
        "https://github.com/example/../example/fusions",
        "https://github.com/example/fusions?x",
        "https://evil.org/fusions",
        "https://github.com:444/example/fusions",
        "/srv/example/fusions",
        "example/Fusions",
        "github.com/example/fusions\n",
    ],
)
@pytest.mark.parametrize("level", LEVELS)
def test_a_repository_that_the_policy_does_not_name_is_refused(level: str, url: str) -> None:
    error = refused(ask(level, repository=url))
    assert error.status == 403
    assert "eve:x" not in error.message
    is_shown = "@" not in url and "\n" not in url
    assert f"--repository {url if is_shown else 'as given'}:" in error.message


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("without", ["repository", "commit"])
def test_a_repository_and_a_commit_are_named_together(level: str, without: str) -> None:
    named: dict[str, Any] = {without: ""}
    error = refused(ask(level, **named))
    assert [(problem.subject, problem.status) for problem in error.problems] == [("--repository, --commit", 400)]


def test_a_precheck_refuses_before_anything_is_looked_up() -> None:
    with pytest.raises(Refused):
        precheck(ask(commit="HEAD"), policy(), ALICE)
    precheck(ask(), policy(), ALICE)
    precheck(ask(image="x" * 512), policy(), ALICE)


@pytest.mark.parametrize(
    "changes",
    [
        {"cpu": float("nan")},
        {"cpu": 0},
        {"cpu": 1e9},
        {"memory_mb": 1},
        {"script": ()},
        {"script": ("a\x1b[2J",)},
        {"dataset": "other"},
        {"access_level": "root"},
        {"access_level": "FULL"},
        {"description": "a\nb"},
        {"image": "registry.example.org/driver:1\x1b[2J"},
        {"image": "x" * 513},
    ],
)
def test_what_has_no_right_form_is_refused(changes: dict[str, Any]) -> None:
    refused(ask(**changes))


@pytest.mark.parametrize(
    ("name", "least", "most", "below", "above"),
    [("cpu", 0.25, 192, 0.24, 192.5), ("memory_mb", 128, 1_536_000, 127, 1_536_001)],
)
def test_the_size_of_a_driver_has_bounds(name: str, least: Any, most: Any, below: Any, above: Any) -> None:
    for size in (least, most):
        assert getattr(decide(ask(**{name: size}), policy(), ALICE, facts()), name) == size
    for size in (below, above):
        assert refused(ask(**{name: size})).status == 400


def test_a_dataset_that_is_not_there_is_told_like_one_that_is_not_yours() -> None:
    error = refused(ask(dataset="other", output_dir=".."))
    assert [problem.status for problem in error.problems] == [403]


_TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
_ODD = st.one_of(
    _TEXT, st.sampled_from(["main", "HEAD", SHA, "..", "/", "fusions", REPOSITORY, "standard", "full", "test"])
)


@given(
    level=st.sampled_from(LEVELS),
    changes=st.fixed_dictionaries(
        {},
        optional={
            "output_dir": _ODD,
            "commit": _ODD,
            "repository": _ODD,
            "cwd": _ODD,
            "script": st.lists(_ODD, max_size=3),
            "environment": st.dictionaries(_ODD, _ODD, max_size=2),
            "config": st.dictionaries(_ODD, _ODD, max_size=2),
            "dirty": st.booleans(),
            "confirmed": st.booleans(),
        },
    ),
    code=st.fixed_dictionaries(
        {},
        optional={
            "commit": st.sampled_from(["", SHA, HEAD]),
            "merged": st.booleans(),
            "shallow": st.booleans(),
            "entry_kind": st.sampled_from(EntryKind),
        },
    ),
    image=st.fixed_dictionaries({}, optional={"digest": st.sampled_from(["", DIGEST, "sha256:" + "0" * 64])}),
)
def test_whatever_passes_obeys_the_policy(
    level: str, changes: dict[str, Any], code: dict[str, Any], image: dict[str, Any]
) -> None:
    rules, found = policy(), facts(code=code, image=image)
    asked = ask(level, **changes)
    try:
        grant = decide(asked, rules, ALICE, found)
    except Refused:
        return
    place = rules.levels[Level(level)]
    assert (grant.store, grant.job_role, grant.queue) == (place.store, place.job_role, place.queue)
    assert ".." not in grant.output.split("/")
    assert f"{grant.store}/{grant.output}/".startswith(place.area)
    assert grant.image.endswith(found.image.digest if found.image else "!")
    if grant.level.privileged:
        assert found.code is not None
        assert (grant.repository, grant.commit) == (REPOSITORY, SHA)
        assert found.code.merged
        assert not asked.dirty
        assert grant.entry == "main.py" or grant.entry.startswith("scripts/")
        assert grant.image.endswith(DIGEST)


# Asks that come over a wire.


def test_an_ask_is_read_from_json() -> None:
    value = {**vars(ask()), "script": list(ask().script)}
    assert SubmitRequest.from_json(value) == replace(ask(), script=list(ask().script))


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "x",
        {},
        {**vars(ask()), "job_role": "x"},
        {**vars(ask()), "script": "main.py"},
        {**vars(ask()), "environment": {"A": 1}},
        {**vars(ask()), "memory_mb": True},
        {**vars(ask()), "confirmed": "yes"},
    ],
)
def test_json_of_another_shape_is_refused(value: Any) -> None:
    with pytest.raises(Refused) as caught:
        SubmitRequest.from_json(value)
    assert caught.value.status == 400


_JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(["\ud800", SHA])
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=8,
)
_FIELDS = [item.name for item in fields(SubmitRequest)]


@given(changes=st.dictionaries(st.sampled_from(_FIELDS), _JSON, max_size=3), level=st.sampled_from(LEVELS))
def test_whatever_comes_over_a_wire_is_refused_or_can_be_recorded(changes: dict[str, Any], level: str) -> None:
    value = {**vars(ask(level)), **changes}
    try:
        grant = decide(SubmitRequest.from_json(value), policy(), ALICE, facts())
    except Refused as error:
        _ = error.message.encode()
        return
    config = to_toml(driver_config(grant, "RUN"))
    assert tomllib.loads(config)["workflow"]["access_level"] == grant.level.value
    settings = load_settings(environ={})
    assert json.dumps(record_of(grant, settings, "RUN", (), "", "")).encode()
    assert json.dumps(order_of(grant, settings, "RUN", "").to_json()).encode()


@pytest.mark.parametrize(
    "config", [{"a": None}, {"a": ["\ud800"]}, {"a": "x" * 300_000}, {"a": object()}, {"a": [[]] * 300_000}]
)
def test_a_configuration_that_toml_has_not_is_refused(config: dict[str, Any]) -> None:
    assert refused(ask("test", config=config)).status == 400


def test_a_configuration_that_is_deep_is_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"a": deep}
    assert refused(ask("test", config=deep)).status == 400


# Policies.


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ('store = "s3://fusions-main"\noutput_prefix = "analysis"', 'store = "s3://fusions-test/x"', "overlap"),
        ('members = ["alice@example.org"]', 'members = ["*"]', "anybody"),
        ("role/fusions-standard", "role/fusions-test", "job role"),
        ('job_role = "arn:aws:iam::111122223333:role/fusions-full"', "", "job_role"),
        ("env:FUSIONS_TOKEN", "ghp_hunter2", "no reference"),
        ('url = "https://github.com', 'url = "http://github.com', "https, ssh or file"),
        ('digests = ["sha256:3fa9"]', "digests = []", "digests"),
        ('queue = "test"', 'queue = "test"\nowner = "x"', "owner"),
        ("[levels.full]", "[levels.root]", "root"),
        ('dataset = "fusions"', "dataset = 7", "dataset"),
        ("[levels.test]", "[levels.test", "TOML"),
    ],
)
def test_a_policy_that_contradicts_itself_is_refused(old: str, new: str, word: str) -> None:
    assert old in POLICY
    with pytest.raises(InvalidConfig, match=word) as caught:
        parse_policy(POLICY.replace(old, new).encode(), "fusions.toml")
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("git@github.com:a/b.git", "https://github.com/a/b"),
        ("ssh://git@github.com/a/b", "https://github.com/a/b/"),
        ("file:///srv/git/a.git", "/srv/git/a"),
    ],
)
def test_spellings_of_one_repository_have_one_key(one: str, other: str) -> None:
    assert repository_key(one) == repository_key(other) != ""


# Nothing leads round it.


def calls_of(name: str) -> set[str]:
    """Modules of the package that call a function or class of this name."""
    package = Path(gate.__file__).parents[1]
    return {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
    }


@pytest.mark.parametrize(
    ("name", "callers"),
    [
        ("Grant", {"access/gate.py"}),
        ("decide", {"access/admission.py"}),
        ("admit", {"access/cli/submit.py", "access/service/serve.py"}),
        ("launch", {"access/cli/submit.py", "access/service/serve.py"}),
        # `run --driver batch` has the rights of whoever gives it, and no dataset's.
        ("DriverOrder", {"run/driver_order.py"}),
        ("order_of", {"access/launching.py"}),
    ],
)
def test_a_run_comes_through_the_gate_alone(name: str, callers: set[str]) -> None:
    assert calls_of(name) - {"access/driver_job.py"} == callers
