"""The report of a sweep over containers: scale, size, power, cold starts, packets, losses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from igniter_prof.records import (
    ColdStart,
    DevicePower,
    HostPower,
    Measurement,
    ProfileManifest,
    Tenant,
    TenantEnergy,
)
from igniter_prof.reporting import scaling, starts
from igniter_prof.reporting.blocks import Plot, Section, Table
from igniter_prof.reporting.inputs import Profile
from igniter_prof.reporting.profile_section import profile_section
from igniter_prof.reporting.scaling import Size
from tests import reporting_samples as samples


def section(found: list[Measurement]) -> Section:
    manifest = ProfileManifest(
        sweep=None, device=samples.DEVICE, created_at=samples.CREATED, igprof="0"
    )
    return profile_section(Profile(manifest, tuple(found)), "here", "profile")


@pytest.fixture(scope="module")
def whole() -> Section:
    return section(samples.container_measurements())


def named(of: Section, name: str) -> Plot | Table:
    (block,) = [block for block in of.blocks if block.name == f"profile-{name}"]
    return block


def names(of: Section) -> list[str]:
    return [block.name.removeprefix("profile-") for block in of.blocks]


def test_all_that_the_data_has_is_shown(whole: Section) -> None:
    assert names(whole) == [
        "latency-scale",
        "power-scale-device",
        "energy-scale-device",
        "latency-energy-device",
        "power-scale-host",
        "energy-scale-host",
        "latency-energy-host",
        "cpu-scale",
        "memory-scale",
        "cold-starts",
        "verdicts",
        "skipped",
        "monitors",
        "network",
        "containers",
        "power",
        "host-power",
        "starts",
        "cells",
    ]


def test_what_the_data_has_not_is_not_shown() -> None:
    plain = names(section(samples.measurements()[:40]))
    assert not {"latency-scale", "cold-starts", "network", "monitors", "skipped"} & set(plain)
    assert "latency-batch" in plain


def test_a_line_for_each_size_with_the_gpu_last(whole: Section) -> None:
    plot = named(whole, "latency-scale")
    assert isinstance(plot, Plot)
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", plot.svg)
    legend = [text for text in texts if "core" in text]
    assert legend[0] == "1 core, 2 GiB, no GPU"
    assert legend[-1] == "8 cores, 16 GiB, GPU"
    assert len(legend) == 6
    assert "input scale (×)" in texts
    assert "out of memory" in plot.caption


def test_client_and_packets_are_columns_apart(whole: Section) -> None:
    table = named(whole, "network")
    assert isinstance(table, Table)
    groups = {column.key: column.group for column in table.columns}
    assert groups["client_mean_ms"] == "client's clock"
    assert groups["total_mean_ms"].startswith("packets")
    row = table.rows[0]
    assert row["client_mean_ms"] != row["total_mean_ms"] != row["server_mean_ms"]
    lost = [row for row in table.rows if row["dropped_packets"]]
    assert {row["state"].text for row in lost} == {"a part"}
    assert all(row["paired_pct"] < 100 for row in lost)


def test_incomplete_monitors_are_told_of(whole: Section) -> None:
    assert "sniffer incomplete in 3 cells" in [badge.text for badge in whole.badges]
    table = named(whole, "monitors")
    assert isinstance(table, Table)
    (row,) = table.rows
    assert (row["monitor"], row["note"], row["cells"]) == (
        "sniffer",
        "the kernel dropped 3 packets",
        3,
    )
    assert len(row["cell_ids"].split()) == 3
    assert dict(whole.facts)["monitors"] == "client, container, sniffer"


def test_skipped_cells_are_no_failures(whole: Section) -> None:
    badges = {badge.text: badge.tone for badge in whole.badges}
    assert badges["1 skipped"] == "plain"
    assert badges["3 oom"] == "bad"
    verdicts = named(whole, "verdicts")
    assert isinstance(verdicts, Table)
    assert {row["state"].text for row in verdicts.rows} == {"oom"}
    assert "1 cell skipped: it asks for 16 cores, the host has 8" in whole.remarks
    table = named(whole, "skipped")
    assert isinstance(table, Table)
    assert table.rows[0]["reason"] == "it asks for 16 cores, the host has 8"
    assert not any("not measured" in remark for remark in whole.remarks)


def test_columns_without_a_value_are_in_the_csv_only(whole: Section) -> None:
    table = named(whole, "containers")
    assert isinstance(table, Table)
    shown = {column.key for column in table.shown_columns}
    assert "beside" not in shown  # all alone
    assert "cpu_peak_cores" in shown
    assert "beside" in table.csv_rows()[0]


def solo(tenant: Tenant, mean_ms: float = 10.0, **changes: object) -> Measurement:
    one = samples.tenant_measurement(tenant, mean_ms).model_copy(update=changes)
    return samples.measurement((one,))


def test_memory_is_a_panels_where_it_was_changed_apart_from_the_cores() -> None:
    grid = [
        solo(Tenant(model="m", input_scale=scale, cpu_cores=cores, memory_mib=memory))
        for scale in (0.5, 1.0)
        for cores in (1, 2)
        for memory in (1024, 2048)
    ]
    points = scaling.scale_points(grid)
    assert {point.panel for point in points} == {"m, 1 GiB", "m, 2 GiB"}
    assert {point.size.text for point in points} == {"1 core", "2 cores"}
    other = [solo(Tenant(model="n", input_scale=scale, memory_mib=512)) for scale in (0.5, 1.0)]
    assert "n" in {point.panel for point in scaling.scale_points([*grid, *other])}
    tied = [
        one
        for one in grid
        if one.cell.tenants[0].memory_mib == 1024 * (one.cell.tenants[0].cpu_cores or 0)
    ]
    assert {point.panel for point in scaling.scale_points(tied)} == {"m"}


def test_one_scale_is_no_plot() -> None:
    sizes = [solo(Tenant(model="m", cpu_cores=cores)) for cores in (1, 2, 4)]
    assert scaling.scale_points(sizes) == ()


def test_sizes_of_inputs_have_their_unit() -> None:
    tokens = [
        solo(Tenant(model="m", input_size=size, input_unit="tokens", batch_size=batch))
        for size in (16, 512)
        for batch in (1, 8)
    ]
    points = scaling.scale_points(tokens)
    assert {point.unit for point in points} == {"input size (tokens)"}
    assert {point.panel for point in points} == {"m, batch 1", "m, batch 8"}
    (plot,) = [b for b in section(tokens).blocks if b.name == "profile-latency-scale"]
    assert isinstance(plot, Plot)
    assert "input size (tokens)" in plot.svg


def test_repeats_are_means_and_oom_is_counted() -> None:
    tenant = Tenant(model="m", input_scale=0.5)
    dead = samples.measurement((samples.tenant_measurement(tenant, 0, status="oom", detail="x"),))
    points = scaling.scale_points(
        [solo(tenant, 10), solo(tenant, 20), dead, solo(Tenant(model="m"), 30)]
    )
    first, second = points
    assert (first.x, first.latency_ms, first.out_of_memory) == (0.5, 15.0, 1)
    assert first.low_ms == pytest.approx(10 * 0.985)
    assert first.high_ms == pytest.approx(20 * 1.015)
    assert (second.x, second.out_of_memory) == (1.0, 0)


def test_energy_of_an_inference_is_the_monitors_own_if_there_is_one() -> None:
    tenant = Tenant(model="m", batch_size=2)
    plain = solo(tenant)
    (own,) = plain.tenants
    assert scaling.inference_energy_j(plain, own, "device") is None
    window = plain.model_copy(update={"energy_j": 80.0})
    assert scaling.inference_energy_j(window, own, "device") == 80.0 / 800  # 400 requests of 2
    power = DevicePower(uuid="u", power_mean_w=7.0, per_inference_j=0.5)
    card = window.model_copy(update={"power": power, "power_w": 9.0})
    assert scaling.inference_energy_j(card, own, "device") == 0.5
    split = own.model_copy(
        update={"energy": TenantEnergy(energy_j=1, per_inference_j=0.25, method="by time")}
    )
    assert scaling.inference_energy_j(card, split, "device") == 0.25
    assert scaling.power_w(card, "device") == 7.0
    assert scaling.power_w(window.model_copy(update={"power_w": 9.0}), "device") == 9.0


def test_packages_of_the_host_are_summed_without_their_parts() -> None:
    power = HostPower(
        energy_j={"package-0": 40.0, "package-1": 40.0, "dram": 7.0, "core": 30.0},
        power_mean_w={"package-0": 10.0, "package-1": 12.0, "core": 9.0},
    )
    host = solo(Tenant(model="m")).model_copy(update={"host_power": power})
    assert scaling.power_w(host, "host") == 22.0
    assert scaling.inference_energy_j(host, host.tenants[0], "host") == 80.0 / 400
    other = host.model_copy(update={"host_power": HostPower(energy_j={"dram": 1}, power_mean_w={})})
    assert scaling.power_w(other, "host") is None


def test_sizes_in_words_and_order() -> None:
    sizes = [Size(True, 1, 512), Size(False, 8, 16384), Size(None, 1, None), Size(None, None, None)]
    assert [size.text for size in sorted(sizes, key=lambda size: size.order)] == [
        "1 core",
        "8 cores, 16 GiB, no GPU",
        "no caps",
        "1 core, 512 MiB, GPU",
    ]


def test_starts_are_means_but_for_the_first_inference() -> None:
    def started(scale: float, **phases: float) -> Measurement:
        return solo(
            Tenant(model="m", input_scale=scale, cpu_cores=2), cold_start=ColdStart(**phases)
        )

    cells = [
        started(0.1, create_s=1.0, load_s=2.0, first_ms=100.0),
        started(0.9, create_s=3.0, first_ms=400.0),
        started(2.0, create_s=2.0, first_ms=900.0, pull_s=60.0),
        solo(Tenant(model="m", cpu_cores=2)),
    ]
    without, pulled = starts.starts(cells)
    assert without.tenant == "m, 2 cores"
    assert without.phases_s == {"create_s": 2.0, "load_s": 2.0, "first_s": 0.4}
    assert pulled.tenant == "m, 2 cores, image pulled"
    assert pulled.total_s == pytest.approx(62.9)
    assert starts.start_bars((), "p") is None


def test_a_report_of_it_is_written_with_its_tables(tmp_path: Path) -> None:
    from igniter_prof.reporting import write_report

    profile = samples.write_profile(tmp_path / "p", samples.container_measurements(scales=2))
    page, *tables = write_report([profile], tmp_path / "r.html")
    assert {path.name for path in tables} >= {"profile-network.csv", "profile-starts.csv"}
    assert "Cold starts by phase" in page.read_text()
