"""What a test makes the server do: refuse, delay, freeze, drop, revoke.

Rules for requests are counted, or last as long as a block, so that none outlives the test that made
it. Freezing is done where all transports pass: at the byte stream.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import final

import trio


@final
class Rule:
    """Something that happens to the next requests of one method.

    A context manager that ends it, where it has not been used up before.
    """

    def __init__(
        self,
        rules: list[Rule],
        method: str,
        times: int | None,
        *,
        code: int | None = None,
        message: str = "",
        seconds: float = 0.0,
    ) -> None:
        if times is not None and times < 1:
            raise ValueError("times must be at least 1; None for every request")
        self._rules = rules
        self.method = method
        self.remaining = times
        """How many requests it is still for; None for every one."""
        self.applied = 0
        """How many requests it has met."""
        self.code = code
        self.message = message
        self.seconds = seconds
        rules.append(self)

    def __repr__(self) -> str:
        effect = f"code {self.code}" if self.code is not None else f"after {self.seconds:g} s"
        return f"<Rule {self.method}: {effect}, met {self.applied}, remaining {self.remaining}>"

    def end(self) -> None:
        """Let it happen no more. Idempotent."""
        if self in self._rules:
            self._rules.remove(self)

    def __enter__(self) -> Rule:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()

    def use(self) -> None:
        """Count one request."""
        self.applied += 1
        if self.remaining is not None:
            self.remaining -= 1
            if not self.remaining:
                self.end()


@final
class Freeze:
    """A server that stands still: a context manager that thaws it."""

    def __init__(self, thaw: Callable[[], None]) -> None:
        self._thaw = thaw

    def __enter__(self) -> Freeze:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._thaw()


class Steering:
    """All that is in force at present.

    Args:
        above: that of the cluster that the server belongs to, which is in force as well.
    """

    def __init__(self, above: Steering | None = None) -> None:
        self._above = above
        self.rules: list[Rule] = []
        self.revoked: set[str] = set()
        self.connections: dict[trio.CancelScope, None] = {}
        self._thawed: trio.Event | None = None
        self._running: trio.Event | None = None

    async def meet(self, method: str) -> Rule | None:
        """Apply the rules for *method*: wait where one delays, return one that refuses."""
        rules = self.rules if self._above is None else [*self.rules, *self._above.rules]
        found = [rule for rule in rules if rule.method == method]
        refusal = next((rule for rule in found if rule.code is not None), None)
        delays = [rule for rule in found if rule.code is None]
        for rule in [*delays, *([refusal] if refusal else [])]:
            rule.use()
        for rule in delays:
            await trio.sleep(rule.seconds)
        return refusal

    def is_revoked(self, token: str) -> bool:
        """Whether *token* is refused from now on."""
        return token in self.revoked or (self._above is not None and self._above.is_revoked(token))

    @property
    def frozen(self) -> bool:
        """Whether nothing is read and nothing written."""
        return self._thawed is not None

    def freeze(self) -> Freeze:
        """Read and write no more."""
        if self._thawed is None:
            self._thawed = trio.Event()
        return Freeze(self.thaw)

    def thaw(self) -> None:
        """Go on."""
        if self._thawed is not None:
            self._thawed.set()
            self._thawed = None

    async def wait_thawed(self) -> None:
        """Wait while the server is frozen."""
        while self._thawed is not None:
            await self._thawed.wait()

    @property
    def stopped(self) -> bool:
        """Whether the server's work stands still, too."""
        return self._running is not None

    def stop_work(self) -> None:
        """Let no attempt and no step end."""
        if self._running is None:
            self._running = trio.Event()

    def resume_work(self) -> None:
        """Go on with the work."""
        if self._running is not None:
            self._running.set()
            self._running = None

    async def wait_running(self) -> None:
        """Wait while the work stands still."""
        while self._running is not None:
            await self._running.wait()

    def drop_connections(self) -> int:
        """Drop all connections, without a word; returns how many."""
        count = len(self.connections)
        for scope in list(self.connections):
            scope.cancel()
        return count


class SteeredStream(trio.abc.HalfCloseableStream):
    """A connection's stream, which stands still while the server is frozen."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, steering: Steering) -> None:
        self._stream = stream
        self._steering = steering

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send, once thawed."""
        if self._steering.frozen:
            await self._steering.wait_thawed()
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """As the stream below."""
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive; what comes while the server is frozen is kept back."""
        data = await self._stream.receive_some(max_bytes)
        if self._steering.frozen:
            await self._steering.wait_thawed()
        return data

    async def send_eof(self) -> None:
        """As the stream below."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close the stream below."""
        await self._stream.aclose()
