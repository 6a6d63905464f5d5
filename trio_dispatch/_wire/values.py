"""Values that msgspec does not encode, or encodes as something else."""

from __future__ import annotations

import math
import re
from typing import Any, Final, Protocol, cast, runtime_checkable

import msgspec

_NUMBER: Final = re.compile(rb'"-?[0-9]')

_SCALARS: Final = frozenset({str, int, float, bool, type(None), bytes, msgspec.Raw})


@runtime_checkable
class DumpsItself(Protocol):
    """A pydantic model, which encodes itself as JSON."""

    def model_dump_json(self) -> str:
        """Return the model's JSON text."""
        ...


def encode_other(value: object) -> object:
    """Convert a value that msgspec does not encode into one that it does.

    Subclasses of str, int, float and bytes (Django's ``SafeString``, numpy's ``float64``) become
    their base class, and pydantic models their own JSON. msgspec calls this hook for keys, too.

    Raises:
        TypeError: it has no JSON form.
        ValueError: it is a pydantic model that holds a NaN or an infinity.
    """
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return int.__index__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, bytes):
        return bytes(value)
    if isinstance(value, DumpsItself):
        text = value.model_dump_json()
        if "null" in text:  # pydantic writes a NaN as null, too
            dump = getattr(value, "model_dump", None)
            if dump is not None:
                refuse_what_becomes_null(dump())
        return msgspec.Raw(text.encode())
    if value is None or isinstance(value, bool):
        raise TypeError(f"the key {value!r} has no JSON form: keys are strings or numbers")
    kind = type(value)
    raise TypeError(f"an object of type {kind.__module__}.{kind.__qualname__} has no JSON form")


def refuse_what_becomes_null(value: object) -> None:
    """Raise ValueError if *value* contains a NaN or an infinity. The message includes its place."""
    # The hook is for JSON text (`msgspec.Raw`), which has neither, and for values that are checked
    # separately.
    plain: object = msgspec.to_builtins(value, enc_hook=_opaque)
    # No recursion: msgspec can encode values that are nested deeper than Python's call stack.
    unseen: list[tuple[object, _Place]] = [(plain, None)]
    while unseen:
        item, place = unseen.pop()
        if isinstance(item, float) and not math.isfinite(item):
            raise ValueError(f"{item!r}{_shown(place)} has no JSON form")
        if isinstance(item, dict):
            members = cast("dict[object, object]", item)
            unseen += [(member, (place, key)) for key, member in members.items()]
        elif isinstance(item, (list, tuple)):
            elements = cast("list[object]", item)
            unseen += [(element, (place, index)) for index, element in enumerate(elements)]


_Place = tuple[Any, object] | None
"""The place of a value: the place of its container, and its key or index there."""


def _shown(place: _Place) -> str:
    steps: list[str] = []
    while place is not None:
        place, key = place
        steps.append(f"[{key!r}]")
    return f" at {''.join(reversed(steps))}" if steps else ""


def refuse_equal_keys(value: object, text: bytes) -> None:
    """Raise ValueError if two keys of one mapping in *value* are the same in its JSON *text*.

    ``{1: "a", "1": "b"}`` would be sent, and the reader would lose one of the two.
    """
    # Checking each key takes ten times as long as encoding it. So keys are checked only if some
    # string in the text may come from a number, or some key of the outermost mapping is no string.
    odd = isinstance(value, dict) and not set(map(type, cast("dict[object, object]", value))) <= {
        str
    }
    if not odd and _NUMBER.search(text) is None:
        return
    unseen: list[object] = [value]
    while unseen:
        item = unseen.pop()
        if isinstance(item, dict):
            mapping = cast("dict[object, object]", item)
            if not set(map(type, mapping)) <= {str}:
                _check_keys(mapping)
            if not set(map(type, mapping.values())) <= _SCALARS:
                unseen += [member for member in mapping.values() if type(member) not in _SCALARS]
        elif isinstance(item, (list, tuple, set, frozenset)):
            elements = cast("list[object]", item)
            if not set(map(type, elements)) <= _SCALARS:
                unseen += [element for element in elements if type(element) not in _SCALARS]
        elif type(item) not in _SCALARS:
            # A struct, a dataclass, another object with members, or a scalar.
            plain: object = msgspec.to_builtins(item, enc_hook=_opaque)
            if isinstance(plain, (dict, list, tuple)):
                unseen.append(cast("Any", plain))


def _opaque(value: object) -> object:
    # `encode_other` has already encoded it.
    return float.__float__(value) if isinstance(value, float) else None


def _check_keys(mapping: dict[object, object]) -> None:
    names: dict[str, object] = {}
    for key in mapping:
        (name,) = msgspec.json.decode(
            msgspec.json.encode({key: 0}, enc_hook=encode_other), type=dict[str, int]
        )
        if names.setdefault(name, key) is not key:
            raise ValueError(f"the keys {names[name]!r} and {key!r} are the same in JSON")
