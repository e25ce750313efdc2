"""Synthetic records for the tests of the report: a made-up device that obeys a simple law."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy as np

from igniter_prof.dataset import ProfileStore
from igniter_prof.files import write_json
from igniter_prof.records import (
    REQUEST_DTYPE,
    Cell,
    Coefficients,
    ColdStart,
    Conditions,
    ContainerUsage,
    Device,
    DevicePower,
    FitError,
    FitReport,
    HostPower,
    ImageInfo,
    IntervalCheck,
    LatencySummary,
    LearningPoint,
    Load,
    Measurement,
    MonitorReport,
    NetworkTimes,
    Parameter,
    Plan,
    PlanDevice,
    PlanDeviceType,
    PlanTenant,
    PredictedTenant,
    ProfileManifest,
    Quantile,
    Result,
    ServerTimes,
    Status,
    Tenant,
    TenantEnergy,
    TenantMeasurement,
    Usage,
    WorkloadResult,
)

CREATED = "2026-01-02T03:04:05+00:00"
START_NS = 1_767_323_045_000_000_000

DEVICE = Device(
    id="cpu:0-3", kind="cpu", name="Intel Xeon E5-2686 v4", cores=(0, 1, 2, 3), memory_mib=16000
)
CONDITIONS = Conditions(
    igprof="0.1.0",
    runtime="local",
    share_mechanism="cfs-quota",
    share_period_us=10_000,
    triton="2.51.0",
    framework="onnxruntime 1.23.0",
    os="Debian GNU/Linux 12",
    kernel="6.1.0",
    cpu_model=DEVICE.name,
    cpu_count=6,
    client_cores=(4, 5),
    client_apart=True,
    python="3.11.2",
)
SPEED = {"mlp": 0.4, "mobilenet_v2": 6.0, "resnet50": 31.0, "ssd": 160.0}
SENSITIVITY = {"mlp": 0.05, "mobilenet_v2": 0.22, "resnet50": 0.3, "ssd": 0.16}


def law_ms(tenant: Tenant, neighbours: int = 0) -> float:
    """Latency by the made-up law."""
    base, slow = SPEED.get(tenant.model, 10.0), SENSITIVITY.get(tenant.model, 0.1)
    alone = base * (0.3 + tenant.batch_size) / (0.08 + (tenant.share_pct or 100) / 100)
    return alone * (1 + slow * neighbours)


def summary(mean_ms: float, count: int = 400) -> LatencySummary:
    def quantile(factor: float) -> Quantile:
        value = mean_ms * factor
        return Quantile(value_ms=value, low_ms=value * 0.96, high_ms=value * 1.07)

    return LatencySummary(
        count=count,
        mean_ms=mean_ms,
        std_ms=0.1 * mean_ms,
        mean_ci_ms=0.015 * mean_ms,
        min_ms=0.8 * mean_ms,
        max_ms=1.6 * mean_ms,
        p50=quantile(0.98),
        p95=quantile(1.2),
        p99=quantile(1.35) if count >= 400 else None,
    )


def tenant_measurement(
    tenant: Tenant, mean_ms: float, *, status: Status = "ok", detail: str | None = None
) -> TenantMeasurement:
    if status != "ok":
        return TenantMeasurement(tenant=tenant, status=status, detail=detail)
    return TenantMeasurement(
        tenant=tenant,
        status="ok",
        stable=detail is None,
        verdict=detail or "mean within 1.5%",
        latency=summary(mean_ms),
        throughput_rps=1000 * tenant.batch_size / mean_ms,
        server_times=ServerTimes(
            queue_ms=0.1,
            compute_input_ms=0.05,
            compute_infer_ms=0.9 * mean_ms,
            compute_output_ms=0.02,
            executed_batch=tenant.batch_size,
            inferences=400 * tenant.batch_size,
            executions=400,
        ),
        usage=Usage(cpu_s=3.2, periods=300, throttled_periods=40, memory_peak_mib=212.5),
        ready_s=2.1,
    )


def measurement(
    tenants: tuple[TenantMeasurement, ...],
    *,
    at_s: float = 0.0,
    repeat: int = 0,
    baseline: bool = False,
    load: Load = Load(),  # noqa: B008 (frozen)
    conditions: Conditions = CONDITIONS,
) -> Measurement:
    cell = Cell(
        device=DEVICE.id,
        tenants=tuple(t.tenant for t in tenants),
        repeat=repeat,
        baseline=baseline,
        load=load,
    )
    return Measurement(
        cell_id=cell.cell_id,
        cell=cell,
        tenants=tenants,
        conditions=conditions,
        started_at=CREATED,
        anchor_monotonic_ns=int(at_s * 1e9),
        anchor_wall_ns=START_NS + int(at_s * 1e9),
        duration_s=8.0,
    )


def measurements(names: dict[str, str] | None = None, seed: int = 1) -> list[Measurement]:
    """A sweep: solo cells, pairs, some failures, baselines. ``names`` renames models."""
    rng = random.Random(seed)
    names = names or {}
    models = sorted(SPEED)
    cells: list[tuple[Tenant, ...]] = [
        (Tenant(model=m, batch_size=b, share_pct=s),)
        for m, b, s in itertools.product(models, (1, 2, 4, 8), (25, 50, 75, 100))
    ]
    for one, other in itertools.combinations_with_replacement(models, 2):
        for b, (s, t) in itertools.product((1, 4), ((25, 75), (50, 50), (75, 25))):
            cells.append(
                (
                    Tenant(model=one, batch_size=b, share_pct=s),
                    Tenant(model=other, batch_size=b, share_pct=t),
                )
            )
    cells += [
        tuple(Tenant(model=m, batch_size=1, share_pct=25) for m in trio)
        for trio in itertools.combinations(models, 3)
    ]
    rng.shuffle(cells)

    def measured(tenant: Tenant, neighbours: int, index: int) -> TenantMeasurement:
        named = tenant.model_copy(update={"model": names.get(tenant.model, tenant.model)})
        if tenant.model == "ssd" and tenant.batch_size == 8 and (tenant.share_pct or 0) < 75:
            return tenant_measurement(
                named, 0, status="oom", detail="the memory cap of 1024 MiB was reached"
            )
        drifting = index % 29 == 7
        return tenant_measurement(
            named,
            law_ms(tenant, neighbours) * rng.gauss(1, 0.03),
            detail="drift of 7.2% between the halves" if drifting else None,
        )

    found = []
    for index, tenants in enumerate(cells):
        found.append(
            measurement(
                tuple(measured(t, len(tenants) - 1, index) for t in tenants), at_s=9.0 * index
            )
        )
        if index % 12 == 0:
            for model in ("mobilenet_v2", "resnet50"):
                tenant = Tenant(model=names.get(model, model), batch_size=1, share_pct=100)
                mean = law_ms(Tenant(model=model)) * (1 + 0.0002 * index) * rng.gauss(1, 0.006)
                found.append(
                    measurement(
                        (tenant_measurement(tenant, mean),),
                        at_s=9.0 * index + 4,
                        repeat=index // 12 + 1,
                        baseline=True,
                    )
                )
    return found


GIB = 1024
SIZES = ((8, 16, True), (6, 12, False), (4, 8, False), (3, 6, False), (2, 4, False), (1, 2, False))
"""Cores, GiB and GPU of the containers of AC-Prof's tutorial."""


