"""``trio-dispatch event``."""

from __future__ import annotations

from typing import Annotated, Final

from cyclopts import App, Parameter

from trio_dispatch import Client
from trio_dispatch.cli.connect import ServerOptions, with_client
from trio_dispatch.cli.exits import Exit, UsageError
from trio_dispatch.cli.json_input import PayloadArgument, read_json
from trio_dispatch.cli.output import OutputOptions, chosen

event_app: Final = App(name="event", help="Publish events that workflows wait for.")


@event_app.command
def publish(
    name: Annotated[str, Parameter(help="The event's name.")],
    payload: PayloadArgument = None,
    /,
    *,
    server: ServerOptions | None = None,
    output: OutputOptions | None = None,
) -> int:
    """Publish an event, and print its id. It releases one workflow that waits for it."""
    value = None if payload is None else read_json(payload, "PAYLOAD")

    async def use(client: Client) -> Exit:
        try:
            event_id = await client.publish_event(name, value)
        except (TypeError, ValueError) as exc:
            raise UsageError(str(exc)) from exc
        chosen(output).show({"event_id": event_id, "name": name}, lambda: [event_id])
        return Exit.OK

    return with_client(server, use)
