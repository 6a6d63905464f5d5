"""What one message alone does not show: sessions, events, streams, half-closed requests."""

from __future__ import annotations

import json
from typing import Any, Final


def _frame(method: str, data: object = None, id: str = "1", **fields: object) -> str:
    frame = {"id": id, "method": method, **fields}
    if data is not None:
        frame["data"] = data
    return json.dumps(frame)


_START: Final[list[list[Any]]] = [["open", "a"], ["auth", "a", "demo-token"]]

_LONG: Final = {"_": 1, "timeout": 5}
_NOTHING: Final = {"_": 1, "n": 0, "timeout": 0.2}
_MATCH: Final = {"name": "wait-match", "input": {"order_id": "7"}}
_RUNS: Final[list[tuple[str, object]]] = [
    ("order-pipeline", {}),
    ("order-pipeline", {"items": []}),
    ("spawns", {"ms": 100}),
    ("parent", {"ms": 1}),
    ("parent", {"item": "bad"}),
    ("saga", {"ok": True}),
    ("sleepy", {"ms": 20}),
    ("wait-approval", {"timeout_ms": 50}),
    ("wait-any", {"timeout_ms": 50}),
    ("wait-match", {"timeout_ms": 50}),
    ("item", None),
    ("nobody", {}),
]
_JOBS: Final[list[tuple[str, object]]] = [("noop", None), ("nobody", {}), ("noop", [1, "x"])]

