"""Frames to bytes and back.

A codec is stateless and belongs to no connection: a session picks one per connection, by the
format that ``auth`` agreed on. What cannot be decoded raises :class:`UndecodableFrame`, which says
why; whose fault that is, and what follows from it, depends on the side and is decided above.
"""

from __future__ import annotations

from typing import Final, Protocol, TypeVar, cast

import msgspec

from trio_dispatch._frames import Frame, WireFrame

T = TypeVar("T")


class UndecodableFrame(ValueError):
    """Bytes that are not a frame in the codec's format."""


class Codec(Protocol):
    """A wire format: how one frame becomes one message, and back."""

    @property
    def name(self) -> str:
        """The format's name in ``auth``."""

    @property
    def binary(self) -> bool:
        """Whether messages of this format are binary WebSocket messages (else text)."""

    def encode(self, frame: Frame) -> bytes:
        """Encode *frame*.

        Raises:
            TypeError, ValueError: `Frame.data` holds something that has no JSON form.
        """

    def decode(self, payload: bytes | str) -> WireFrame:
        """Decode one message.

        Raises:
            UndecodableFrame: *payload* is not a frame.
        """


def decode_leniently(payload: bytes | str, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode JSON, taking a null for an absent field where the strict reading fails.

    Servers omit empty fields (protocol, "Frame"), and one written in another language may send
    null instead. Strict decoding comes first, so the usual frame pays nothing for the unusual one.

    Raises:
        msgspec.DecodeError: *payload* is no JSON, or not of the decoder's type.
        UnicodeDecodeError: *payload* is not UTF-8.
    """
    try:
        return decoder.decode(payload)
    except msgspec.ValidationError:
        value: object = msgspec.json.decode(payload, type=dict[str, msgspec.Raw])
        fields = cast("dict[str, msgspec.Raw]", value)
        kept = {name: raw for name, raw in fields.items() if bytes(raw) != b"null"}
        if len(kept) == len(fields):
            raise
        return decoder.decode(msgspec.json.encode(kept))


class JsonCodec:
    """The ``json`` format: one JSON object per text message."""

    name: Final = "json"
    binary: Final = False

    def __init__(self) -> None:
        self._encode = msgspec.json.Encoder().encode
        self._decoder = msgspec.json.Decoder(WireFrame)

    def encode(self, frame: Frame) -> bytes:
        """Encode *frame* as JSON text."""
        return self._encode(frame)

    def decode(self, payload: bytes | str) -> WireFrame:
        """Decode one JSON object."""
        try:
            return decode_leniently(payload, self._decoder)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
            raise UndecodableFrame(str(exc)) from exc


JSON: Final = JsonCodec()


def decode_data(data: msgspec.Raw) -> object:
    """Read the ``data`` of a `WireFrame`: plain objects, ``None`` where there is none.

    Raises:
        UndecodableFrame: the text is not JSON.
    """
    text = bytes(data)
    if not text:
        return None
    try:
        return cast("object", msgspec.json.decode(text))
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise UndecodableFrame(str(exc)) from exc


def thaw(frame: WireFrame) -> Frame:
    """Turn a frame off the wire into one whose ``data`` is plain objects."""
    fields = msgspec.structs.asdict(frame)
    fields["data"] = decode_data(frame.data)
    return Frame(**fields)
