"""A driver's life as a process: the commit, the script, its log and its end, and what is not obeyed."""

from __future__ import annotations

import io
import signal
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import ContainerExit
from batch_pipeline.wire.digest import sha256_of_bytes
from batch_pipeline.wire.order import Checkout
from tests.access.repositories import Repository
from tests.container.bench import RUN, TOKEN, Bench

pytestmark = pytest.mark.engine


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_the_script_runs_at_its_commit_and_leaves_log_and_end(bench: Bench) -> None:
    code, out = bench.run(bench.environment(bench.order()))
    assert code == 0, out
    assert "argument one two\n" in out
    assert bench.store.get(layout.log(RUN, "driver", layout.COHORT, 1)).decode() == out
    end = bench.end()
    assert (end["done"], end["failed"], end["exit_code"], end["attempt"]) == (1, 0, 0, 1)
    assert bench.events() == ["driver began", "ended"]
    assert [list(own.iterdir()) for own in bench.scratch.iterdir()] == [[]]


def test_the_script_finds_what_the_run_is_and_no_secret(bench: Bench) -> None:
    _, out = bench.run(bench.environment(bench.order()))
    found = dict(line.split("=", 1) for line in out.splitlines() if "=" in line)
    assert found["BATCH_PIPELINE_RUN_ID"] == found["BATCH_PIPELINE_PARENT_RUN"] == RUN
    assert found["BATCH_PIPELINE_DATASET"] == "texts"
    assert found["BATCH_PIPELINE_ACCESS_LEVEL"] == "standard"
    assert found["BATCH_PIPELINE_OUTPUT_PREFIX"] == "cohort-7"
    assert found["BATCH_PIPELINE_OUTPUT_URL"] == str(bench.root / "store" / "cohort-7")
    assert found["COLOUR"] == "blue"
    assert TOKEN not in out
    assert "BATCH_PIPELINE_DRIVER" not in found


def test_what_was_ordered_goes_before_what_the_user_gave(bench: Bench) -> None:
    settings = {"BATCH_PIPELINE__BACKEND__QUEUE": "main"}
    order = bench.order(
        settings=settings, environment={"BATCH_PIPELINE__BACKEND__QUEUE": "evil", "BATCH_PIPELINE_DATASET": "other"}
    )
    _, out = bench.run(bench.environment(order))
    assert "BATCH_PIPELINE__BACKEND__QUEUE=main\n" in out
    assert "BATCH_PIPELINE_DATASET=texts\n" in out


def test_a_script_that_fails_ends_the_job_with_its_own_code(bench: Bench) -> None:
    code, _ = bench.run(bench.environment(bench.order(environment={"CODE": "7"})))
    assert code == 7
    assert (bench.end()["failed"], bench.end()["exit_code"]) == (1, 7)
    assert "exit code 7" in bench.end()["problem"]


def test_a_run_that_is_not_all_done_is_said_so_and_not_what_it_took(bench: Bench) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("main.py", "print('one: 1 failed')\nprint('Took 3 s.')\nraise SystemExit(1)\n")
    sha256 = sha256_of_bytes(data.getvalue())
    bench.store.put(layout.bundle(sha256), data.getvalue())
    order = bench.order(bundle_sha256=sha256, checkouts=(), script=("python3", "main.py"), entry="")
    code, _ = bench.run(bench.environment(order))
    assert code == 1
    assert bench.end()["problem"] == "exit code 1: not all chosen cells are done"


def test_a_file_that_is_no_program_runs_by_its_suffix(bench: Bench) -> None:
    code, out = bench.run(bench.environment(bench.order(entry="plain.py", script=("plain.py", "x"))))
    assert (code, "python x" in out) == (0, True)


def test_a_file_that_nothing_runs_is_said_so(bench: Bench) -> None:
    code, out = bench.run(bench.environment(bench.order(entry="plain.pl", script=("plain.pl",))))
    assert code == ContainerExit.CONTRACT_BROKEN
    assert "executable" in out


def test_the_script_starts_where_it_was_told(bench: Bench) -> None:
    order = bench.order(cwd="deep", entry="deep/here.sh", script=("here.sh",))
    _, out = bench.run(bench.environment(order))
    assert out.rstrip().endswith("/code/deep")


def test_a_program_of_the_image_needs_no_repository(bench: Bench) -> None:
    code, out = bench.run(bench.environment(bench.order(checkouts=(), entry="", script=("echo", "hello"))))
    assert (code, "hello\n" in out) == (0, True)


