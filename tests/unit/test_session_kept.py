"""Servers that go on from cell to cell: for the same tenants only, and never after a failure."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from igniter_prof.records import (
    REQUEST_DTYPE,
    Cell,
    Device,
    Endpoint,
    Stopping,
    Tenant,
)
from igniter_prof.serving import ServeOptions, TenantFailure
from igniter_prof.session import (
    CellContext,
    KeptServers,
    Observed,
    Window,
    kept,
    run_cell,
    together,
)
from igniter_prof.session import cell as cell_module

DEVICE = Device(id="cpu:0", kind="cpu", name="a core", cores=(0,))


class Running:
    runtime = "local"
    headers = ()
    ca_file = None

    def __init__(self, tenants: Sequence[Tenant]) -> None:
        self.endpoints = tuple(
            Endpoint(tenant=tenant, model_name=tenant.model, ready_s=1.0, pid=index)
            for index, tenant in enumerate(tenants)
        )

    def conditions(self) -> dict[str, Any]:
        return {"runtime": "local"}

    def usage(self, index: int) -> None:
        return None

    def ending(self, index: int) -> None:
        return None


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was started and ended, in order."""
    found: list[str] = []

    @contextlib.contextmanager
    def deploy(device: Device, tenants: Sequence[Tenant], *, options: Any) -> Iterator[Running]:
        name = "+".join(tenant.model for tenant in tenants)
        if "broken" in name:
            raise TenantFailure(0, "crashed", "cannot start")
        found.append(f"start {name}")
        try:
            yield Running(tenants)
        finally:
            found.append(f"end {name}")

    monkeypatch.setattr(kept, "deploy", deploy)
    return found


def test_the_same_tenants_have_the_same_servers(events: list[str]) -> None:
    with KeptServers() as servers:
        for scale in (1.0, 0.5):
            tenants = [Tenant(model="a", share_pct=50, input_scale=scale)]
            with servers.deployed(DEVICE, tenants, options=ServeOptions()) as running:
                (endpoint,) = running.endpoints
                assert endpoint.tenant == tenants[0]
                assert (endpoint.ready_s is None) == (scale == 0.5)
                assert endpoint.pid == 0
        assert events == ["start a"]
    assert events == ["start a", "end a"]


@pytest.mark.parametrize(
    "change", [{"share_pct": 25}, {"batch_size": 2}, {"instances": 2}, {"model": "b"}]
)
def test_other_tenants_have_others(events: list[str], change: dict[str, Any]) -> None:
    first = Tenant(model="a", share_pct=50)
    with KeptServers() as servers:
        for tenant in (first, first.model_copy(update=change)):
            with servers.deployed(DEVICE, [tenant], options=ServeOptions()):
                pass
    assert [event.partition(" ")[0] for event in events] == ["start", "end", "start", "end"]


@pytest.mark.parametrize(("delay", "starts"), [(None, 1), (100, 2)])
def test_the_batch_size_is_in_the_requests_of_a_users_own_model(
    events: list[str], tmp_path: Path, delay: int | None, starts: int
) -> None:
    (tmp_path / "a").mkdir()
    options = ServeOptions(repository=tmp_path)
    with KeptServers() as servers:
        for batch in (1, 8):
            tenant = Tenant(model="a", batch_size=batch, queue_delay_us=delay)
            with servers.deployed(DEVICE, [tenant], options=options):
                pass
    assert events.count("start a") == starts


def test_an_error_ends_the_servers(events: list[str]) -> None:
    tenants = [Tenant(model="a")]
    with KeptServers() as servers:
        with (
            pytest.raises(TenantFailure),
            servers.deployed(DEVICE, tenants, options=ServeOptions()),
        ):
            raise TenantFailure(0, "crashed", "gone")
        assert events == ["start a", "end a"]
        with servers.deployed(DEVICE, tenants, options=ServeOptions()) as running:
            assert running.endpoints[0].ready_s == 1.0


def test_what_cannot_start_is_not_kept(events: list[str]) -> None:
    broken, good = [Tenant(model="broken")], [Tenant(model="a")]
    with KeptServers() as servers:
        with servers.deployed(DEVICE, good, options=ServeOptions()):
            pass
        for _ in range(2):
            with (
                pytest.raises(TenantFailure),
                servers.deployed(DEVICE, broken, options=ServeOptions()),
            ):
                pass
        with servers.deployed(DEVICE, good, options=ServeOptions()):
            pass
    assert events == ["start a", "end a"] * 2


def test_cells_of_the_same_servers_come_together_in_the_order_of_the_first() -> None:
    def cell(model: str, scale: float) -> Cell:
        return Cell(device="cpu:0", tenants=(Tenant(model=model, input_scale=scale),))

    cells = [cell("b", 1), cell("a", 1), cell("b", 0.5), cell("a", 2)]
    ordered = together(cells, ServeOptions())
    assert [one.tenants[0].model for one in ordered] == ["b", "b", "a", "a"]
    assert sorted(ordered, key=cells.index) == cells


def test_a_tenant_that_failed_is_started_anew(
    events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell_module, "generators", lambda count: contextlib.nullcontext([]))
    statuses = iter(["ok", "timeout", "ok"])

    def measure(deployment: Any, clients: Any, **options: Any) -> Window:
        status = next(statuses)
        return Window((Observed(np.zeros(0, REQUEST_DTYPE), status=status),), None, None)

    monkeypatch.setattr(cell_module, "measure", measure)
    stopping = Stopping(cooldown_s=0)
    with KeptServers() as servers:
        context = CellContext(DEVICE, ServeOptions(), stopping, kept=servers)
        for repeat in range(3):
            run_cell(Cell(device=DEVICE.id, tenants=(Tenant(model="a"),), repeat=repeat), context)
            events.append("cell")
    assert events == ["start a", "cell", "end a", "cell", "start a", "cell", "end a"]
