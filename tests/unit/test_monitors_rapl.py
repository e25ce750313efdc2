from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from igniter_prof.errors import BadInput, MissingCapability
from igniter_prof.monitors import Counted, Scene
from igniter_prof.monitors import rapl as rapl_module
from igniter_prof.monitors.rapl import Domain, RaplMonitor, domains, host_power, rapl
from igniter_prof.records import Device

S = 1_000_000_000
CPU = Device(id="cpu:0", kind="cpu", name="a CPU", cores=(0,))
SCENE = Scene(device=CPU, endpoints=(), protocol="http", cores=(), usage=lambda index: None)


def _zone(folder: Path, zone: str, name: str, count: int = 0, limit: int | None = 1000) -> Path:
    path = folder / zone
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "energy_uj").write_text(f"{count}\n")
    if limit is not None:
        (path / "max_energy_range_uj").write_text(f"{limit}\n")
    return path


def test_domains_are_named_and_counted_once(tmp_path: Path) -> None:
    _zone(tmp_path, "intel-rapl:0", "package-0", limit=262_143_328_850)
    _zone(tmp_path, "intel-rapl:0:0", "core")
    _zone(tmp_path, "intel-rapl:0:1", "dram", limit=None)
    _zone(tmp_path, "intel-rapl-mmio:0", "package-0")
    found = domains(tmp_path)
    assert [domain.name for domain in found] == ["package-0", "core", "dram"]
    assert [domain.range_uj for domain in found] == [262_143_328_850, 1000, None]


def test_with_several_packages_their_parts_are_told_apart(tmp_path: Path) -> None:
    for package in (0, 1):
        _zone(tmp_path, f"intel-rapl:{package}", f"package-{package}")
        _zone(tmp_path, f"intel-rapl:{package}:0", "dram")
    _zone(tmp_path, "intel-rapl:2", "psys")
    assert [domain.name for domain in domains(tmp_path)] == [
        "package-0",
        "package-0/dram",
        "package-1",
        "package-1/dram",
        "psys",
    ]


def test_a_machine_without_counters_says_so(tmp_path: Path) -> None:
    with pytest.raises(MissingCapability, match="no energy counters"):
        domains(tmp_path / "powercap")


def test_counters_that_may_not_be_read_come_with_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zone = _zone(tmp_path, "intel-rapl:0", "package-0")
    (zone / "energy_uj").chmod(0)
    if os.geteuid() == 0:  # root may read all

        def denied(self: Path, *arguments: object, **options: object) -> str:
            raise PermissionError(13, "Permission denied", str(self))

        monkeypatch.setattr(Path, "read_text", denied)
    with pytest.raises(MissingCapability) as caught:
        domains(tmp_path)
    assert caught.value.hint == f"sudo chmod a+r {tmp_path}/*/energy_uj"


@pytest.mark.parametrize("device", ["cpu:0-3@10.0.0.5", "remote:https://triton.example:8000"])
def test_another_hosts_processors_are_not_this_ones(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _zone(tmp_path, "intel-rapl:0", "package-0")
    monkeypatch.setattr(rapl_module, "domains", lambda: domains(tmp_path))
    assert isinstance(rapl(CPU, None), RaplMonitor)
    with pytest.raises(MissingCapability, match="cannot be read from here"):
        rapl(Device(id=device, kind="cpu", name="not known"), None)


def test_it_takes_no_argument() -> None:
    with pytest.raises(BadInput, match="no argument"):
        rapl(CPU, "10")


def test_energy_over_a_wrap(tmp_path: Path) -> None:
    found = (Domain("package-0", tmp_path, 1_000_000_000), Domain("dram", tmp_path, None))
    at_ns = np.arange(0, 61) * S // 10
    rows = np.zeros(61, [("at_ns", "<i8"), ("package-0", "<i8"), ("dram", "<i8")])
    rows["at_ns"] = at_ns
    rows["package-0"] = (950_000_000 + 100_000_000 * at_ns // S) % 1_000_000_000  # 100 W
    rows["dram"] = 7 + 3_000_000 * at_ns // S
    seen = host_power(rows, found, Counted(S // 3, 5 * S + S // 3, (1,)))
    assert seen.complete
    power = seen.fields["host_power"]
    assert power.energy_j == pytest.approx({"package-0": 500.0, "dram": 15.0})
    assert power.power_mean_w == pytest.approx({"package-0": 100.0, "dram": 3.0})
    # a counter that fell and does not tell its range is left out
    rows["dram"][30:] = 0
    seen = host_power(rows, found, Counted(S // 3, 5 * S + S // 3, (1,)))
    assert not seen.complete
    assert set(seen.fields["host_power"].energy_j) == {"package-0"}
    # and a window that was not sampled tells nothing
    seen = host_power(rows, found, Counted(S, 20 * S, (1,)))
    assert not seen.complete
    assert seen.fields == {}


def test_the_monitor_reads_the_files_while_a_cell_runs(tmp_path: Path) -> None:
    zone = _zone(tmp_path, "intel-rapl:0", "package-0", count=999_000_000, limit=1_000_000_000)
    with RaplMonitor(domains(tmp_path), rate_hz=50) as monitor:
        monitor.attach(SCENE)
        start_ns = time.monotonic_ns()
        time.sleep(0.1)
        (zone / "energy_uj").write_text("4000000\n")  # 5 J later, over the wrap
        time.sleep(0.1)
        end_ns = time.monotonic_ns()
        seen = monitor.seen(Counted(start_ns, end_ns, (1,)))
    assert seen.complete
    assert seen.fields["host_power"].energy_j["package-0"] == pytest.approx(5.0, abs=0.5)
    assert set(seen.traces["rapl"].dtype.names or ()) == {"at_ns", "package-0"}


def test_a_counter_that_goes_away_is_a_note(tmp_path: Path) -> None:
    zone = _zone(tmp_path, "intel-rapl:0", "package-0")
    with RaplMonitor(domains(tmp_path), rate_hz=100) as monitor:
        monitor.attach(SCENE)
        start_ns = time.monotonic_ns()
        (zone / "energy_uj").unlink()
        time.sleep(0.1)
        seen = monitor.seen(Counted(start_ns, time.monotonic_ns(), (1,)))
    assert not seen.complete
    assert "went away" in seen.notes[0]
    assert seen.fields == {}
