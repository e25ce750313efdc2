"""The plug-in of docs/monitors.md, installed and run; and monitors that misbehave."""

from __future__ import annotations

import contextlib
import math
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from igniter_prof import monitors
from igniter_prof.dataset import ProfileStore
from igniter_prof.errors import BadInput, MissingCapability, OutsideFailure
from igniter_prof.monitors import Counted, Monitor, Scene, Seen
from igniter_prof.records import (
    REQUEST_DTYPE,
    Cell,
    ContainerUsage,
    Device,
    HostPower,
    ProfileManifest,
    Stopping,
    Tenant,
    TenantEnergy,
    TenantMeasurement,
)
from igniter_prof.serving import ServeOptions, TenantFailure
from igniter_prof.session import CellContext, run_cell
from igniter_prof.session import cell as cell_module
from igniter_prof.session.cell import MeasuredCell
from igniter_prof.session.measuring import Observed, Window
from igniter_prof.session.watch import Watch
from tests.kserve import FakeDeployment, KServe, kserve

DEVICE = Device(id="cpu:0", kind="cpu", name="a CPU", cores=(0,))
PAGE = Path(__file__).parents[2] / "docs/monitors.md"
QUICK = Stopping(
    precision_pct=50,
    max_drift_pct=1000,
    min_s=0.3,
    max_s=1,
    min_requests=10,
    warmup_requests=3,
    warmup_s=0.1,
    cooldown_s=0,
    request_timeout_s=5,
    start_timeout_s=5,
)


@pytest.fixture(scope="module")
def server() -> Iterator[KServe]:
    with kserve() as one:
        yield one


