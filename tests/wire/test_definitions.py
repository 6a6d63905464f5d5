"""Typed definitions: what is sent has its type, and is read back as it."""

from __future__ import annotations

import dataclasses
from typing import Any, TypedDict

import attrs
import msgspec
import pytest

from trio_dispatch import Job, JobType, WorkflowRun, WorkflowType


class Email(msgspec.Struct):
    to: str
    urgent: bool = False


@attrs.define
class Invoice:
    number: int


@dataclasses.dataclass
class Order:
    order_id: str
    items: list[str]


class Options(TypedDict):
    deep: bool


class Model:
    """As pydantic's models are: with JSON of their own."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Model) and other.n == self.n

    __hash__ = None  # type: ignore[assignment]

    def model_dump_json(self) -> str:
        return f'{{"n":{self.n}}}'

    @classmethod
    def model_validate_json(cls, text: bytes) -> Model:
        return cls(msgspec.json.decode(text, type=dict[str, int])["n"])


@pytest.mark.parametrize(
    ("type", "value"),
    [
        (Email, Email("you", True)),
        (Invoice, Invoice(7)),
        (Order, Order("1", ["tea"])),
        (Options, {"deep": True}),
        (Model, Model(3)),
        (int, 3),
        (list[str], ["a"]),
        (type(None), None),
    ],
)
def test_a_value_is_read_back_as_it_was_sent(type: Any, value: object) -> None:
    job_type, workflow_type = JobType("j", type), WorkflowType("w", type)
    text = bytes(job_type.encode(value))
    assert job_type.payload_of(Job(id="job_1", name="j", payload=text)) == value
    assert bytes(workflow_type.encode(value)) == text
    assert workflow_type.input_of(WorkflowRun(id="wfrun_1", name="w", input=text)) == value


def test_a_value_of_another_shape_is_refused_before_it_is_sent() -> None:
    with pytest.raises(ValueError, match="the payload of 'send-email' does not fit its type"):
        JobType("send-email", Email).encode({"too": "you"})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the input of 'order' does not fit its type"):
        WorkflowType("order", Order).encode(Email("you"))  # type: ignore[arg-type]


def test_what_is_of_another_name_or_shape_is_not_read() -> None:
    send_email = JobType("send-email", Email)
    with pytest.raises(ValueError, match="job job_1 is a 'bill', not a 'send-email'"):
        send_email.payload_of(Job(id="job_1", name="bill"))
    with pytest.raises(msgspec.ValidationError):
        send_email.payload_of(Job(id="job_1", name="send-email"))
    order = WorkflowType("order", Order)
    with pytest.raises(ValueError, match="run wfrun_1 is a 'x', not a 'order'"):
        order.input_of(WorkflowRun(id="wfrun_1", name="x"))


@pytest.mark.parametrize("name", ["", 3, None])
def test_a_name_that_cannot_be_sent_is_refused_by_the_definition(name: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="name"):
        JobType(name, int)
    with pytest.raises((TypeError, ValueError), match="name"):
        WorkflowType(name, int)


def test_a_type_that_json_cannot_give_is_refused_by_the_definition() -> None:
    with pytest.raises(TypeError, match="cannot be decoded"):
        JobType("x", list[int, int])  # type: ignore[misc]


def test_definitions_show_their_names_and_types() -> None:
    assert repr(JobType("send-email", Email)) == "JobType('send-email', Email)"
    assert repr(WorkflowType("order", Order)) == "WorkflowType('order', Order)"
