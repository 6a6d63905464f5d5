"""What a test makes a server do: the part of `Server`, `Cluster` and its nodes that steers."""

from __future__ import annotations

from trio_dispatch.server._steering import Rule, Steering


class Steered:
    """Refusing, delaying, dropping, revoking."""

    def __init__(self, steering: Steering) -> None:
        self._steering = steering

    def refuse(
        self,
        method: str,
        code: int = 500,
        message: str = "refused on request",
        *,
        times: int | None = 1,
    ) -> Rule:
        """Refuse the next requests of *method* with an error of *code*, without carrying them out.

        ``"auth"`` refuses sessions. For *times* requests, None for every one; as a context manager
        it ends with its block.

        Raises:
            ValueError: *times* is less than 1.
        """
        return Rule(self._steering.rules, method, times, code=code, message=message)

    def delay(self, method: str, seconds: float, *, times: int | None = 1) -> Rule:
        """Wait *seconds* before the next requests of *method* are carried out.

        The requests behind them on the same connection wait as well. For *times* requests, None
        for every one; as a context manager it ends with its block.

        Raises:
            ValueError: *times* is less than 1, or *seconds* negative.
        """
        if seconds < 0:
            raise ValueError("seconds must not be negative")
        return Rule(self._steering.rules, method, times, seconds=seconds)

    def drop_connections(self) -> int:
        """Drop all connections, without a close frame; returns how many there were.

        New ones are accepted. Runs that were started over a WebSocket go on.
        """
        return self._steering.drop_connections()

    def revoke(self, token: str) -> None:
        """Refuse *token* from now on. Sessions that it has opened go on, as on a real server."""
        self._steering.revoked.add(token)

    def reinstate(self, token: str) -> None:
        """Accept a token again that was revoked."""
        self._steering.revoked.discard(token)
