"""``trio-dispatch call``: dispatch one call of a function on an endpoint."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from cyclopts import Parameter

from trio_dispatch.cli.exits import Exit, UsageError, complain
from trio_dispatch.cli.json_input import read_json
from trio_dispatch.cli.output import OutputOptions, chosen
from trio_dispatch.cli.running import run_async


def call(
    endpoint: Annotated[str, Parameter(help="The endpoint's URL.")],
    function: Annotated[str, Parameter(help="The function's name there.")],
    input: Annotated[
        str,
        Parameter(
            help="The input as JSON; @FILE reads a file, - standard input.",
            allow_leading_hyphen=True,
        ),
    ] = "null",
    /,
    *,
    api_url: Annotated[
        str | None,
        Parameter(env_var="DISPATCH_API_URL", help="The service, if not https://api.dispatch.run."),
    ] = None,
    expiration: Annotated[
        float | None, Parameter(help="Seconds for which the service tries.")
    ] = None,
    function_version: Annotated[str, Parameter(help="The version of the application.")] = "",
    timeout: Annotated[float, Parameter(help="Seconds for the request.")] = 30.0,
    output: OutputOptions | None = None,
) -> int:
    """Dispatch a call to a function on a Dispatch endpoint, and print its id.

    The API key is that of `DISPATCH_API_KEY`. The function runs whenever the service sees fit.

    Exit codes: 0 the call was accepted; 1 it was not, or nobody can tell; 2 wrong use; 3 no
    connection to the service; 4 the service refused the key; 130 Ctrl-C.
    """
    from trio_dispatch.remote import Call, KeyRefused, open_client

    value = read_json(input, "INPUT")
    try:
        lifetime = None if expiration is None else timedelta(seconds=expiration)
        wanted = Call(endpoint, function, value, expiration=lifetime, version=function_version)
        client = open_client(None, api_url, timeout=timeout)
    except (OverflowError, TypeError, ValueError) as exc:
        raise UsageError(str(exc)) from exc

    async def dispatch() -> Exit:
        try:
            async with client as api:
                id = await api.dispatch(wanted)
        except KeyRefused as exc:
            complain(str(exc))
            return Exit.REFUSED
        except ValueError as exc:
            raise UsageError(str(exc)) from exc
        chosen(output).show({"id": id}, lambda: [id])
        return Exit.OK

    return run_async(dispatch)
