"""Messages to frames: what the library reads of them is what was given."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import SERVER, Protocol

from trio_dispatch._transport.websocket.joiner import join_messages
from trio_dispatch._wire.frames import Message

BODIES = st.binary(max_size=130) | st.integers(65_530, 65_540).map(lambda size: b"x" * size)


@given(st.lists(st.tuples(BODIES, st.booleans()), max_size=5))
def test_the_library_reads_what_was_joined(messages: list[tuple[bytes, bool]]) -> None:
    peer = Protocol(SERVER)
    peer.receive_data(join_messages([Message(data, binary) for data, binary in messages]))
    assert peer.parser_exc is None
    frames = [event for event in peer.events_received() if isinstance(event, Frame)]
    assert [(bytes(f.data), f.opcode is Opcode.BINARY, f.fin) for f in frames] == [
        (data, binary, True) for data, binary in messages
    ]


def test_each_message_has_a_masking_key_of_its_own() -> None:
    joined = join_messages([Message(b"a", False)] * 50)
    assert len({joined[at : at + 7] for at in range(0, len(joined), 7)}) == 50
