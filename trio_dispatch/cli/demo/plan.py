"""What the demo asks a server to do, and how each piece should end. Nothing here does any of it."""

from __future__ import annotations

import secrets
from typing import Final, Literal

import attrs

EMAIL: Final = "send-email"
IMAGE: Final = "process-image"
REPORT: Final = "build-report"
STOCK: Final = "sync-stock"
CARD: Final = "charge-card"
ORDER: Final = "order-pipeline"

CARD_RETRIES: Final = 2


@attrs.frozen(kw_only=True)
class Kind:
    """Jobs of one name.

    Attributes:
        name: the name that workers know them by.
        role: the name without the prefix.
        payloads: one for each job.
        expected: the state that each should end in.
        fails_first: each should have failed at least once on the way.
    """

    name: str
    role: str
    queue: str
    priority: int
    payloads: tuple[dict[str, object], ...]
    expected: Literal["completed", "failed"] = "completed"
    fails_first: bool = False


@attrs.frozen
class PlannedStep:
    """A step of the embedded server's workflow: its name in the timeline, and a short one."""

    name: str
    label: str


@attrs.frozen(kw_only=True)
class Plan:
    """The whole demo.

    Attributes:
        prefix: what all names begin with.
        workflow: the workflow's name.
        order: its input.
        approval: the event that it waits for. Nobody else uses the name: events are given to
            whoever waits for their name, and are kept until somebody does (protocol, "Runs and
            steps").
        steps: what its timeline should hold; empty where any will do.
        quiet: a run that is silent for so many seconds waits for its event.
        patience: so many seconds may pass until the first job of a kind has ended, or failed once.
        deadline: so many until all of a kind have ended, or the run.
        own_server: the embedded server runs it, which lacks nothing: then a skip is a failure.
    """

    kinds: tuple[Kind, ...]
    prefix: str
    workflow: str
    order: dict[str, object]
    approval: str
    steps: tuple[PlannedStep, ...]
    speed: float
    quiet: float
    patience: float
    deadline: float
    own_server: bool


def make_plan(
    *, prefix: str = "demo-", speed: float = 1.0, deadline: float = 30.0, own_server: bool = True
) -> Plan:
    """Plan a demo of about five seconds, or less with a higher *speed*."""
    second = 1 / speed
    approval = f"{prefix}approval-{secrets.token_hex(3)}"

    def kind(role: str, queue: str, priority: int, jobs: list[dict[str, object]]) -> Kind:
        return Kind(
            name=prefix + role,
            role=role,
            queue=queue,
            priority=priority,
            payloads=tuple(jobs),
            expected="failed" if role == CARD else "completed",
            fails_first=role in (STOCK, CARD),
        )

    tos = [f"customer{n}@example.com" for n in range(12)]
    files = [f"product-{n}.jpeg" for n in range(10)]
    kinds = (
        kind(EMAIL, "email", 5, [
            {"to": to, "subject": "Your order", "seconds": second * (0.15 + 0.03 * n)}
            for n, to in enumerate(tos)
        ]),
        kind(IMAGE, "images", 0, [
            {"image": file, "width": 640, "seconds": second * (0.3 + 0.05 * (n * 7 % 10))}
            for n, file in enumerate(files)
        ]),
        kind(REPORT, "default", 0, [
            {"report": f"2024-{n + 1:02}", "seconds": second * (0.7 + 0.1 * n)} for n in range(6)
        ]),
        kind(STOCK, "default", 3, [
            {"warehouse": n + 1, "failures": 1 + n % 2, "seconds": second * 0.15} for n in range(6)
        ]),
        kind(CARD, "default", 9, [
            {"order": f"A-{n + 1}", "cents": 4200, "seconds": second * 0.1} for n in range(3)
        ]),
    )  # fmt: skip
    order: dict[str, object] = {
        "order_id": "A-1",
        "items": [{"sku": "tea", "quantity": 2, "price": 12.5}],
        "approval": approval,
        "seconds": second,
    }
    steps = (
        PlannedStep("validate", "validate"),
        *(PlannedStep(f"parallel:check:{n}", f"check:{n}") for n in range(3)),
        PlannedStep(f"wait:{approval}", "approval"),
        PlannedStep("charge", "charge"),
        PlannedStep("sleep:packing", "packing"),
        PlannedStep("ship", "ship"),
    )
    return Plan(
        kinds=kinds,
        prefix=prefix,
        workflow=prefix + ORDER,
        order=order,
        approval=approval,
        steps=steps if own_server else (),
        speed=speed,
        quiet=1.0 * second,
        patience=min(5.0, deadline / 2),
        deadline=deadline,
        own_server=own_server,
    )
