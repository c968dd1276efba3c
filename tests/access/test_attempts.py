"""Attempts to get round the gate, each on real git repositories, each refused with its status and its reason.

Each goes the whole way that the command line and the server go: policy, remote, registry, decision. Attempts that
concern identity tokens and the pages of results are beside the server's tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from batch_pipeline.access.request import SubmitRequest, UserIdentity
from batch_pipeline.wire.errors import Refused
from tests.access.repositories import ALICE, DIGEST, MALLORY, Dataset, Repository, git

pytestmark = pytest.mark.engine

OTHER = "sha256:" + "0" * 64
Attempt = Callable[[Dataset], SubmitRequest]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Dataset(tmp_path)


def evil(dataset: Dataset) -> str:
    """A commit that nobody reviewed."""
    return dataset.code.commit({"main.sh": "#!/bin/sh\necho evil\n"})


# Commits.


def a_dirty_tree(dataset: Dataset) -> SubmitRequest:
    return dataset.ask(dirty=True)


def a_commit_that_was_not_pushed(dataset: Dataset) -> SubmitRequest:
    return dataset.ask(commit=evil(dataset))


def a_commit_of_an_unmerged_branch(dataset: Dataset) -> SubmitRequest:
    commit = evil(dataset)
    dataset.code.push(f"{commit}:refs/heads/feature")
    return dataset.ask(commit=commit)


def a_local_branch_that_claims_to_be_merged(dataset: Dataset) -> SubmitRequest:
    commit = evil(dataset)
    dataset.code.push(f"{commit}:refs/heads/feature")
    dataset.code.git("update-ref", "refs/remotes/origin/main", commit)
    return dataset.ask(commit=commit)


def a_commit_that_was_force_pushed_away(dataset: Dataset) -> SubmitRequest:
    commit = evil(dataset)
    dataset.code.push()
    dataset.admit(dataset.ask(commit=commit))
    dataset.code.git("reset", "--quiet", "--hard", dataset.reviewed)
    dataset.code.push()
    return dataset.ask(commit=commit)


def a_commit_kept_by_a_tag_after_a_force_push(dataset: Dataset) -> SubmitRequest:
    commit = evil(dataset)
    dataset.code.push("main", f"{commit}:refs/tags/keep")
    dataset.code.push(f"+{dataset.reviewed}:refs/heads/main")
    return dataset.ask(commit=commit)


def a_tag_instead_of_a_commit(dataset: Dataset) -> SubmitRequest:
    dataset.code.push(f"{dataset.reviewed}:refs/tags/v1")
    return dataset.ask(commit="v1")


def a_tag_that_is_called_like_the_branch(dataset: Dataset) -> SubmitRequest:
    commit = evil(dataset)
    dataset.code.push(f"{commit}:refs/tags/main")
    return dataset.ask(commit=commit)


def the_sha_of_an_annotated_tag(dataset: Dataset) -> SubmitRequest:
    dataset.code.git("tag", "-a", "-m", "reviewed", "v1")
    dataset.code.push("v1")
    return dataset.ask(commit=dataset.code.git("rev-parse", "v1"))


def the_sha_of_a_tree(dataset: Dataset) -> SubmitRequest:
    return dataset.ask(commit=dataset.code.git("rev-parse", "HEAD^{tree}"))


def a_branch_whose_name_looks_like_a_sha(dataset: Dataset) -> SubmitRequest:
    name = "a" * 40
    dataset.code.push(f"{evil(dataset)}:refs/heads/{name}")
    return dataset.ask(commit=name)


def a_shortened_sha(dataset: Dataset) -> SubmitRequest:
    return dataset.ask(commit=dataset.reviewed[:12])


def head_as_the_commit(dataset: Dataset) -> SubmitRequest:
    return dataset.ask("test", commit="HEAD")


def an_expression_as_the_commit(dataset: Dataset) -> SubmitRequest:
    return dataset.ask("test", commit=f"{dataset.reviewed}~1")


def an_option_as_the_commit(dataset: Dataset) -> SubmitRequest:
    return dataset.ask("test", commit="--upload-pack=touch /tmp/owned")


def a_commit_of_a_ref_that_is_no_branch(dataset: Dataset) -> SubmitRequest:
    commit = evil(dataset)
    dataset.code.push(f"{commit}:refs/pull/7/head")
    return dataset.ask("test", commit=commit)


def a_remote_whose_history_is_cut_off(dataset: Dataset) -> SubmitRequest:
    first = dataset.reviewed
    dataset.code.commit({"more.txt": "x"})
    dataset.code.push()
    shallow = dataset.root / "shallow.git"
    git(dataset.root, "clone", "--quiet", "--bare", "--depth", "1", dataset.url(), str(shallow))
    dataset.policy = dataset.policy.replace(dataset.url(), f"file://{shallow}")
    head = git(shallow, "rev-parse", "HEAD")
    assert head != first
    return dataset.ask(repository=f"file://{shallow}", commit=head)


def an_object_that_replaces_the_reviewed_one(dataset: Dataset) -> SubmitRequest:
    commit = evil(dataset)
    dataset.code.git("replace", dataset.reviewed, commit)
    dataset.code.push(f"refs/replace/{dataset.reviewed}", f"{commit}:refs/heads/feature")
    return dataset.ask(commit=commit)


def a_history_that_a_graft_makes_merged(dataset: Dataset) -> SubmitRequest:
    commit = evil(dataset)
    dataset.code.push(f"{commit}:refs/heads/feature")
    grafts = dataset.code.remote / "info" / "grafts"
    grafts.write_text(f"{dataset.reviewed} {commit}\n")
    return dataset.ask(commit=commit)


def a_protected_branch_that_is_gone(dataset: Dataset) -> SubmitRequest:
    dataset.code.push(f"{dataset.reviewed}:refs/heads/other")
    git(dataset.code.remote, "update-ref", "-d", "refs/heads/main")
    return dataset.ask()


# Repositories.


def another_repository(dataset: Dataset) -> SubmitRequest:
    fork = Repository(dataset.root, "fork")
    commit = fork.commit({"main.sh": "#!/bin/sh\necho evil\n"})
    fork.push()
    return dataset.ask("test", repository=f"file://{fork.remote}", commit=commit)


def a_way_round_to_another_repository(dataset: Dataset) -> SubmitRequest:
    Repository(dataset.root, "fork")
    return dataset.ask(repository=f"file://{dataset.root}/code.git/../fork.git")


def a_transport_that_runs_a_command(dataset: Dataset) -> SubmitRequest:
    return dataset.ask("test", repository="ext::sh -c touch% /tmp/owned")


def a_repository_with_a_password_in_its_url(dataset: Dataset) -> SubmitRequest:
    return dataset.ask("test", repository="https://mallory:hunter2@github.com/example/code")


def no_repository_at_all(dataset: Dataset) -> SubmitRequest:
    return dataset.ask(repository="", commit="", script=("bash", "-c", "id"))


def a_repository_without_a_commit(dataset: Dataset) -> SubmitRequest:
    return dataset.ask("test", commit="")


# Submodules and entry points.


def _with_submodule(dataset: Dataset, url: str, commit: str, path: str = "lib") -> SubmitRequest:
    """A merged commit of the code with a submodule in it."""
    work = dataset.code.work
    (work / ".gitmodules").write_text(f'[submodule "lib"]\n\tpath = {path}\n\turl = {url}\n')
    dataset.code.git("add", ".gitmodules")
    dataset.code.git("update-index", "--add", "--cacheinfo", f"160000,{commit},{path}")
    dataset.code.git("commit", "--quiet", "-m", "use the library")
    head = dataset.code.git("rev-parse", "HEAD")
    dataset.code.push()
    return dataset.ask(commit=head)


def a_submodule_of_a_foreign_repository(dataset: Dataset) -> SubmitRequest:
    fork = Repository(dataset.root, "fork")
    return _with_submodule(dataset, f"file://{fork.remote}", fork.commit({"a": "b"}))


def a_submodule_with_an_unmerged_commit(dataset: Dataset) -> SubmitRequest:
    dataset.library.commit({"a": "b"})
    dataset.library.push()
    commit = dataset.library.commit({"a": "evil"})
    dataset.library.push(f"{commit}:refs/heads/feature")
    return _with_submodule(dataset, "../library.git", commit)


def a_submodule_with_a_commit_that_is_nowhere(dataset: Dataset) -> SubmitRequest:
    dataset.library.commit({"a": "b"})
    dataset.library.push()
    return _with_submodule(dataset, dataset.url("library"), "1" * 40)


def a_submodule_that_runs_a_command(dataset: Dataset) -> SubmitRequest:
    return _with_submodule(dataset, "ext::sh -c touch% /tmp/owned", "1" * 40)


def a_submodule_that_no_file_tells_of(dataset: Dataset) -> SubmitRequest:
    return _with_submodule(dataset, dataset.url("library"), "1" * 40, path="lib2\n\turl = x")


def a_submodule_that_leads_back(dataset: Dataset) -> SubmitRequest:
    return _with_submodule(dataset, "../code.git", dataset.reviewed)


def a_shell_instead_of_an_entry_point(dataset: Dataset) -> SubmitRequest:
    return dataset.ask(script=("bash", "-c", "id"))


def a_script_above_the_repository(dataset: Dataset) -> SubmitRequest:
    return dataset.ask(cwd="scripts", script=("../../main.sh",))


def an_entry_point_that_is_a_link(dataset: Dataset) -> SubmitRequest:
    (dataset.code.work / "scripts" / "link.sh").symlink_to("/bin/sh")
    commit = dataset.code.commit({})
    dataset.code.push()
    return dataset.ask(commit=commit, script=("scripts/link.sh",))


def an_entry_point_in_a_linked_folder(dataset: Dataset) -> SubmitRequest:
    (dataset.code.work / "scripts" / "count.sh").unlink()
    (dataset.code.work / "scripts").rmdir()
    (dataset.code.work / "scripts").symlink_to("/usr/bin")
    commit = dataset.code.commit({})
    dataset.code.push()
    return dataset.ask(commit=commit, script=("scripts/run.sh",))


def an_entry_point_that_only_a_later_commit_has(dataset: Dataset) -> SubmitRequest:
    dataset.code.commit({"scripts/late.sh": "#!/bin/sh\n"})
    dataset.code.push()
    return dataset.ask(script=("scripts/late.sh",))


def a_working_directory_outside(dataset: Dataset) -> SubmitRequest:
    return dataset.ask("test", cwd="../..")


# Places, variables, configuration.


def an_output_outside_the_dataset(dataset: Dataset) -> SubmitRequest:
    return dataset.ask("test", output_dir="../main/cohort-7")


def an_absolute_output(dataset: Dataset) -> SubmitRequest:
    return dataset.ask("test", output_dir=f"{dataset.root}/main")


def an_output_that_is_a_url(dataset: Dataset) -> SubmitRequest:
    return dataset.ask("test", output_dir="s3://fusions-main/cohort-7")


def an_output_with_a_hidden_character(dataset: Dataset) -> SubmitRequest:
    return dataset.ask("test", output_dir="cohort\u202e-7\x00")


def a_variable_that_moves_the_store(dataset: Dataset) -> SubmitRequest:
    return dataset.ask("test", environment={"BATCH_PIPELINE__STORE__URL": f"{dataset.root}/main"})


def a_variable_that_takes_another_identity(dataset: Dataset) -> SubmitRequest:
    return dataset.ask("test", environment={"AWS_PROFILE": "admin"})


def a_variable_that_loads_other_code(dataset: Dataset) -> SubmitRequest:
    return dataset.ask("test", environment={"LD_PRELOAD": "./evil.so"})


def a_variable_that_git_obeys(dataset: Dataset) -> SubmitRequest:
    return dataset.ask(environment={"GIT_CONFIG_COUNT": "1"})


def a_configuration_that_raises_the_level(dataset: Dataset) -> SubmitRequest:
    return dataset.ask("test", config={"workflow": {"access_level": "full"}})


def a_configuration_that_moves_the_storage(dataset: Dataset) -> SubmitRequest:
    return dataset.ask("test", config={"storage": {"url": f"{dataset.root}/main"}})


# Images, members, levels.


def a_tag_that_moved_to_another_image(dataset: Dataset) -> SubmitRequest:
    dataset.registry["registry.example.org/driver:1"] = OTHER
    return dataset.ask()


def a_tag_that_left_the_digest_beside_it(dataset: Dataset) -> SubmitRequest:
    dataset.registry["registry.example.org/driver:1"] = DIGEST[:-4] + "0000"
    return dataset.ask(image=f"registry.example.org/driver:1@{DIGEST}")


def an_image_of_another_registry(dataset: Dataset) -> SubmitRequest:
    dataset.registry["mallory.example.org/driver:1"] = DIGEST
    return dataset.ask(image="mallory.example.org/driver:1")


def an_image_whose_name_only_begins_alike(dataset: Dataset) -> SubmitRequest:
    dataset.registry["registry.example.org/driver-evil:1"] = DIGEST
    return dataset.ask(image="registry.example.org/driver-evil:1")


def an_image_that_is_not_there(dataset: Dataset) -> SubmitRequest:
    return dataset.ask(image="registry.example.org/driver:2")


def no_image(dataset: Dataset) -> SubmitRequest:
    return dataset.ask(image="")


def a_level_that_there_is_not(dataset: Dataset) -> SubmitRequest:
    return dataset.ask("root")


def full_without_a_yes(dataset: Dataset) -> SubmitRequest:
    return dataset.ask("full", confirmed=False)


def another_dataset(dataset: Dataset) -> SubmitRequest:
    return dataset.ask(dataset="../fusions")


#: Attempt -> the status that refuses it, and a word of the reason.
ATTEMPTS: dict[Attempt, tuple[int, str]] = {
    a_dirty_tree: (409, "changes that the commit lacks"),
    a_commit_that_was_not_pushed: (409, "No branch or tag"),
    a_commit_of_an_unmerged_branch: (403, "not on the branch main"),
    a_local_branch_that_claims_to_be_merged: (403, "not on the branch main"),
    a_commit_that_was_force_pushed_away: (409, "No branch or tag"),
    a_commit_kept_by_a_tag_after_a_force_push: (403, "not on the branch main"),
    a_tag_instead_of_a_commit: (400, "full SHA"),
    a_tag_that_is_called_like_the_branch: (403, "not on the branch main"),
    the_sha_of_an_annotated_tag: (409, "stands for"),
    the_sha_of_a_tree: (409, "No branch or tag"),
    a_branch_whose_name_looks_like_a_sha: (409, "No branch or tag"),
    a_shortened_sha: (400, "full SHA"),
    head_as_the_commit: (400, "another commit every day"),
    an_expression_as_the_commit: (400, "no name of a commit"),
    an_option_as_the_commit: (400, "no name of a commit"),
    a_commit_of_a_ref_that_is_no_branch: (409, "No branch or tag"),
    a_remote_whose_history_is_cut_off: (403, "cut off"),
    an_object_that_replaces_the_reviewed_one: (403, "not on the branch main"),
    a_history_that_a_graft_makes_merged: (403, "not on the branch main"),
    a_protected_branch_that_is_gone: (403, "has no branch main"),
    another_repository: (403, "does not allow this repository"),
    a_way_round_to_another_repository: (403, "does not allow this repository"),
    a_transport_that_runs_a_command: (403, "does not allow this repository"),
    a_repository_with_a_password_in_its_url: (403, "does not allow this repository"),
    no_repository_at_all: (403, "reviewed code only"),
    a_repository_without_a_commit: (400, "without the other"),
    a_submodule_of_a_foreign_repository: (403, "none that the policy allows"),
    a_submodule_with_an_unmerged_commit: (403, "not on the protected branch"),
    a_submodule_with_a_commit_that_is_nowhere: (409, "not in its repository"),
    a_submodule_that_runs_a_command: (403, "none that the policy allows"),
    a_submodule_that_no_file_tells_of: (403, "none that the policy allows"),
    a_submodule_that_leads_back: (403, "none that the policy allows"),
    a_shell_instead_of_an_entry_point: (403, "none of the entry points"),
    a_script_above_the_repository: (403, "none of the entry points"),
    an_entry_point_that_is_a_link: (403, "symbolic link"),
    an_entry_point_in_a_linked_folder: (409, "no file of the commit"),
    an_entry_point_that_only_a_later_commit_has: (409, "no file of the commit"),
    a_working_directory_outside: (400, "inside the repository"),
    an_output_outside_the_dataset: (400, "names of letters"),
    an_absolute_output: (400, "not absolute"),
    an_output_that_is_a_url: (400, "no URL"),
    an_output_with_a_hidden_character: (400, "names of letters"),
    a_variable_that_moves_the_store: (403, "reserved"),
    a_variable_that_takes_another_identity: (403, "reserved"),
    a_variable_that_loads_other_code: (403, "reserved"),
    a_variable_that_git_obeys: (403, "reserved"),
    a_configuration_that_raises_the_level: (403, "protected"),
    a_configuration_that_moves_the_storage: (403, "protected"),
    a_tag_that_moved_to_another_image: (403, "allowed images only"),
    a_tag_that_left_the_digest_beside_it: (409, "was moved"),
    an_image_of_another_registry: (403, "allowed images only"),
    an_image_whose_name_only_begins_alike: (403, "allowed images only"),
    an_image_that_is_not_there: (409, "no such image"),
    no_image: (400, "none is named"),
    a_level_that_there_is_not: (400, "no such level"),
    full_without_a_yes: (400, "asked for twice"),
    another_dataset: (403, "no such dataset"),
}


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda attempt: attempt.__name__)
def test_an_attempt_is_refused(attempt: Attempt, dataset: Dataset) -> None:
    asked = attempt(dataset)
    with pytest.raises(Refused) as caught:
        dataset.admit(asked)
    status, word = ATTEMPTS[attempt]
    assert word in caught.value.message
    assert caught.value.status == status
    assert "hunter2" not in caught.value.message


MEMBERS = {
    "a stranger": (MALLORY, "test"),
    "a stranger at level full": (MALLORY, "full"),
    "a member of level test only": (UserIdentity(name="bob", source="machine"), "standard"),
    "nobody": (UserIdentity(name="", source="machine"), "test"),
    "a name that looks like a member's": (UserIdentity(name="alice ", source="machine"), "standard"),
}


@pytest.mark.parametrize("who", MEMBERS)
def test_who_is_no_member_is_refused_before_anything_is_looked_up(who: str, dataset: Dataset) -> None:
    identity, level = MEMBERS[who]
    dataset.policy = dataset.policy.replace("entry_points = []", 'entry_points = []\nsecret = "env:TOKEN"')
    with pytest.raises(Refused) as caught:
        dataset.admit(dataset.ask(level, repository=dataset.url("library")), identity)
    assert caught.value.status == 403
    assert dataset.tokens_asked == []
    assert not (dataset.root / "cache").exists()


def test_what_is_reviewed_passes(dataset: Dataset) -> None:
    grant = dataset.admit(dataset.ask())
    assert (grant.commit, grant.entry) == (dataset.reviewed, "main.sh")
    assert grant.tree == dataset.code.git("rev-parse", "HEAD^{tree}")


def test_an_older_commit_of_the_protected_branch_passes(dataset: Dataset) -> None:
    dataset.code.commit({"more.txt": "x"})
    dataset.code.push()
    assert dataset.admit(dataset.ask()).commit == dataset.reviewed


def test_a_merged_submodule_passes_with_its_commit(dataset: Dataset) -> None:
    commit = dataset.library.commit({"count.py": "x = 1\n"})
    dataset.library.push()
    grant = dataset.admit(_with_submodule(dataset, "../library.git", commit))
    assert [(item.path, item.url, item.commit) for item in grant.submodules] == [
        ("lib", dataset.url("library"), commit)
    ]


def test_what_runs_is_the_digest_that_was_seen_though_the_tag_moves_afterwards(dataset: Dataset) -> None:
    grant = dataset.admit(dataset.ask())
    dataset.registry["registry.example.org/driver:1"] = OTHER
    assert grant.image == f"registry.example.org/driver@{DIGEST}"


def test_a_branch_at_level_test_is_pinned_to_what_it_was(dataset: Dataset) -> None:
    commit = evil(dataset)
    dataset.code.push(f"{commit}:refs/heads/feature")
    grant = dataset.admit(dataset.ask("test", commit="feature"))
    dataset.code.push(f"+{dataset.reviewed}:refs/heads/feature")
    assert grant.commit == commit


def test_a_users_configuration_of_git_cannot_lead_the_look_elsewhere(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fork = Repository(dataset.root, "fork")
    commit = fork.commit({"main.sh": "#!/bin/sh\necho evil\n"})
    fork.push()
    (tmp_path / ".gitconfig").write_text(f'[url "file://{fork.remote}"]\n\tinsteadOf = {dataset.url()}\n')
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.file://{fork.remote}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", dataset.url())
    with pytest.raises(Refused, match="No branch or tag"):
        dataset.admit(dataset.ask(commit=commit))


def test_all_problems_of_form_are_told_together(dataset: Dataset) -> None:
    asked = replace(dataset.ask(output_dir="..", environment={"PATH": "x"}), description="")
    with pytest.raises(Refused) as caught:
        dataset.admit(asked, ALICE)
    assert len(caught.value.problems) == 3
