"""Methods that a server may have one day: they are called, and their absence is said plainly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, cast

from trio_dispatch import Client, MethodNotSupported
from trio_dispatch.cli.connect import ServerOptions, with_client
from trio_dispatch.cli.exits import Exit, complain
from trio_dispatch.cli.lines import value
from trio_dispatch.cli.output import OutputOptions, chosen, table

_FIRST: Final = ("id", "job_id", "run_id", "name", "state", "status", "queue", "schedule")
"""Columns that come first, where the server's objects have them."""

_LEFT_OUT: Final = frozenset({"payload", "input", "output", "scope_app_id", "scope_org_id"})


def ask_what_may_be_missing(
    method: str,
    data: Mapping[str, object],
    server: ServerOptions | None,
    output: OutputOptions | None,
) -> int:
    """Call *method* with what of *data* was given, and print the answer as it comes."""
    out = chosen(output)

    async def use(client: Client) -> Exit:
        given = {key: found for key, found in data.items() if found is not None}
        try:
            answer = await client.request(method, given)
        except MethodNotSupported as exc:
            complain(f"this server has no {method}: it answered {exc.code} {exc.message}")
            return Exit.FAILED
        rows = _rows(answer)
        if rows is None:
            out.show(answer, lambda: [value(answer)])
        elif out.for_programs:
            for row in rows:
                out.value(row)
        else:
            out.show(answer, lambda: _as_table(rows))
        return Exit.OK

    return with_client(server, use)


def _rows(answer: object) -> Sequence[Mapping[str, object]] | None:
    """The objects of an answer: a list of them, or an object with one list of them."""
    if isinstance(answer, Mapping):
        members = cast("Mapping[str, object]", answer)
        lists: list[object] = [found for found in members.values() if isinstance(found, list)]
        if len(lists) != 1:
            return None
        (answer,) = lists
    if not isinstance(answer, list):
        return None
    found = cast("list[object]", answer)
    if not all(isinstance(row, Mapping) for row in found):
        return None
    return cast("list[Mapping[str, object]]", found)


def _as_table(rows: Sequence[Mapping[str, object]]) -> list[str]:
    if not rows:
        return ["none"]
    keys = {key: None for row in rows for key in row if key not in _LEFT_OUT}
    columns: list[str] = [key for key in _FIRST if key in keys]
    columns += [key for key in keys if key not in columns]
    return table(
        tuple(columns), [tuple(_cell(row.get(column)) for column in columns) for row in rows]
    )


def _cell(found: object) -> str:
    if found is None:
        return ""
    return found if isinstance(found, str) else value(found)