def container_measurements(
    model: str = "fcn_resnet50", scales: int = 20, seed: int = 4
) -> list[Measurement]:
    """A sweep of input scale over sizes of container, with all that monitors may tell."""
    rng = random.Random(seed)
    found = []
    for number, (cores, gib, gpu) in enumerate(SIZES):
        for step in range(scales):
            scale = round(0.1 + step * 1.9 / max(1, scales - 1), 2)
            tenant = Tenant(
                model=model, input_scale=scale, cpu_cores=cores, memory_mib=gib * GIB, gpu=gpu
            )
            mean_ms = (12 + 40 * scale**2) if gpu else (40 + 2600 * scale**2) / cores**0.8
            at_s = 30.0 * len(found)
            if cores == 1 and scale > 1.7:
                one = tenant_measurement(tenant, 0, status="oom", detail="over its 2048 MiB")
                found.append(measurement((one,), at_s=at_s, conditions=CONTAINERS))
                continue
            one = _watched(tenant, mean_ms * rng.gauss(1, 0.02), pulled=number == step == 0)
            lost = step == 3 and number < 3
            reports = (
                MonitorReport(name="client", complete=True),
                MonitorReport(name="container", complete=True),
                MonitorReport(
                    name="sniffer",
                    complete=not lost,
                    notes=("the kernel dropped 3 packets",) if lost else (),
                ),
            )
            watts = 180.0 + 40 * scale if gpu else 58.0
            each_j = watts * mean_ms / 1000
            found.append(
                measurement((one,), at_s=at_s, conditions=CONTAINERS).model_copy(
                    update={
                        "monitors": reports,
                        "power": _power(watts, each_j) if gpu else None,
                        "host_power": HostPower(
                            energy_j={
                                "package-0": 400 * (20 + 9 * cores) * mean_ms / 1000,
                                "dram": 5.0,
                            },
                            power_mean_w={"package-0": 20.0 + 9 * cores, "dram": 2.0},
                        ),
                    }
                )
            )
    too_large = Tenant(model=model, cpu_cores=16, memory_mib=64 * GIB, gpu=False)
    reason = "it asks for 16 cores, the host has 8"
    left_out = tenant_measurement(too_large, 0, status="skipped", detail=reason)
    found.append(measurement((left_out,), conditions=CONTAINERS))
    return found


