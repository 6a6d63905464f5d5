"""What hypothesis draws for the tests of more than one room."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from hypothesis import strategies as st

from trio_dispatch._wire.frames import ErrorBody, Frame

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
"""Any text that UTF-8 can hold."""

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
"""Anything that JSON can hold."""

time_zones = st.integers(-14 * 60, 14 * 60).map(lambda m: timezone(timedelta(minutes=m)))
times = st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1), timezones=time_zones)

error_bodies = st.builds(ErrorBody, code=st.integers(0, 599), message=texts, details=json_values)

frames = st.builds(
    Frame,
    id=texts,
    type=texts,
    method=texts,
    correl_id=texts,
    token=texts,
    app_id=texts,
    org_id=texts,
    data=json_values,
    error=st.none() | error_bodies,
    channel=texts,
    credits=st.integers(0, 2**31),
    ts=st.none() | times,
)
