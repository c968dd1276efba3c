"""`prices`: shows what machines cost an hour, and takes newer prices from a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batch_pipeline.cli.call import CommandCall, command
from batch_pipeline.cli.options import CommandOption, common_options, json_option
from batch_pipeline.cli.output import data, print_json, print_table, say
from batch_pipeline.wire.contract import CommandExit
from batch_pipeline.wire.errors import InvalidUse

if TYPE_CHECKING:
    from batch_pipeline.backends.prices import PriceTable
    from batch_pipeline.pipeline.workflow import WorkflowTask


def prices(call: CommandCall) -> int:
    """Shows the table of prices, `prices show [WORD...]`, or adds to it, `prices update FILE`.

    A WORD is a place, an instance type or the beginning of one, or a purchase: `prices show m5. eu-west-1`. FILE is a
    price list of AWS as CSV or JSON, a history of Spot prices, or a table of the columns that `show --csv` prints; its
    prices go into the user's own table, before those of the package.
    """
    from batch_pipeline.backends.prices import price_table

    action, *words = call.options["what"] or ("show",)
    table = price_table(call.settings.prices.own_file)
    if action == "show":
        return _show(call, table, words)
    if action != "update":
        raise InvalidUse(f"There is no `prices {action}`. There are: prices show [WORD...], prices update FILE.")
    if len(words) != 1:
        raise InvalidUse(f"`prices update` takes 1 file, not {len(words)}. Give it once for each.")
    return _update(call, table, Path(words[0]))


def _show(call: CommandCall, table: PriceTable, words: Sequence[str]) -> int:
    from dataclasses import asdict, astuple

    from batch_pipeline.backends.prices import COLUMNS, csv_text

    rows = [
        row
        for _, row in sorted(table.rows.items())
        if all(any(text.startswith(word) for text in (row.place, row.instance_type, row.purchase)) for word in words)
    ]
    if call.json:
        print_json([asdict(row) for row in rows])
    elif call.options["csv"]:
        data(csv_text(rows).rstrip("\n"))
    elif rows:
        print_table([name.replace("_", " ") for name in COLUMNS], list(map(astuple, rows)))
    else:
        data(f"No price fits {' '.join(words)}. What has no price is told as unknown.")
    return CommandExit.DONE


def _update(call: CommandCall, table: PriceTable, path: Path) -> int:
    from batch_pipeline.backends.price_lists import read_list
    from batch_pipeline.backends.prices import PriceTable, read_rows, write_rows
    from batch_pipeline.report.tables import counted

    own = call.settings.prices.own_file
    rows = read_list(path, table.rows.values())
    currencies = {row.currency for row in (*table.rows.values(), *rows)}
    if len(currencies) > 1:
        raise InvalidUse(
            f"A table has one currency, and with {path} it would have {', '.join(sorted(currencies))}."
            " Set prices.vcpu_hour, prices.gib_hour and prices.currency instead."
        )
    merged = PriceTable.of(read_rows(own) if own.exists() else (), rows)
    write_rows(own, (row for _, row in sorted(merged.rows.items())))
    dates = PriceTable.of(rows).dates
    if call.json:
        print_json({"file": str(own), "rows": len(merged.rows), "taken": len(rows), "dates": list(dates)})
    else:
        data(
            f"{own} has {counted(len(merged.rows), 'price')}; {counted(len(rows), 'price')} of"
            f" {' to '.join(dict.fromkeys(dates))} came from {path}."
        )
        if any(f"prices.{name}" in call.settings.origins for name in ("vcpu_hour", "gib_hour")):
            say("They are not used while prices.vcpu_hour or prices.gib_hour is set.")
    return CommandExit.DONE


def make(workflow: type[WorkflowTask] | None, argv: Sequence[str]) -> click.Command:
    """The command."""
    what = click.Argument(["what"], nargs=-1, metavar="[show [WORD...]|update FILE]")
    options = [CommandOption("--csv", "Print the table as CSV.", is_flag=True)]
    return command("prices", workflow, argv, prices, [what, *common_options(), json_option(), *options])