CONTAINERS = CONDITIONS.model_copy(
    update={"runtime": "docker", "engine": "Docker 27.5", "share_mechanism": "cfs-quota"}
)


def _watched(tenant: Tenant, mean_ms: float, *, pulled: bool) -> TenantMeasurement:
    """A tenant of a container with all that monitors may tell of it."""
    cores = tenant.cpu_cores or 1.0
    packets = summary(0.96 * mean_ms)
    return tenant_measurement(tenant, mean_ms).model_copy(
        update={
            "container": ContainerUsage(
                source="cgroup v2",
                samples=80,
                cpu_mean_cores=0.9 * cores,
                cpu_peak_cores=0.99 * cores,
                interval_s=0.1,
                throttled_pct=12.5,
                memory_peak_mib=700 + 900 * tenant.input_scale,
                memory_working_peak_mib=600 + 880 * tenant.input_scale,
                read_bytes=4096,
                written_bytes=0,
            ),
            "network": NetworkTimes(
                interface="docker0",
                requests=400,
                paired=399 if tenant.input_scale == 0.4 else 400,
                unpaired=1 if tenant.input_scale == 0.4 else 0,
                server=summary(0.9 * mean_ms),
                total=packets,
                up_ms=0.05 * mean_ms,
                down_ms=0.01 * mean_ms,
                request_bytes=602112.0,
                response_bytes=50176.0,
                packets=9000,
                dropped_packets=3 if tenant.input_scale == 0.4 else 0,
            ),
            "energy": TenantEnergy(
                energy_j=400 * mean_ms, per_inference_j=0.2 * mean_ms, method="alone"
            )
            if tenant.gpu
            else None,
            "cold_start": ColdStart(
                pull_s=9.4 if pulled else None,
                pull_bytes=1_200_000_000 if pulled else None,
                create_s=0.12,
                start_s=0.31,
                serve_s=1.1 + 2 / cores,
                load_s=0.8 + 1.5 / cores,
                ready_s=2.3 + 3.5 / cores,
                first_ms=3 * mean_ms,
                steady_ms=mean_ms,
                steady_after=4,
            ),
            "image": ImageInfo(
                name="fcn:1",
                id="sha256:" + "0" * 64,
                disk_bytes=3_000_000_000,
                compressed_bytes=1_200_000_000,
                layers=11,
            ),
            "weight_bytes": 141_000_000,
        }
    )


def _power(watts: float, each_j: float) -> DevicePower:
    return DevicePower(
        uuid="GPU-0",
        name="NVIDIA A10",
        samples=160,
        interval_ms=50,
        power_mean_w=watts,
        power_peak_w=1.1 * watts,
        power_field="instant",
        power_limit_w=250.0,
        energy_counter_j=400 * each_j,
        energy_integral_j=430 * each_j,
        energy_differs=True,
        bare_idle_w=22.0,
        context_idle_w=61.0,
        per_inference_j=each_j,
        sm_clock_mean_mhz=1500.0,
        temperature_peak_c=64.0,
        utilisation_mean_pct=88.0,
        throttle_reasons={"sw_power_cap": 12.0},
    )