SCENARIOS: Final[dict[str, list[list[Any]]]] = {
    "a job's events reach who subscribed to jobs": [
        *_START,
        ["send", "a", [_frame("subscribe", {"channel": "jobs"})]],
        ["send", "a", [_frame("job.enqueue", {"name": "noop", "payload": {}}, "2")]],
        ["wait", 1.5],
    ],
    "a failing run's events, error and steps": [
        *_START,
        ["send", "a", [_frame("subscribe", {"channel": "workflows"})]],
        ["send", "a", [_frame("workflow.start", {"name": "item", "input": {"item": "bad"}}, "2")]],
        ["send", "a", [_frame("workflow.get", {"run_id": "$run1"}, "3")]],
        ["send", "a", [_frame("workflow.timeline", {"run_id": "$run1"}, "4")]],
        ["wait", 0.2],
    ],
    "compensation": [
        *_START,
        ["send", "a", [_frame("subscribe", {"channel": "firehose"})]],
        ["send", "a", [_frame("workflow.start", {"name": "saga", "input": {}}, "2")]],
        ["send", "a", [_frame("workflow.timeline", {"run_id": "$run1"}, "3")]],
        ["wait", 0.2],
    ],
    "an event without a payload, sent early": [
        *_START,
        ["send", "a", [_frame("workflow.event", {"name": "approved"})]],
        ["send", "a", [_frame("workflow.start", {"name": "wait-approval"}, "2")]],
        ["send", "a", [_frame("workflow.timeline", {"run_id": "$run1"}, "3")]],
    ],
    "a run blocks its connection, and pings wait": [
        *_START,
        [
            "send",
            "a",
            [_frame("workflow.start", {"name": "sleepy", "input": {"ms": 300}})],
            {"_": 1, "n": 0, "timeout": 0.1},
        ],
        ["send", "a", ['{"id":"2","type":"ping"}'], {"_": 1, "n": 0, "timeout": 0.1}],
        ["wait", 0.5],
    ],
    "a half-closed WebSocket has its requests answered": [
        *_START,
        [
            "send",
            "a",
            [_frame("workflow.start", {"name": "item", "input": {"ms": 50}})],
            {"_": 1, "n": 0, "timeout": 0.01},
        ],
        ["shut", "a"],
        ["wait", 0.4],
    ],
    "a half-closed RPC ends its run and is answered": [
        [
            "rpc",
            _frame("workflow.start", {"name": "sleepy", "input": {"ms": 1000}}, token="demo-token"),
            {"_": 1, "shut": True, "timeout": 1},
        ],
    ],
    "a broken frame drops the connection": [
        *_START,
        ["raw", "a", "c180" + "00000000"],
        ["wait", 0.2],
    ],
    "one session in msgpack": [
        ["open", "a"],
        ["auth", "a", "demo-token", "msgpack"],
        ["pack", "a", [{"id": "1", "method": "stats"}, {"id": "2", "type": "ping"}, {"id": "3"}]],
    ],
    "a refused token": [["open", "a"], ["auth", "a", "wrong"], ["wait", 0.2]],
    "event streams": [
        [
            "http",
            "GET {P}/sse?token=demo-token&channel=bogus HTTP/1.1\r\nHost: x\r\n\r\n",
            {"_": 1, "timeout": 0.2},
        ],
        ["http", "GET {P}/sse?token=none&channel=jobs HTTP/1.1\r\nHost: x\r\n\r\n"],
        ["http", "GET {P}/sse?token=demo-token HTTP/1.1\r\nHost: x\r\n\r\n"],
    ],
    "events of a run reach a stream": [
        ["stream", "GET {P}/sse?token=demo-token&channel=workflows HTTP/1.1\r\nHost: x\r\n\r\n"],
        ["wait", 0.1],
        ["rpc", _frame("workflow.start", {"name": "item", "input": {"ms": 1}}, token="demo-token")],
        ["wait", 0.2],
    ],
    "two requests on one connection": [
        [
            "http",
            "GET /nope HTTP/1.1\r\nHost: x\r\n\r\nDELETE {P}/rpc HTTP/1.1\r\nHost: x\r\n\r\n",
            {"_": 1, "n": 2},
        ],
    ],
    "a job over RPC that is longer than a buffer": [
        [
            "rpc",
            _frame(
                "job.enqueue",
                {"name": "nobody", "queue": "zz", "payload": "x" * 3000},
                token="demo-token",
            ),
        ],
        ["rpc", _frame("job.get", {"job_id": "$job1"}, token="demo-token")],
    ],
    **{
        f"the run of {name} with {json.dumps(input)}": [
            *_START,
            ["send", "a", [_frame("subscribe", {"channel": "firehose"})]],
            ["send", "a", [_frame("workflow.start", {"name": name, "input": input}, "2")], _LONG],
            ["send", "a", [_frame("workflow.get", {"run_id": "$run1"}, "3")]],
            ["send", "a", [_frame("workflow.timeline", {"run_id": "$run1"}, "4")]],
            ["wait", 0.3],
        ]
        for name, input in _RUNS
    },
    **{
        f"the job {name} with {json.dumps(payload)}": [
            *_START,
            ["send", "a", [_frame("subscribe", {"channel": "jobs"})]],
            ["send", "a", [_frame("job.enqueue", {"name": name, "payload": payload}, "2")]],
            ["wait", 1.5],
            ["send", "a", [_frame("job.get", {"job_id": "$job1"}, "3")]],
        ]
        for name, payload in _JOBS
    },
    "a cancelled job that waits": [
        *_START,
        ["send", "a", [_frame("job.enqueue", {"name": "noop", "queue": "zz", "priority": 3})]],
        ["send", "a", [_frame("job.cancel", {"job_id": "$job1"}, "2")]],
        ["send", "a", [_frame("job.get", {"job_id": "$job1"}, "3")]],
        ["send", "a", [_frame("job.cancel", {"job_id": "$job1"}, "4")]],
    ],
    "events for waits that come early": [
        *_START,
        ["send", "a", [_frame("workflow.event", {"name": "green", "payload": {"n": 1}})]],
        ["send", "a", [_frame("workflow.event", {"name": "paid", "payload": {"order_id": "7"}})]],
        ["send", "a", [_frame("workflow.start", {"name": "wait-any"}, "2")], _LONG],
        ["send", "a", [_frame("workflow.timeline", {"run_id": "$run1"}, "3")]],
        ["send", "a", [_frame("workflow.start", _MATCH, "4")], _LONG],
        ["send", "a", [_frame("workflow.timeline", {"run_id": "$run2"}, "5")]],
    ],
    "a run that another connection releases": [
        *_START,
        ["open", "b"],
        ["auth", "b", "demo-token"],
        ["send", "b", [_frame("subscribe", {"channel": "workflows"})]],
        ["send", "a", [_frame("workflow.start", {"name": "wait-approval"}, "2")], _NOTHING],
        ["send", "b", [_frame("workflow.event", {"name": "approved", "payload": "yes"})]],
        ["wait", 0.5],
    ],
}
