"""What everything here that uses httpx needs of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx


class Once(httpx.AsyncByteStream):
    """A request's body, without a generator that a cancelled write leaves unfinished."""

    def __init__(self, data: bytes) -> None:
        self._data: bytes | None = data

    @property
    def taken(self) -> bool:
        """Whether it has been given away to be written. Before that, nobody can act on it."""
        return self._data is None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        data, self._data = self._data, None
        if data is None:
            raise StopAsyncIteration
        return data


def reason(error: BaseException) -> str:
    """What went wrong: the words of the operating system or of TLS where there are any."""
    found = ""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and str(cause):
            return str(cause)
        found = found or str(cause)
        cause = cause.__cause__ or cause.__context__
    return found or type(error).__name__