def write_profile(path: Path, found: list[Measurement]) -> Path:
    """Store measurements as a real profile folder."""
    manifest = ProfileManifest(sweep=None, device=DEVICE, created_at=CREATED, igprof="0.1.0")
    with ProfileStore.create(path, manifest) as store:
        for one in found:
            store.append(one, [np.empty(0, REQUEST_DTYPE) for _ in one.tenants])
    return path


def coefficients(found: list[Measurement], seed: int = 2) -> Coefficients:
    """Coefficients whose residuals are those of the made-up law, with noise."""
    rng = random.Random(seed)
    residuals = []
    for one in found:
        holdout = rng.random() < 0.2
        for index, result in enumerate(one.tenants):
            if result.latency is None:
                continue
            residuals.append(
                {
                    "cell_id": one.cell_id,
                    "model": result.tenant.model,
                    "batch_size": result.tenant.batch_size,
                    "share_pct": result.tenant.share_pct,
                    "neighbours": [t.tenant.model for i, t in enumerate(one.tenants) if i != index],
                    "measured_ms": result.latency.mean_ms,
                    "predicted_ms": result.latency.mean_ms
                    * rng.gauss(1.01, 0.07 if holdout else 0.045),
                    "low_ms": result.latency.mean_ms * 0.9,
                    "high_ms": result.latency.mean_ms * 1.12,
                    "holdout": holdout,
                }
            )

    def error(scale: float) -> FitError:
        return FitError(
            cells=40,
            mean_pct=4.1 * scale,
            median_pct=3.0 * scale,
            p90_pct=8.8 * scale,
            p99_pct=14.0 * scale,
            r2=0.98 / scale,
        )

    models = sorted({r.tenant.model for one in found for r in one.tenants})
    return Coefficients(
        model="igniter",
        device=DEVICE,
        profile_hash="ab" * 32,
        igprof="0.1.0",
        created_at=CREATED,
        shared={"k_sched": Parameter(value=0.0123, std_error=0.002)},
        models={
            model: {
                "k1": Parameter(value=0.021, std_error=0.004),
                "k2": Parameter(value=5.31, std_error=0.11),
                "k3": Parameter(value=1.2, std_error=0.3),
                "k4": Parameter(value=0.08, std_error=0.01),
                "alpha": Parameter(value=0.22),
            }
            for model in models
        },
        report=FitReport(
            train=error(0.8),
            holdout=error(1.0),
            holdout_none=error(4.2),
            by_group={"solo": error(0.7), "pairs": error(1.2)},
            residuals=tuple(residuals),
            cross_validated={
                "points": error(1.0),
                "co-located points": error(1.1),
                "pairs": error(1.6),
                "models": error(2.2),
            },
            learning_curve=tuple(
                LearningPoint(cells=n, fraction_pct=n * 2.5, error=error(3 / n**0.3))
                for n in (4, 10, 20, 30, 40)
            ),
            intervals={
                "all": IntervalCheck(tenants=120, coverage_pct=90.8, half_width_pct=7.2),
                "co-located": IntervalCheck(tenants=60, coverage_pct=91.7, half_width_pct=8.4),
            },
        ),
    )


def plan_tenant(
    workload: str, model: str, batch_size: int, share_pct: float, rate_rps: float, slo_ms: float,
    used: float,
) -> PlanTenant:  # fmt: skip
    """A tenant whose predicted p99 is ``used`` of its SLO."""
    return PlanTenant(
        workload=workload,
        model=model,
        batch_size=batch_size,
        share_pct=share_pct,
        rate_rps=rate_rps,
        slo_ms=slo_ms,
        queue_delay_us=500,
        predicted=PredictedTenant(
            latency_ms=slo_ms * used * 0.5,
            latency_low_ms=slo_ms * used * 0.45,
            latency_high_ms=slo_ms * used * 0.55,
            throughput_rps=rate_rps * 1.4,
            utilisation=1 / 1.4,
            p50_ms=slo_ms * used * 0.55,
            p95_ms=slo_ms * used * 0.85,
            p99_ms=slo_ms * used,
            slo_percentile_ms=slo_ms * used,
            slo_percentile_low_ms=slo_ms * used * 0.9,
            slo_percentile_high_ms=slo_ms * used * 1.12,
        ),
    )


