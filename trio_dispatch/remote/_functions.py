"""Functions as they are registered: async or not, with an input or without."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import cast

import attrs
import trio

from trio_dispatch.remote._call import check_function


@attrs.frozen
class Registered:
    """A function of an endpoint. Calling it gives its result."""

    name: str
    _target: Callable[..., object]
    _takes_input: bool
    _is_async: bool
    _threads: trio.CapacityLimiter

    async def __call__(self, argument: object) -> object:
        """Call it with *argument*; in a thread if it is not async."""
        if not self._takes_input and argument is not None:
            raise TypeError(f"function {self.name} takes no input")
        bound = partial(self._target, argument) if self._takes_input else self._target
        if self._is_async:
            return await cast("Callable[[], Awaitable[object]]", bound)()
        return await trio.to_thread.run_sync(bound, limiter=self._threads)


def register(
    target: Callable[..., object], name: str | None, threads: trio.CapacityLimiter
) -> Registered:
    """Check *target*, and make it a function of an endpoint.

    Raises:
        TypeError: it cannot be called with one argument, or with none; it is a generator, or has no
            name.
        ValueError: no function can have its name.
    """
    if not callable(target):
        raise TypeError(f"an endpoint's function is a function, not {target!r}")
    body = _body_of(target)
    if inspect.isgeneratorfunction(body) or inspect.isasyncgenfunction(body):
        raise TypeError(f"an endpoint's function returns its result; {target!r} is a generator")
    takes_input = _takes_input(target)
    found = name if name is not None else getattr(target, "__name__", None)
    if found is None:
        raise TypeError(f"{target!r} has no name: register it by one")
    return Registered(
        check_function(found),
        target,
        takes_input,
        inspect.iscoroutinefunction(body),
        threads,
    )


def _body_of(target: object) -> object:
    """What runs when *target* is called: the function of a partial, the method of an object."""
    if isinstance(target, partial):
        return _body_of(cast("partial[object]", target).func)
    return target if inspect.isroutine(target) else type(target).__call__


def _takes_input(target: Callable[..., object]) -> bool:
    try:
        signature = inspect.signature(target)
    except ValueError:
        return True  # a function of C that does not say
    for arguments in ((None,), ()):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        return bool(arguments)
    raise TypeError(
        f"an endpoint's function takes one argument, its input, or none; {target!r} has {signature}"
    )
