"""`submit` and `runs` by a service: what they do when `--server-url` names one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from batch_pipeline.cli.call import CommandCall
from batch_pipeline.cli.options import SettingOption
from batch_pipeline.cli.output import data, print_json, print_table, say
from batch_pipeline.run.interrupts import pause
from batch_pipeline.wire.contract import CommandExit
from batch_pipeline.wire.errors import InvalidUse

if TYPE_CHECKING:
    from batch_pipeline.access.request import SubmitRequest

#: Between two looks at a run that is waited for: a service has others to answer too.
LEAST_POLL_SECONDS: Final = 1.0
_COLUMNS: Final = ["run", "dataset", "level", "started (UTC)", "by", "code", "state", "description"]


def server_option() -> SettingOption:
    """`--server-url`."""
    return SettingOption("--server-url", "server.url", "Have this service do it, in your name.", metavar="URL")


def submit_by_service(call: CommandCall, request: SubmitRequest) -> int:
    """Has a run started by the service; it decides, with its own identity, by who the token says one is."""
    from batch_pipeline.access.service.client import client_of

    if call.options["dry_run"]:
        raise InvalidUse("A service starts a run or refuses it. Leave --dry-run out, or --server-url.")
    client = client_of(call.settings)
    started = client.start(request)
    if not call.json:
        data(f"Run {started['run_id']} was started; it writes to {started['output']}.")
        say(client.page(started["url"]))
    elif not call.options["wait"]:
        print_json(started)
    if not call.options["wait"]:
        return CommandExit.DONE
    # A token lasts an hour or so: it is read again, so that a renewed file is used.
    while (run := client_of(call.settings).run(started["run_id"])["run"])["status"] == "live":
        pause(max(LEAST_POLL_SECONDS, call.settings.watch.poll_seconds))
    if call.json:
        print_json(started | {"status": run["status"], "problem": run["problem"]})
    else:
        say(f"Run {run['run_id']} {'is done' if run['status'] == 'done' else _why(run)}.")
    return CommandExit.DONE if run["status"] == "done" else CommandExit.FAILED


def runs_by_service(call: CommandCall, filters: Mapping[str, Any]) -> int:
    """Lists the runs of the datasets whose member one is."""
    from batch_pipeline.access.service.client import client_of

    listing = client_of(call.settings).runs(filters)
    if call.json:
        print_json(listing["runs"])
        return CommandExit.DONE
    if listing["unread"]:
        say(f"Not every run may be here: {', '.join(listing['unread'])} cannot be reached now.")
    if not listing["runs"]:
        data("No run fits among those that you may see.")
        return CommandExit.DONE
    print_table(_COLUMNS, [_row(run) for run in listing["runs"]])
    return CommandExit.DONE


def _row(run: Mapping[str, Any]) -> list[object]:
    began = run["started_at"][:19].replace("T", " ")
    about = run["description"] or " ".join(run["argv"])
    state = f"{run['status']}: {run['problem']}" if run["problem"] else run["status"]
    code = run["commit"][:12]
    return [run["run_id"], run["dataset"], run["access_level"], began, run["user"], code, state, about]


def _why(run: Mapping[str, Any]) -> str:
    counts = f"{run['failed']:,} failed"
    return f"failed: {run['problem'] or counts}"
