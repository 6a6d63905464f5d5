"""``async with`` blocks whose background tasks may end first.

A client runs in the background of an ``async with`` body. If the client ends, the body must end
too, and the block raises the client's error. If the body raises, its exception propagates
unchanged, although a nursery would wrap it in a group. This module implements both rules, also for
the embedded server and `FaultyProxy`.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Protocol, TypeVar

import trio

from trio_dispatch._transport.groups import leaves
from trio_dispatch._transport.needs_trio import check_trio
from trio_dispatch._wire.errors import fresh

if sys.version_info < (3, 11):  # pragma: no cover
    from exceptiongroup import BaseExceptionGroup


class Blocks:
    """The ``async with`` blocks of one resource, each in its own cancel scope."""

    def __init__(self) -> None:
        self._scopes: dict[trio.lowlevel.Task, list[trio.CancelScope]] = {}
        self.used = False
        """Whether there was ever a block, which raises (or raised) the resource's error."""

    def enter(self) -> None:
        """Begin a block."""
        scope = trio.CancelScope()
        scope.__enter__()
        self._scopes.setdefault(trio.lowlevel.current_task(), []).append(scope)
        self.used = True

    def cancel(self) -> None:
        """Cancel the bodies of all blocks, because the resource has ended."""
        for scopes in self._scopes.values():
            for scope in scopes:
                scope.cancel()

    async def leave(
        self,
        exc: BaseException | None,
        aclose: Callable[[], Awaitable[None]],
        error: Callable[[], BaseException | None],
    ) -> bool:
        """End a block whose body raised *exc*. Returns the result of ``__aexit__``.

        This closes the resource. The body's own exception propagates unchanged. Without one, the
        error that ended the resource is raised, if there is one.
        """
        task = trio.lowlevel.current_task()
        scope = self._scopes[task].pop()
        if not self._scopes[task]:
            del self._scopes[task]
        raised = exc
        try:
            if scope.__exit__(type(exc) if exc else None, exc, exc.__traceback__ if exc else None):
                raised = None
        except BaseException as rest:  # noqa: BLE001 - what is left of a group without our own Cancelled
            raised = rest
        ended_by = error()
        try:
            await aclose()
        except trio.Cancelled:
            if raised is None or isinstance(raised, trio.Cancelled):
                raise
        if raised is not None:
            if raised is not exc:
                raise raised
            return False
        if ended_by is not None:
            raise fresh(ended_by)
        return True


class _Resource(Protocol):
    async def __aenter__(self) -> Any: ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> Any: ...


R = TypeVar("R", bound=_Resource)


def interrupt_in(exc: BaseException) -> BaseException | None:
    """Find the KeyboardInterrupt or SystemExit in *exc*, which may be a group."""
    return next((e for e in leaves(exc) if isinstance(e, (KeyboardInterrupt, SystemExit))), None)


@asynccontextmanager
async def open_background() -> AsyncGenerator[trio.Nursery, None]:
    """Open a nursery whose tasks are cancelled when the block ends, for whatever reason.

    Exceptions of the body propagate unchanged, never in a group. If a background task fails, its
    error is raised alone, unless the body raised one. KeyboardInterrupt and SystemExit always win.
    """
    check_trio()
    from_body: BaseException | None = None
    from_nursery: BaseException | None = None
    try:
        async with trio.open_nursery(strict_exception_groups=True) as nursery:
            try:
                yield nursery
            except (trio.Cancelled, GeneratorExit):
                raise
            except BaseException as exc:  # noqa: BLE001 - raised below
                from_body = exc
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        from_nursery = group
    if from_nursery is not None:
        interrupt = interrupt_in(from_nursery)
        if interrupt is not None:
            raise interrupt
        if from_body is None:
            ours = [leaf for leaf in leaves(from_nursery) if not isinstance(leaf, trio.Cancelled)]
            raise ours[0] if ours else from_nursery
    if from_body is not None:
        raise from_body


@asynccontextmanager
async def in_background(
    run: Callable[..., Awaitable[None]], resource: R
) -> AsyncGenerator[R, None]:
    """Run *run* in the background of a block that uses *resource*, and end both with the block.

    *run* reports by its ``task_status`` when the block may begin. If it raises before that, the
    error is raised here. The rules of `open_background` decide which exception is raised.
    """
    async with open_background() as nursery:
        await nursery.start(run)
        async with resource:
            yield resource