def install(folder: Path, name: str, module: str, points: dict[str, str]) -> None:
    """A distribution in a folder, as an installer would leave it."""
    (folder / f"{name}.py").write_text(module)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [f"{point} = {value}" for point, value in points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[igniter_prof.monitors]", *lines]) + "\n")


@pytest.fixture
def documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plug-in that docs/monitors.md shows, on sys.path."""
    text = PAGE.read_text()
    (module,) = re.findall(r"^`igprof_demo\.py`:\n\n```python\n(.*?)^```", text, re.M | re.S)
    (project,) = re.findall(r"^```toml\n(.*?)^```", text, re.M | re.S)
    _, _, listed = project.partition('[project.entry-points."igniter_prof.monitors"]')
    points = dict(re.findall(r'^(\w+) = "([\w:.]+)"$', listed, re.M))
    (tmp_path / "site").mkdir()
    install(tmp_path / "site", "igprof_demo", module, points)
    monkeypatch.syspath_prepend(tmp_path / "site")


def run(
    server: KServe, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tenants: int = 1
) -> MeasuredCell:
    def deploy(device: Device, given: Any, *, options: ServeOptions) -> Any:
        return contextlib.nullcontext(FakeDeployment([server] * tenants, given))

    monkeypatch.setattr(cell_module, "deploy", deploy)
    context = CellContext(DEVICE, ServeOptions(), QUICK, seed=5, monitors=names)
    cell = Cell(device="cpu:0", tenants=tuple(Tenant(model=f"m{k}") for k in range(tenants)))
    return run_cell(cell, context)


def test_the_documented_plugin_runs_and_is_stored(
    documented: None, server: KServe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "demo" in monitors.known_monitors()
    assert monitors.check(["client", "demo"], DEVICE) == {}
    measured = run(server, ("client", "demo:0.05"), monkeypatch, tenants=2)
    found = measured.measurement
    assert found.extra["demo"]["highest"] >= 0
    assert [tenant.extra for tenant in found.tenants] == [
        {"demo": {"tenant": 0}},
        {"demo": {"tenant": 1}},
    ]
    assert [(each.name, each.complete) for each in found.monitors] == [
        ("client", True),
        ("demo", True),
    ]
    manifest = ProfileManifest(
        sweep=None, device=DEVICE, created_at="2026-01-01T00:00:00+00:00", igprof="0"
    )
    with ProfileStore.create(tmp_path / "profile", manifest) as store:
        store.append(found, measured.requests, measured.traces)
    store = ProfileStore.open(tmp_path / "profile")
    (stored,) = store.measurements()
    assert stored.extra == found.extra
    trace = store.traces(stored.cell_id)["demo"]
    assert trace.dtype.names == ("at_ns", "load")
    assert len(trace) >= 3


def test_the_documented_plugin_refuses_a_bad_argument(documented: None) -> None:
    with pytest.raises(BadInput, match="seconds"):
        monitors.check(["demo:often"], DEVICE)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("import nothing_of_this_name", "ModuleNotFoundError"),
        ("def broken(device, argument): raise ZeroDivisionError('by nought')", "by nought"),
        ("x = 1", "AttributeError"),
    ],
)
def test_a_plugin_that_cannot_be_used_is_named_before_the_sweep(
    module: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, f"igprof_broken_{abs(hash(module))}", module, {})
    (folder,) = tmp_path.glob("*.dist-info")
    name = folder.name.removesuffix("-1.0.dist-info")
    (folder / "entry_points.txt").write_text(f"[igniter_prof.monitors]\nbroken = {name}:broken\n")
    monkeypatch.syspath_prepend(tmp_path)
    lacking = monitors.check(["broken"], DEVICE)
    assert said in lacking["broken"]
    assert "leave the monitor out" in lacking["broken"]


class Faulty:
    """A monitor that raises where it is told to, or says what it is told to."""

    def __init__(self, at: str = "", error: BaseException | None = None, says: Any = None) -> None:
        self.at, self.error, self.says = at, error, says
        self.left = False

    def _pass(self, place: str) -> None:
        if place == self.at:
            assert self.error is not None
            raise self.error

    def __enter__(self) -> Faulty:
        self._pass("enter")
        return self

    def attach(self, scene: Scene) -> None:
        self._pass("attach")

    def seen(self, window: Counted) -> Seen:
        self._pass("seen")
        return Seen(notes=("all well",)) if self.says is None else self.says

    def __exit__(self, *rest: object) -> None:
        self.left = True
        self._pass("exit")


def watched(
    faulty: Faulty, monkeypatch: pytest.MonkeyPatch, tenants: int = 1
) -> tuple[list[TenantMeasurement], dict[str, Any]]:
    """What becomes of a cell's records with a monitor beside two others; no load is sent."""
    real = monitors.make

    def make(spec: str, device: Device) -> Monitor | None:
        return faulty if spec == "faulty" else real(spec, device)

    monkeypatch.setattr(monitors, "make", make)
    served = [Tenant(model=f"m{k}") for k in range(tenants)]
    watch = Watch(("client", "faulty", "container"), DEVICE)
    with watch:
        watch.attach(FakeDeployment([_NoServer()] * tenants, served), "http", ())
        start_ns = time.monotonic_ns()
        time.sleep(0.02)
        rows = np.zeros(0, REQUEST_DTYPE)
        seen = (Observed(rows=rows, status="ok"),) * tenants
        watch.look(Window(seen, start_ns, time.monotonic_ns()), served)
    found = [
        TenantMeasurement(tenant=tenant, status="ok", **watch.tenant_fields(index))
        for index, tenant in enumerate(served)
    ]
    return found, watch.fields()


class _NoServer:
    address = "127.0.0.1:1"


ANY_PLACE = pytest.mark.parametrize("at", ["enter", "attach", "seen", "exit"])


@ANY_PLACE
@pytest.mark.parametrize(
    ("error", "note"),
    [
        (OutsideFailure("the driver went away", hint="load it"), "the driver went away (load it)"),
        (OutsideFailure("it went away", where="eth7"), "eth7: it went away"),
        (ZeroDivisionError("by nought"), "ZeroDivisionError: by nought"),
    ],
)
def test_whatever_a_monitor_raises_is_a_note(
    at: str, error: Exception, note: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty = Faulty(at, error)
    (tenant,), fields = watched(faulty, monkeypatch)
    assert tenant.container is not None  # the others go on
    client, own, container = fields["monitors"]
    assert client.complete
    assert container.complete
    assert own.complete is False
    assert own.notes[-1] == note
    assert faulty.left == (at != "enter")


@ANY_PLACE
def test_an_interrupt_goes_through(at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    faulty = Faulty(at, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        watched(faulty, monkeypatch)
    assert faulty.left == (at != "enter")
    assert not [one for one in threading.enumerate() if one.name == "igprof-container"]


NAN = {"package-0": math.nan}


@pytest.mark.parametrize(
    ("says", "why"),
    [
        (Seen(tenants=({}, {}, {})), "3 tenants, the cell has 2"),
        (Seen(tenants=({"status": "ok"}, {})), "it gave 'status'"),
        (Seen(fields={"cell_id": "mine"}), "it gave 'cell_id'"),
        (Seen(tenants=({"container": {"source": 1}}, {})), "validation error"),
        (Seen(fields={"power_w": "much"}), "valid number"),
        (Seen(fields={"extra": {"faulty": object()}}), "serialize"),
        (Seen(traces={"../x": np.zeros(1)}), "'../x'"),
        (Seen(traces={"x": np.array([object()])}), "plain values"),
        (Seen(traces={"x": [1]}), "plain values"),  # type: ignore[dict-item]
        (Seen(notes=(1,)), "valid string"),  # type: ignore[arg-type]
        (Seen(complete="so so"), "valid boolean"),  # type: ignore[arg-type]
        ({"notes": ()}, "no Seen but dict"),
        (Seen(fields={"host_power": HostPower(energy_j=NAN, power_mean_w={})}), "valid number"),
        (
            Seen(tenants=({"energy": TenantEnergy(energy_j=math.nan, method="none")}, {})),
            "valid number",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_stored_is_a_note(
    says: Seen, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenants, fields = watched(Faulty(says=says), monkeypatch, tenants=2)
    assert all(tenant.container is not None for tenant in tenants)
    _, own, _ = fields.pop("monitors")
    assert not own.complete
    assert why in own.notes[-1]
    assert fields == {}


def test_an_interrupt_leaves_the_monitors_that_were_entered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = Faulty(), Faulty("enter", KeyboardInterrupt())
    monkeypatch.setattr(monitors, "make", lambda spec, _: first if spec == "first" else second)
    with pytest.raises(KeyboardInterrupt), Watch(("first", "second"), DEVICE):
        pass
    assert first.left


@pytest.mark.parametrize(
    "says",
    [
        Seen(tenants=({"container": ContainerUsage(source="mine", samples=1)},)),
        Seen(traces={"container_0": np.zeros(1)}),
    ],
    ids=["field", "trace"],
)
def test_no_monitor_overwrites_what_another_told(
    says: Seen, server: KServe, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty, real = Faulty(says=says), monitors.make
    monkeypatch.setattr(
        monitors, "make", lambda spec, device: faulty if spec == "x" else real(spec, device)
    )
    measured = run(server, ("container", "x"), monkeypatch)
    found = measured.measurement
    assert found.tenants[0].container is not None
    assert found.tenants[0].container.source != "mine"
    assert "at_ns" in (measured.traces["container_0"].dtype.names or ())
    assert [each.complete for each in found.monitors] == [True, False]
    assert "another monitor of this cell" in found.monitors[1].notes[-1]


def test_a_cell_with_a_monitor_that_fails_is_measured(
    server: KServe, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty = Faulty("seen", RuntimeError("no more"))
    real = monitors.make
    monkeypatch.setattr(
        monitors, "make", lambda spec, device: faulty if spec == "x" else real(spec, device)
    )
    found = run(server, ("x", "container"), monkeypatch).measurement
    assert found.tenants[0].status == "ok"
    assert found.tenants[0].container is not None
    assert found.monitors[0].notes == ("RuntimeError: no more",)


def test_a_tenant_that_ends_is_no_loss_of_a_monitor(monkeypatch: pytest.MonkeyPatch) -> None:
    def deploy(device: Device, tenants: Any, *, options: ServeOptions) -> Any:
        raise TenantFailure(0, "oom", "killed by its memory cap")

    monkeypatch.setattr(cell_module, "deploy", deploy)
    context = CellContext(DEVICE, ServeOptions(), QUICK, monitors=("client", "container"))
    found = run_cell(Cell(device="cpu:0", tenants=(Tenant(model="m"),)), context).measurement
    assert found.tenants[0].status == "oom"
    assert [(each.complete, each.notes) for each in found.monitors] == [
        (True, ()),
        (True, ("there was no window",)),
    ]


def test_extras_of_several_monitors_are_laid_side_by_side(
    documented: None, server: KServe, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = ContainerUsage(source="cgroup v2", samples=3)
    says = Seen(
        tenants=({"extra": {"faulty": 1}, "container": usage},), fields={"extra": {"faulty": 2}}
    )
    faulty = Faulty(says=says)
    real = monitors.make
    monkeypatch.setattr(
        monitors, "make", lambda spec, device: faulty if spec == "x" else real(spec, device)
    )
    found = run(server, ("x", "demo"), monkeypatch).measurement
    assert set(found.extra) == {"faulty", "demo"}
    assert set(found.tenants[0].extra) == {"faulty", "demo"}
    assert found.tenants[0].container == usage


def test_a_missing_right_is_a_reason() -> None:
    def lacking(device: Device, argument: str | None) -> Monitor:
        raise MissingCapability("no right", hint="sudo")

    from importlib.metadata import EntryPoint

    from igniter_prof.monitors import registry

    point = EntryPoint("own", "none:none", registry.ENTRY_POINTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_plugins", lambda: {"own": point})
        patch.setattr(EntryPoint, "load", lambda self: lacking)
        assert monitors.check(["own"], DEVICE) == {"own": "no right (sudo)"}