def plan(names: dict[str, str] | None = None) -> Plan:
    """Six workloads on two devices."""

    def named(*arguments: object) -> PlanTenant:
        workload, model, *rest = arguments
        return plan_tenant(workload, (names or {}).get(str(model), model), *rest)  # type: ignore[arg-type]

    return Plan(
        strategy="exact",
        device_types=(
            PlanDeviceType(
                name="xeon", device=DEVICE, coefficients_hash="cd" * 32, share_step_pct=5
            ),
        ),
        igprof="0.1.0",
        created_at=CREATED,
        latency_rule="percentile",
        cost=2,
        bound=2,
        optimal=True,
        solve_s=0.42,
        devices=(
            PlanDevice(
                name="device-1",
                tenants=(
                    named("search-embeddings", "mlp", 8, 10, 900, 8, 0.7),
                    named("photos", "mobilenet_v2", 4, 35, 40, 120, 0.86),
                    named("moderation", "resnet50", 2, 50, 6, 900, 0.93),
                ),
            ),
            PlanDevice(
                name="device-2",
                tenants=(
                    named("tiny", "mlp", 1, 5, 50, 20, 0.35),
                    named("cameras", "ssd", 1, 45, 1.2, 1500, 0.97),
                    named("thumbnails", "mobilenet_v2", 1, 25, 20, 80, 0.52),
                ),
            ),
        ),
        notes=("The client of 'moderation' sends no batches.",),
    )


def result(of: Plan, seed: int = 3) -> Result:
    """An evaluation of a plan, in which the largest SLO is violated and one server died."""
    rng = random.Random(seed)
    workloads = []
    tenants = [(device.name, tenant) for device in of.devices for tenant in device.tenants]
    largest = max(tenant.slo_ms for _, tenant in tenants)
    for device, tenant in tenants:
        dead = tenant.workload == "tiny"
        assert tenant.predicted is not None
        p99 = (tenant.predicted.p99_ms or 0) * rng.gauss(1, 0.05)
        if tenant.slo_ms == largest:
            p99 = tenant.slo_ms * 1.22
        met = p99 <= tenant.slo_ms
        bad_pct = 0.4 if met else 3.7
        workloads.append(
            WorkloadResult(
                workload=tenant.workload,
                model=tenant.model,
                device=device,
                batch_size=tenant.batch_size,
                share_pct=tenant.share_pct,
                rate_rps=tenant.rate_rps,
                slo_ms=tenant.slo_ms,
                percentile=tenant.percentile,
                status="crashed" if dead else "ok",
                detail="the server ended with signal 9" if dead else None,
                requests=1800,
                failed_requests=1800 if dead else 0,
                latency=None if dead else summary(p99 / 1.35, count=1800),
                throughput_rps=None if dead else tenant.rate_rps * 0.997,
                goodput_rps=None if dead else tenant.rate_rps * (1 - bad_pct / 100),
                violations_pct=100.0 if dead else bad_pct,
                lagged_pct=0.1,
                slo_met=None if dead else met,
                predicted=tenant.predicted,
            )
        )
    return Result(
        plan_hash=of.digest(),
        igprof="0.1.0",
        created_at=CREATED,
        duration_s=30,
        seed=0,
        conditions=CONDITIONS,
        workloads=tuple(workloads),
        slo_met=False,
    )


def write_all(folder: Path, names: dict[str, str] | None = None) -> list[Path]:
    """All four kinds of input on disk; returns their paths."""
    found = measurements(names)
    profile = write_profile(folder / "profile", found)
    paths = [folder / name for name in ("coefficients.json", "plan.json", "result.json")]
    made = plan(names)
    for path, record in zip(paths, (coefficients(found), made, result(made)), strict=True):
        write_json(path, record)
    return [profile, *paths]