def test_submodules_are_checked_out_at_their_commits(bench: Bench) -> None:
    library = Repository(bench.root, "library")
    commit = library.commit({"a.txt": "reviewed\n"})
    library.commit({"a.txt": "later\n"})
    library.push()
    tree = library.git("rev-parse", f"{commit}^{{tree}}")
    inside = Checkout(url=f"file://{library.remote}", commit=commit, tree=tree, path="lib")
    order = bench.order(checkouts=(bench.checkout(), inside), entry="", script=("cat", "lib/a.txt"))
    code, out = bench.run(bench.environment(order))
    assert (code, out.rstrip().endswith("reviewed")) == (0, True), out


# What is not obeyed. Each ends the run before the script begins.


def another_order(bench: Bench) -> dict[str, str]:
    environment = bench.environment(bench.order())
    bench.store.put_json(layout.driver_order(RUN), bench.order(access_level="full").to_json())
    return environment


def another_configuration(bench: Bench) -> dict[str, str]:
    environment = bench.environment(bench.order())
    bench.store.put(layout.driver_config(RUN), b"[workflow]\naccess_level = 'full'\n")
    return environment


def another_tree(bench: Bench) -> dict[str, str]:
    return bench.environment(bench.order(checkouts=(bench.checkout(tree="0" * 40),)))


def a_submodule_outside(bench: Bench) -> dict[str, str]:
    return bench.environment(bench.order(checkouts=(bench.checkout(), bench.checkout(path="../../outside"))))


def a_submodule_through_a_link(bench: Bench) -> dict[str, str]:
    (bench.code.work / "lib").symlink_to(bench.root)
    bench.commit = bench.code.commit({})
    bench.code.push()
    return bench.environment(bench.order(checkouts=(bench.checkout(), bench.checkout(path="lib/inner"))))


def a_folder_outside(bench: Bench) -> dict[str, str]:
    return bench.environment(bench.order(cwd="../.."))


def a_token_that_is_not_there(bench: Bench) -> dict[str, str]:
    return bench.environment(bench.order(checkouts=(bench.checkout(secret="env:NOT_THERE"),)))


@pytest.mark.parametrize(
    "trick",
    [
        another_order,
        another_configuration,
        another_tree,
        a_submodule_outside,
        a_submodule_through_a_link,
        a_folder_outside,
        a_token_that_is_not_there,
    ],
    ids=lambda trick: trick.__name__,
)
def test_what_was_not_let_through_is_not_run(trick: Callable[[Bench], dict[str, str]], bench: Bench) -> None:
    code, out = bench.run(trick(bench))
    assert code == ContainerExit.CONTRACT_BROKEN, out
    assert "argument" not in out
    assert not (bench.root / "outside").exists()
    assert not (bench.root / "inner").exists()


def test_a_commit_that_the_remote_lost_is_tried_again_later(bench: Bench) -> None:
    """The remote may only be away: the scheduler tries again, and the run has no end."""
    environment = bench.environment(bench.order(checkouts=(bench.checkout(commit="1" * 40),)))
    code, _ = bench.run(environment)
    assert code == ContainerExit.STORE_UNREACHABLE
    assert not bench.ended()
    assert bench.events()[-1] == "driver interrupted"


# Interruptions.


def test_an_interrupted_driver_is_put_back_without_an_end(bench: Bench) -> None:
    process = bench.start(bench.environment(bench.order(entry="slow.sh", script=("slow.sh",))))
    assert process.stdout is not None
    assert any(line == "begun\n" for line in process.stdout)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == ContainerExit.INTERRUPTED
    assert not bench.ended()
    assert bench.events() == ["driver began", "driver interrupted"]
    assert [list(own.iterdir()) for own in bench.scratch.iterdir()] == [[]]


def test_an_attempt_that_finds_an_end_does_nothing(bench: Bench) -> None:
    environment = bench.environment(bench.order(environment={"CODE": "7"}))
    bench.run(environment)
    end = bench.end()
    code, out = bench.run({**environment, "AWS_BATCH_JOB_ATTEMPT": "2"})
    assert code == 7
    assert "argument" not in out
    assert bench.end() == end


def test_the_log_is_in_the_store_while_the_script_runs(bench: Bench) -> None:
    process = bench.start(bench.environment(bench.order(entry="slow.sh", script=("slow.sh",))))
    log = bench.root / "store" / layout.log(RUN, "driver", layout.COHORT, 1)
    deadline = time.monotonic() + 60
    while not (log.exists() and b"begun" in log.read_bytes()):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)


def test_a_token_is_in_no_file_argument_or_log(bench: Bench) -> None:
    (bench.root / "token").write_text(TOKEN)
    order = bench.order(checkouts=(bench.checkout(secret=f"file:{bench.root}/token"),))
    code, out = bench.run(bench.environment(order))
    assert code == 0
    assert TOKEN not in out
    files = [path for path in (bench.root / "store").rglob("*") if path.is_file()]
    assert files
    assert all(TOKEN.encode() not in path.read_bytes() for path in files)
