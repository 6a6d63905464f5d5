"""The order service's tests: more than a day of its time, in a second or two of yours."""

from __future__ import annotations

import pytest
import trio
from orders import Dashboard, Line, Order, OrderService, Warehouse
from trio.testing import MockClock

from trio_dispatch import Client, ConnectFailed, ConnectionLost, WorkflowFailed
from trio_dispatch.server import Quirks, Server
from trio_dispatch.testing import FaultPlan, FaultyProxy

PENS = Order("o-1", "ann@example.com", [Line("pen", 10, 150)])
DESKS = Order("o-2", "bob@example.com", [Line("desk", 3, 45_000)])


async def test_an_order_is_fulfilled(
    service: OrderService, warehouse: Warehouse, autojump_clock: MockClock
) -> None:
    assert await service.handle(PENS)
    assert warehouse.charged == {"o-1": 1500}


async def test_the_customer_gets_a_mail(
    service: OrderService, dispatch_server: Server, autojump_clock: MockClock
) -> None:
    await service.handle(PENS)
    dispatch_server.assert_enqueued(
        "send-mail", {"to": "ann@example.com", "subject": "Your order is on its way"}, count=1
    )


async def test_a_mail_server_that_is_down_for_an_hour_loses_no_mail(
    service: OrderService,
    warehouse: Warehouse,
    dispatch_server: Server,
    autojump_clock: MockClock,
) -> None:
    warehouse.mail_server_is_down = True
    await service.handle(PENS)
    await trio.sleep(60)
    warehouse.mail_server_is_down = False
    await dispatch_server.idle()
    assert len(warehouse.mails) == 1
    assert dispatch_server.jobs("send-mail")[0].retry_count > 1


async def test_an_expensive_order_waits_for_an_approval(
    service: OrderService, warehouse: Warehouse, autojump_clock: MockClock
) -> None:
    placed = await service.place(DESKS)
    await trio.sleep(11 * 3600)
    assert placed.run.state == "running"
    assert warehouse.charged == {}
    await service.decide(DESKS, approved=True)
    assert await service.finish(placed)
    assert warehouse.charged == {"o-2": 135_000}


async def test_an_order_that_is_turned_down_goes_back_to_stock(
    service: OrderService, warehouse: Warehouse, autojump_clock: MockClock
) -> None:
    placed = await service.place(DESKS)
    await service.decide(DESKS, approved=False)
    assert not await service.finish(placed)
    assert warehouse.stock["desk"] == 10


async def test_nobody_decides_for_half_a_day(
    service: OrderService, dispatch_client: Client, autojump_clock: MockClock
) -> None:
    placed = await service.place(DESKS)
    with pytest.raises(WorkflowFailed, match="not approved"):
        await placed.run.wait()
    assert trio.current_time() >= 12 * 3600
    steps = [step.step_name for step in await placed.run.timeline()]
    assert steps == ["reserve", "wait:approve:o-2", "release"]


async def test_what_is_not_in_stock_is_not_charged(
    service: OrderService, warehouse: Warehouse, autojump_clock: MockClock
) -> None:
    assert not await service.handle(Order("o-3", "eve@example.com", [Line("desk", 11, 1)]))
    assert warehouse.charged == {}


async def test_an_empty_order_is_refused(service: OrderService, dispatch_server: Server) -> None:
    with pytest.raises(ValueError, match="at least one line"):
        await service.place(Order("o-4", "eve@example.com", []))
    dispatch_server.assert_started("fulfil-order", count=0)


async def test_a_hundred_orders_at_once(
    service: OrderService, warehouse: Warehouse, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        for n in range(100):
            order = Order(f"o-{n}", f"c{n}@example.com", [Line("pen", 1, 150)])
            nursery.start_soon(service.handle, order)
    assert len(warehouse.charged) == 100
    assert warehouse.stock["pen"] == 900


async def test_the_dashboard_shows_everything(
    service: OrderService,
    dispatch_client: Client,
    dispatch_server: Server,
    autojump_clock: MockClock,
    nursery: trio.Nursery,
) -> None:
    dashboard = Dashboard(dispatch_client)
    await nursery.start(dashboard.watch)
    await service.handle(PENS)
    await dispatch_server.idle()
    await trio.sleep(1)
    assert dashboard.runs == {"started": 1, "step_completed": 2, "completed": 1}
    assert dashboard.jobs == {"enqueued": 1, "started": 1, "completed": 1}


async def test_a_report_that_takes_half_an_hour(
    dispatch_client: Client, autojump_clock: MockClock
) -> None:
    report = await dispatch_client.enqueue("nightly-report")
    assert (await report.wait()).state == "completed"
    assert trio.current_time() >= 1800


async def test_a_refused_mail_does_not_undo_the_order(
    service: OrderService,
    warehouse: Warehouse,
    dispatch_server: Server,
    autojump_clock: MockClock,
) -> None:
    dispatch_server.refuse("job.enqueue", 403, "no mail today")
    with pytest.raises(Exception, match="no mail today"):
        await service.handle(PENS)
    assert warehouse.charged == {"o-1": 1500}


async def test_a_slow_server_is_waited_for(
    service: OrderService, dispatch_server: Server, autojump_clock: MockClock
) -> None:
    placed = await service.place(PENS)
    with dispatch_server.freeze():
        with trio.move_on_after(20) as scope:
            await service.finish(placed)
        assert scope.cancelled_caught
    assert await service.finish(placed)


async def test_the_same_with_a_corrected_server(
    warehouse: Warehouse, autojump_clock: MockClock
) -> None:
    from orders import register

    from trio_dispatch.server import Identity

    identity = Identity(subject="t", app_id="a", org_id="o", scopes={"*"})
    server = Server({"test-token": identity}, quirks=Quirks.none())
    register(server, warehouse)
    async with server.open_client() as client:
        assert await OrderService(client).handle(PENS)


async def test_orders_survive_a_bad_network(
    faulty_dispatch_client: Client,
    dispatch_proxy: FaultyProxy,
    dispatch_server: Server,
    warehouse: Warehouse,
    autojump_clock: MockClock,
    nursery: trio.Nursery,
) -> None:
    """For two hours connections are cut, refused, stalled and slowed down."""
    service, dashboard = OrderService(faulty_dispatch_client), Dashboard(faulty_dispatch_client)
    await nursery.start(dashboard.watch)
    fulfilled: list[str] = []
    uncertain: list[str] = []

    async def order(n: int) -> None:
        await trio.sleep(n * 120)
        order = Order(f"o-{n}", f"c{n}@example.com", [Line("pen", 1, 150)])
        while True:
            try:
                placed = await service.place(order)
                await placed.run.wait()
            except ConnectFailed:
                await trio.sleep(1)  # it was not placed
            except ConnectionLost:
                uncertain.append(order.id)  # it may have been placed: the warehouse knows
                return
            else:
                fulfilled.append(order.id)
                return

    plan = FaultPlan(seed=7, faults=400, pause=18, longest=3)
    async with trio.open_nursery() as inner:
        inner.start_soon(plan.run, dispatch_proxy)
        for n in range(60):
            inner.start_soon(order, n)
    await dispatch_server.idle()
    assert len(fulfilled) + len(uncertain) == 60
    assert len(fulfilled) > 40
    assert set(fulfilled) <= set(warehouse.charged) <= {*fulfilled, *uncertain}
    assert dashboard.gaps > 0
