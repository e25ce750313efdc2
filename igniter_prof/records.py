"""The frozen, typed records that flow between the stages.

Validation and JSON Schemas derive from them (pydantic). Units stand in the field names; None means
"not there" or "not known", never zero. Time stamps are nanoseconds of the host's monotonic clock.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

SCHEMA_VERSION: Final = 1
"""Version of every public file format. History: 1 (first)."""

Status = Literal["ok", "oom", "crashed", "timeout", "refused", "skipped", "invalid"]
LoadKind = Literal["closed", "constant", "poisson", "bursty", "trace"]
Protocol = Literal["http", "grpc"]
ServerMode = Literal["own", "shared"]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
BatchSize = Annotated[int, Field(ge=1, le=1024, description="inferences that a request carries")]
SharePct = Annotated[float, Field(gt=0, le=100, description="in percent of the device")]
Instances = Annotated[int, Field(ge=1, le=64)]
InputScale = Annotated[float, Field(ge=0.1, le=2.0)]
ModelName = Annotated[
    str,
    # it becomes the name of a folder: a file from elsewhere must not lead out of ours
    Field(pattern=r"^[^-./\\\x00-\x1f][^/\\\x00-\x1f]*$", max_length=200),
]

WARMUP, MEASURED, AFTER = 0, 1, 2
"""Phases of a request: before, in, and after the counted window of its cell."""

REQUEST_DTYPE = np.dtype(
    [
        ("intended_ns", "<i8"),  # when the schedule wanted it sent (closed loop: when it was sent)
        ("sent_ns", "<i8"),
        ("done_ns", "<i8"),
        ("phase", "u1"),  # WARMUP, MEASURED or AFTER
        ("ok", "u1"),  # 1 if the server answered with success
    ]
)
"""One row a request: the raw latencies of a tenant, as stored in a profile."""


class Record(BaseModel):
    """A frozen record without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def digest(self) -> str:
        """SHA-256 of the record's canonical JSON, as hexadecimal."""
        return digest_of(self.model_dump(mode="json"))


def digest_of(document: Any) -> str:
    """SHA-256 of a JSON document in canonical form (sorted keys, no blanks), as hexadecimal."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


# --- what is measured ------------------------------------------------------------------------


class Device(Record):
    """One GPU, one MIG slice, or a set of CPU cores of a host."""

    id: str = Field(description="cpu:<cores> or cuda:<UUID>")
    kind: Literal["cpu", "cuda"]
    name: str = Field(description="model name of the CPU or the board")
    cores: tuple[int, ...] = Field(default=(), description="CPU cores of the device, kind cpu")
    memory_mib: float | None = None

    @property
    def elsewhere(self) -> str | None:
        """The other host that it is on (``cpu:0-3@host``, ``remote:address``); None: this one."""
        kind, _, rest = self.id.partition(":")
        address = rest if kind == "remote" else self.id.partition("@")[2]
        try:
            host = urlsplit(f"//{address.rpartition('://')[2]}").hostname or ""
        except ValueError:  # no address at all: who connects to it says so
            host = address
        here = host in ("", "localhost", "::1") or host.startswith("127.")
        return None if here else host


class Load(Record):
    """Who sends requests to one tenant, and when."""

    kind: LoadKind = "closed"
    concurrency: int = Field(default=1, ge=1, le=1024, description="requests in flight (closed)")
    rate_rps: float | None = Field(default=None, gt=0, description="requests per second (open)")
    burstiness: Positive | None = Field(
        default=None, description="squared coefficient of variation of the gaps (bursty)"
    )
    trace_s: tuple[Finite, ...] | None = Field(default=None, description="send instants (trace)")

    @model_validator(mode="after")
    def _complete(self) -> Load:
        rated = self.kind in ("constant", "poisson", "bursty")
        if rated and self.rate_rps is None:
            raise ValueError(f"a {self.kind} load needs rate_rps")
        if (self.kind == "bursty") != (self.burstiness is not None):
            raise ValueError("a bursty load needs burstiness, and no other load has it")
        if self.kind == "trace" and not self.trace_s:
            raise ValueError("a trace load needs trace_s, the send instants in seconds")
        if not rated and self.rate_rps is not None:
            raise ValueError(f"a {self.kind} load has no rate_rps; open loops at a rate have")
        if self.kind != "closed" and self.concurrency != 1:
            raise ValueError(f"a {self.kind} load has no concurrency; closed has")
        return self


class Tenant(Record):
    """One model served on a device with a batch size, instances, a share and caps."""

    model: ModelName
    batch_size: int = Field(default=1, ge=1, le=1024)
    share_pct: float | None = Field(
        default=None, gt=0, le=100, description="share of the device; null: no own share"
    )
    instances: int = Field(default=1, ge=1, le=64)
    input_scale: float = Field(default=1.0, ge=0.1, le=2.0)
    cpu_cores: Positive | None = Field(default=None, description="CPU cap, in cores")
    memory_mib: Positive | None = Field(default=None, description="memory cap")
    queue_delay_us: int | None = Field(
        default=None,
        ge=0,
        description="dynamic batching up to batch_size with this delay; None: no dynamic batching,"
        " requests carry whole batches",
    )
    gpu: bool | None = Field(
        default=None, description="whether it is given the GPU; None: if the device is one"
    )
    input_size: Positive | None = Field(
        default=None, description="size of an input that is no scale of a native one"
    )
    input_unit: str | None = Field(default=None, description="of input_size: tokens, pixels, ...")

    @property
    def label(self) -> str:
        """The tenant in a few characters, such as ``vgg19 b4 50%``."""
        parts = [self.model, f"b{self.batch_size}"]
        if self.share_pct is not None:
            parts.append(f"{self.share_pct:g}%")
        if self.instances != 1:
            parts.append(f"{self.instances} instances")
        if self.input_scale != 1:
            parts.append(f"scale {self.input_scale:g}")
        if self.cpu_cores is not None:
            parts.append(f"{self.cpu_cores:g} cores")
        if self.memory_mib is not None:
            parts.append(f"{self.memory_mib:g} MiB")
        if self.queue_delay_us is not None:
            parts.append(f"delay {self.queue_delay_us} us")
        if self.gpu is not None:
            parts.append("GPU" if self.gpu else "no GPU")
        if self.input_size is not None:
            parts.append(f"{self.input_size:g} {self.input_unit or 'size'}")
        return " ".join(parts)


class Cell(Record):
    """One point of a sweep: a device, its tenants, their load."""

    device: str = Field(description="id of the device")
    tenants: tuple[Tenant, ...] = Field(min_length=1)
    load: Load = Load()
    server: ServerMode = "own"
    protocol: Protocol = "http"
    repeat: int = Field(default=0, ge=0, description="0 for the first measurement of this point")
    baseline: bool = Field(default=False, description="a solo cell repeated to watch for drift")

    @property
    def cell_id(self) -> str:
        """A stable name: the first 16 digits of the digest of what is not left to its default.

        So a field that a later version adds changes no name.
        """
        return digest_of(self.model_dump(mode="json", exclude_defaults=True))[:16]

    @property
    def label(self) -> str:
        """The cell's tenants in one line, such as ``resnet50 b4 50% + mlp b1 25%``."""
        return labels(self.tenants)


def labels(tenants: Iterable[Tenant]) -> str:
    """The labels of some tenants, joined by `` + ``; empty for none."""
    return " + ".join(tenant.label for tenant in tenants)


class HttpInput(Record):
    """An input of an HTTP model server's requests, made anew for any scale."""

    shape: tuple[int, ...] = Field(description="at scale 1, with the batch where there is one")
    datatype: Literal["FP32", "FP64", "INT32", "INT64", "UINT8", "TEXT"] = Field(
        default="FP32", description="TEXT: random words, as many as the last axis is long"
    )
    scaled_axes: tuple[int, ...] = Field(default=(), description="that the input scale applies to")
    least: int = Field(default=1, ge=1, description="shortest length of a scaled axis")
    low: Finite = Field(default=0.0, description="random values are from here")
    high: Finite = Field(default=1.0, description="to here; integers included")
    normalise: Literal["imagenet"] | None = Field(
        default=None, description="of an image with channels first: less the mean, over the spread"
    )


class HttpSuccess(Record):
    """What tells a good answer."""

    status: tuple[int, ...] = (200,)
    json_field: str | None = Field(default=None, description="that the answer must have")


class HttpServer(Record):
    """A model server that is no Triton: how it is started, asked, and judged."""

    image: str | None = Field(default=None, description="container image (docker)")
    port: int = Field(default=8080, ge=1, le=65535, description="inside its container")
    address: str | None = Field(
        default=None, description="host:port where it runs already (remote); None: the sweep's"
    )
    ready_path: str | None = Field(
        default=None, description="answers 2xx once it is ready; None: it accepts connections"
    )
    path: str = Field(default="/predict", pattern=r"^/[^\s]*$", description="of an inference")
    method: Literal["POST", "PUT"] = "POST"
    headers: dict[str, str] = {}
    inputs: dict[str, HttpInput] = {}
    body: Any = Field(
        default=None,
        description="JSON with ${name} for an input as nested lists, ${name.size} for the lengths"
        " of its scaled axes, ${name.native_size} for these at scale 1, and ${name.png},"
        " ${name.jpeg}, ${name.raw} in base64; or one of these three as the whole body, in bytes;"
        " None: an empty body",
    )
    success: HttpSuccess = HttpSuccess()
    fresh_connection: bool = Field(default=False, description="a new connection each request")
    weights: str | None = Field(
        default=None, description="file or folder of the weights inside the image, to tell its size"
    )
    environment: dict[str, str] = Field(
        default={}, description="of the server; ${threads} is the number of its cores"
    )


class ImageInfo(Record):
    """The container image that a tenant ran from."""

    name: str
    id: str = Field(description="digest of the image's configuration, sha256:...")
    registry_digest: str | None = Field(default=None, description="where it was pulled from")
    disk_bytes: int | None = None
    compressed_bytes: int | None = Field(default=None, description="to be downloaded")
    layers: int | None = None


class ColdStart(Record):
    """From nothing to steady answers, phase by phase; None: did not happen, or is not known."""

    pull_s: float | None = Field(default=None, description="the image's download")
    pull_bytes: int | None = None
    create_s: float | None = Field(default=None, description="making the container")
    start_s: float | None = Field(default=None, description="until its process ran")
    serve_s: float | None = Field(default=None, description="until the server answered at all")
    load_s: float | None = Field(default=None, description="until the model was loaded and ready")
    ready_s: float | None = Field(default=None, description="all of these but the pull")
    first_ms: float | None = Field(default=None, description="latency of the first inference")
    steady_ms: float | None = Field(default=None, description="median latency in the window")
    steady_after: int | None = Field(
        default=None, description="inferences until one was within 10% of steady_ms"
    )


class Endpoint(Record):
    """A tenant that runs."""

    tenant: Tenant
    model_name: str = Field(description="the model's name on its server")
    http_address: str | None = Field(default=None, description="host:port")
    grpc_address: str | None = Field(default=None, description="host:port")
    metrics_address: str | None = Field(default=None, description="host:port")
    http: HttpServer | None = Field(default=None, description="None: it is a Triton")
    tls: bool = False
    host: str = Field(default="localhost", description="the machine that the server runs on")
    pid: int | None = None
    container_id: str | None = None
    cgroup: str | None = Field(default=None, description="name of the tenant's control group")
    interface: str | None = Field(default=None, description="network interface to its requests")
    threads: int | None = Field(default=None, description="threads of the framework's pool")
    model_hash: str | None = None
    config_hash: str | None = None
    ready_s: float | None = Field(default=None, description="from process start to model ready")
    cold_start: ColdStart | None = None
    image: ImageInfo | None = None
    weight_bytes: int | None = Field(default=None, description="of the model's weights")
    sm_count: int | None = Field(default=None, description="SMs of the GPU that it sees")


class Usage(Record):
    """What a tenant's server has used so far: cumulative counters and peaks."""

    cpu_s: float | None = None
    periods: int | None = Field(default=None, description="CPU quota periods that passed")
    throttled_periods: int | None = None
    throttled_s: float | None = None
    memory_peak_mib: float | None = Field(
        default=None, description="since its start, page cache included"
    )
    oom_kills: int | None = None
    memory_mib: float | None = Field(default=None, description="now, page cache included")
    memory_working_mib: float | None = Field(default=None, description="now, without page cache")
    read_bytes: int | None = Field(default=None, description="from block devices")
    written_bytes: int | None = Field(default=None, description="to block devices")


class ServerTimes(Record):
    """Triton's own statistics over the counted window; times are means of a request."""

    queue_ms: float
    compute_input_ms: float
    compute_infer_ms: float
    compute_output_ms: float
    executed_batch: float = Field(description="inference count over execution count")
    inferences: int
    executions: int


class Quantile(Record):
    """A percentile with its 95% interval (order statistics); the interval may be unknown."""

    value_ms: float
    low_ms: float | None = None
    high_ms: float | None = None


class LatencySummary(Record):
    """Statistics derived from raw latencies. A percentile with too few samples is None.

    So is, in an imported profile, what its files do not tell; the mean is always known.
    """

    count: int | None
    mean_ms: float
    std_ms: float | None
    mean_ci_ms: float | None = Field(description="half-width of the mean's 95% interval")
    min_ms: float | None
    max_ms: float | None
    p50: Quantile | None = None
    p95: Quantile | None = None
    p99: Quantile | None = None


class NetworkTimes(Record):
    """What the packet sniffer saw of one tenant's requests in the window; kernel time stamps.

    None of it is client latency: waiting and work in the client is not in it.
    """

    interface: str
    requests: int = Field(description="whose first byte was seen in the window")
    paired: int = Field(description="of these, with their whole response")
    unpaired: int
    server: LatencySummary | None = Field(
        default=None, description="last byte of the request to first byte of the response"
    )
    total: LatencySummary | None = Field(
        default=None, description="first byte of the request to last byte of the response"
    )
    up_ms: float | None = Field(default=None, description="transfer of the request, mean")
    down_ms: float | None = Field(default=None, description="transfer of the response, mean")
    request_bytes: float | None = Field(default=None, description="of a request, mean")
    response_bytes: float | None = Field(default=None, description="of a response, mean")
    packets: int = 0
    dropped_packets: int | None = Field(default=None, description="by the kernel, all tenants'")
    retransmitted_packets: int = 0
    merged_packets: int = Field(default=0, description="longer than the MTU (GSO, GRO)")


class ContainerUsage(Record):
    """What a tenant's server used in the window, sampled from its control group or the engine."""

    source: str = Field(description="cgroup v1, cgroup v2, or engine API")
    samples: int
    cpu_mean_cores: float | None = None
    cpu_peak_cores: float | None = Field(default=None, description="in the busiest interval")
    interval_s: float | None = Field(default=None, description="typical interval of samples")
    throttled_pct: float | None = Field(default=None, description="of the CPU quota's periods")
    memory_peak_mib: float | None = Field(
        default=None, description="in the window, page cache included"
    )
    memory_working_peak_mib: float | None = Field(
        default=None, description="in the window, without page cache"
    )
    read_bytes: int | None = None
    written_bytes: int | None = None


class TritonMetrics(Record):
    """What Triton's metrics endpoint told during the window, of one tenant's model."""

    samples: int
    pending_mean: float | None = Field(default=None, description="requests in the queue")
    pending_peak: float | None = None
    requests_ok: int | None = None
    requests_failed: int | None = None
    values: dict[str, float] = Field(
        default={}, description="other metrics at the end of the window, by name and labels"
    )


class TenantEnergy(Record):
    """An estimate of one tenant's part of the device's energy; the parts sum to the whole."""

    energy_j: float
    per_inference_j: float | None = None
    method: str = Field(description="how the device's energy was split")


class GpuCounters(Record):
    """What a GPU's profiler (Nsight) read of one tenant; None: not read. Times are of a batch."""

    gpu_ms: float | None = Field(default=None, description="kernels and the gaps between them")
    active_ms: float | None = Field(default=None, description="kernels alone")
    idle_ms: float | None = Field(default=None, description="gaps between kernels")
    kernels: int | None = Field(default=None, description="kernels that a batch launches")
    l2_util_pct: float | None = Field(default=None, description="utilisation of the L2 cache")
    dram_util_pct: float | None = Field(default=None, description="utilisation of the memory bus")
    input_bytes: float | None = Field(default=None, description="to the GPU, of an inference")
    output_bytes: float | None = Field(default=None, description="from the GPU, of an inference")


class DevicePower(Record):
    """Power, energy and state of one GPU in the window. None: the device does not tell."""

    uuid: str
    name: str | None = None
    scope: Literal["gpu", "mig-parent"] = Field(
        default="gpu", description="mig-parent: of the whole card, of which the device is a slice"
    )
    source: str = Field(default="nvml", description="nvml, or replay:<file>")
    samples: int = 0
    interval_ms: float | None = Field(default=None, description="typical interval of samples")
    power_mean_w: float | None = None
    power_peak_w: float | None = None
    power_field: str | None = Field(
        default=None, description="instant or average field that the power was read from"
    )
    power_average_mean_w: float | None = Field(
        default=None, description="mean of the driver's averaged field"
    )
    part_time_sensor: bool | None = Field(
        default=None,
        description="the power sensor looks at a part of the time only (A100, H100); null: not"
        " known",
    )
    power_limit_w: float | None = None
    energy_counter_j: float | None = Field(default=None, description="by the energy counter")
    energy_integral_j: float | None = Field(default=None, description="by integrating the power")
    energy_differs: bool | None = Field(default=None, description="by more than 5%")
    energy_error_j: float | None = Field(
        default=None,
        description="of the counter, else of the integral: window ends and the sensor's sampling,"
        " not its calibration",
    )
    counter_period_ms: float | None = Field(default=None, description="inferred update period")
    power_period_ms: float | None = Field(default=None, description="inferred update period")
    bare_idle_w: float | None = Field(default=None, description="before any tenant ran")
    context_idle_w: float | None = Field(default=None, description="tenants ready, no load")
    per_inference_j: float | None = Field(
        default=None, description="gross energy of an inference, all tenants; 5 s windows or more"
    )
    sm_clock_mean_mhz: float | None = None
    memory_clock_mean_mhz: float | None = None
    temperature_mean_c: float | None = None
    temperature_peak_c: float | None = None
    utilisation_mean_pct: float | None = Field(default=None, description="time with a kernel")
    memory_utilisation_mean_pct: float | None = None
    memory_mean_mib: float | None = None
    memory_peak_mib: float | None = None
    throttle_reasons: dict[str, float] = Field(
        default={}, description="share of the samples with that reason, percent"
    )


class HostPower(Record):
    """Energy of the host's processor packages in the window (RAPL, powercap)."""

    energy_j: dict[str, float] = Field(description="by domain, such as package-0 and dram")
    power_mean_w: dict[str, float]


class MonitorReport(Record):
    """Whether one monitor saw all that it should have."""

    name: str
    complete: bool = Field(description="False: it lost something, or could not run")
    notes: tuple[str, ...] = ()


class TenantMeasurement(Record):
    """What came out of one tenant of a cell."""

    tenant: Tenant
    status: Status
    detail: str | None = Field(default=None, description="why it is not ok")
    stable: bool | None = None
    verdict: str | None = Field(default=None, description="why it is (not) stable")
    latency: LatencySummary | None = Field(default=None, description="from send to end")
    latency_intended: LatencySummary | None = Field(
        default=None, description="from the intended send instant to end (open loops)"
    )
    throughput_rps: float | None = Field(
        default=None, description="inferences per second; a batch of b counts b"
    )
    failed_requests: int = 0
    lagged_pct: float | None = Field(
        default=None, description="share of requests that the client sent over 1 ms late"
    )
    server_times: ServerTimes | None = None
    usage: Usage | None = Field(default=None, description="over the counted window; peaks overall")
    client_cpu_pct: float | None = Field(default=None, description="of one core, of the client")
    input_shapes: dict[str, tuple[int, ...]] = {}
    threads: int | None = None
    model_hash: str | None = None
    config_hash: str | None = None
    ready_s: float | None = None
    network: NetworkTimes | None = Field(default=None, description="by the monitor sniffer")
    container: ContainerUsage | None = Field(default=None, description="by the monitor container")
    metrics: TritonMetrics | None = Field(default=None, description="by the monitor triton")
    energy: TenantEnergy | None = Field(default=None, description="by the monitor nvml")
    counters: GpuCounters | None = Field(default=None, description="imported, never by igprof")
    cold_start: ColdStart | None = None
    image: ImageInfo | None = None
    weight_bytes: int | None = Field(default=None, description="of the model's weights")
    sm_count: int | None = Field(default=None, description="SMs of the GPU that it saw")
    extra: dict[str, Any] = Field(default={}, description="of other monitors, by their name")


class Conditions(Record):
    """The conditions of a cell; measurements may only be mixed where those that matter agree."""

    igprof: str
    runtime: str = Field(description="local, docker, remote, or import:<format>")
    share_mechanism: str | None = Field(default=None, description="cfs-quota, mps, mig, ...")
    share_period_us: int | None = None
    share_step_pct: float | None = Field(default=None, description="granularity of shares")
    triton: str | None = None
    framework: str | None = Field(default=None, description="onnxruntime 1.23.0, ...")
    engine: str | None = Field(default=None, description="container engine and version")
    image: str | None = Field(
        default=None, description="id of Triton's container image; other servers' are the tenants'"
    )
    driver: str | None = None
    cuda: str | None = None
    cudnn: str | None = None
    os: str | None = None
    kernel: str | None = None
    cpu_model: str | None = None
    cpu_count: int | None = None
    client_cores: tuple[int, ...] = ()
    client_apart: bool | None = Field(
        default=None, description="client and monitors ran on cores that are not the device's"
    )
    python: str | None = None


CONDITIONS_THAT_MUST_AGREE = (
    "runtime",
    "share_mechanism",
    "share_period_us",
    "triton",
    "framework",
    "image",
    "driver",
    "cuda",
    "cudnn",
    "cpu_model",
    "cpu_count",
    "client_apart",
)
"""Fields of Conditions in which the cells of one profile may not differ."""


class Measurement(Record):
    """What came out of one cell."""

    schema_version: Literal[1] = SCHEMA_VERSION
    cell_id: str
    cell: Cell
    tenants: tuple[TenantMeasurement, ...]
    conditions: Conditions
    started_at: str = Field(description="wall clock, ISO 8601, UTC")
    anchor_monotonic_ns: int = Field(description="monotonic clock at started_at")
    anchor_wall_ns: int = Field(description="wall clock at started_at, ns since 1970")
    boot_id: str | None = None
    window_start_ns: int | None = None
    window_end_ns: int | None = None
    duration_s: float = Field(description="of the whole cell, start to cool-down")
    cooldown: str | None = Field(default=None, description="how the cool-down ended")
    power_w: float | None = Field(default=None, description="mean power of the device")
    energy_j: float | None = Field(default=None, description="of the device over the window")
    power: DevicePower | None = Field(default=None, description="by the monitor nvml")
    host_power: HostPower | None = Field(default=None, description="by the monitor rapl")
    monitors: tuple[MonitorReport, ...] = Field(default=(), description="those that ran")
    extra: dict[str, Any] = Field(default={}, description="of other monitors, by their name")


# --- a sweep ---------------------------------------------------------------------------------


class SweepModel(Record):
    """One model of a sweep, and what differs from the sweep's own dimensions."""

    name: ModelName
    batch_sizes: tuple[BatchSize, ...] | None = None
    shares: tuple[SharePct, ...] | None = None
    instances: tuple[Instances, ...] | None = None
    input_scales: tuple[InputScale, ...] | None = None
    shapes: dict[str, tuple[int, ...]] | None = Field(
        default=None, description="of inputs with dynamic dimensions, without the batch"
    )
    inputs: str | None = Field(default=None, description=".npz, perf_analyzer JSON, or images")
    http: HttpServer | None = Field(default=None, description="of a model server that is no Triton")


class ContainerSize(Record):
    """One size of container, where cores and memory go together."""

    cpu_cores: Positive | None = None
    memory_mib: Positive | None = None
    gpu: bool | None = None


class Stopping(Record):
    """When a cell has been measured well enough."""

    precision_pct: float = Field(default=2.0, gt=0, description="of the mean's 95% half-width")
    min_s: float = Field(default=1.0, ge=0)
    max_s: float = Field(default=30.0, gt=0)
    min_requests: int = Field(default=50, ge=10)
    max_requests: int = Field(default=1_000_000, ge=10)
    max_drift_pct: float = Field(
        default=5.0, gt=0, description="between the halves, if it is significant too"
    )
    warmup_requests: int = Field(default=5, ge=1)
    warmup_s: float = Field(default=0.5, ge=0)
    request_timeout_s: float = Field(default=60.0, gt=0)
    start_timeout_s: float = Field(default=120.0, gt=0)
    cooldown_s: float = Field(default=5.0, ge=0, description="longest wait for the machine to rest")


class Sweep(Record):
    """What ``igprof profile`` is asked to measure."""

    schema_version: Literal[1] = SCHEMA_VERSION
    device: str = "cpu"
    runtime: str = Field(default="local", description="local, docker, remote, or a plug-in's name")
    address: str | None = Field(default=None, description="of the server (remote)")
    models: tuple[SweepModel, ...] = Field(min_length=1)
    repository: str | None = Field(default=None, description="a Triton model repository")
    batch_sizes: tuple[BatchSize, ...] = (1,)
    shares: tuple[SharePct, ...] = (100.0,)
    instances: tuple[Instances, ...] = (1,)
    input_scales: tuple[InputScale, ...] = (1.0,)
    cpu_cores: tuple[Positive | None, ...] = (None,)
    memory_mib: tuple[Positive | None, ...] = (None,)
    gpu: tuple[bool | None, ...] = (None,)
    sizes: tuple[ContainerSize, ...] | None = Field(
        default=None, description="in the place of all combinations of cpu_cores, memory_mib, gpu"
    )
    colocate: Literal["none", "pairs", "triples"] | tuple[tuple[str, ...], ...] = "none"
    colocate_batch_sizes: tuple[BatchSize, ...] | None = Field(
        default=None, description="of co-located cells; None: batch_sizes"
    )
    colocate_shares: tuple[tuple[SharePct, ...], ...] | None = Field(
        default=None, description="share splits; None: all of shares that add up to 100 or less"
    )
    colocate_sample: int | None = Field(
        default=None, ge=1, description="that many co-located cells, drawn with the seed"
    )
    server: ServerMode = "own"
    image: str | None = Field(default=None, description="Triton's container image (docker)")
    share_mechanism: str | None = Field(
        default=None,
        description="cfs-quota, cpuset, mps, mig, green-context-mps, green-context, time-slicing;"
        " None: the usual one",
    )
    monitors: tuple[str, ...] = Field(
        default=("client", "container"), description="name or name:argument"
    )
    protocol: Protocol = "http"
    load: Load = Load()
    stopping: Stopping = Stopping()
    repeats: int = Field(default=1, ge=1)
    baseline_every: int = Field(
        default=10, ge=0, description="a solo baseline after that many cells; 0: none"
    )
    seed: int = Field(default=0, ge=0)


class IgniterHardware(Record):
    """The device in iGniter's lightweight profile; lists are for 1, 2, … co-located tenants."""

    idle_power_w: Finite
    power_limit_w: Positive
    max_clock_mhz: Positive
    bytes_per_ms: Positive = Field(description="of a transfer to or from the GPU")
    share_step_pct: Positive
    power_w: tuple[Finite, ...] = Field(min_length=5)
    clock_mhz: tuple[Positive, ...] = Field(min_length=5)
    kernel_idle_ms: tuple[Finite, ...] = Field(
        min_length=5, description="gap before a kernel; the first is of one tenant alone"
    )
    extra: dict[str, Any] = Field(default={}, description="what else its file says of the device")


Table3 = Annotated[
    tuple[Annotated[tuple[Finite, ...], Field(min_length=3, max_length=3)], ...],
    Field(min_length=3, max_length=3),
]


class IgniterModel(Record):
    """A model in iGniter's lightweight profile.

    Tables are for batch sizes 1, 16, 32 (rows) and shares of 10, 50, 100 % (columns); what ends
    in ``_1`` and ``_2`` is for one and two tenants of batch size 16 at 50 %.
    """

    kernels: Annotated[int, Field(ge=0)]
    input_bytes: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        description="of an inference"
    )
    output_bytes: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    gpu_ms: Table3 = Field(description="kernels and gaps of a batch")
    power_w: Table3
    clock_mhz: Table3
    l2_util_pct: Annotated[tuple[Finite, ...], Field(min_length=3, max_length=3)] = Field(
        description="on the tables' diagonal"
    )
    l2_util_1_pct: Positive
    idle_1_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    active_1_ms: Positive
    active_2_ms: Positive
    power_2_w: Finite
    clock_2_mhz: Positive
    extra: dict[str, Any] = Field(default={}, description="what else its file says of the model")


class IgniterProfile(Record):
    """iGniter's lightweight profile of a device (``igniter_config.jsonl``)."""

    hardware: IgniterHardware
    models: dict[ModelName, IgniterModel] = Field(min_length=1)


class ProfileManifest(Record):
    """``profile.json``: what a profile directory holds, and where it came from."""

    schema_version: Literal[1] = SCHEMA_VERSION
    sweep: Sweep | None = Field(description="None for an imported profile")
    device: Device
    created_at: str
    igprof: str
    source: str = Field(default="measured", description="measured, merged, or import:<format>")
    cells_hash: str | None = Field(
        default=None, description="SHA-256 of the ids of the planned cells; None: not known"
    )
    igniter: IgniterProfile | None = Field(
        default=None, description="iGniter's lightweight profile, where one was imported"
    )


# --- a fitted model --------------------------------------------------------------------------


class Parameter(Record):
    """A fitted parameter with its standard error (None: not identifiable, or fixed)."""

    value: Finite
    std_error: Finite | None = None


class FitError(Record):
    """Relative errors of predicted mean latency over some cells, in percent."""

    cells: int
    mean_pct: float | None = None
    median_pct: float | None = None
    p90_pct: float | None = None
    p99_pct: float | None = None
    r2: float | None = None


class LearningPoint(Record):
    """The error of a fit to a part of the co-located cells, on the same hold-out."""

    cells: int = Field(description="co-located cells that were fitted to")
    fraction_pct: float = Field(description="of those that are not held out")
    error: FitError = Field(description="of the co-located cells of the hold-out")


class IntervalCheck(Record):
    """Whether 90% intervals hold what is measured: each of a fit that had not seen the cell."""

    tenants: int
    coverage_pct: float | None = Field(default=None, description="of them inside")
    half_width_pct: float | None = Field(
        default=None, description="median of (high - low) / 2 over the prediction"
    )


class FitReport(Record):
    """How well a model fits: on what it was fitted to, on a hold-out, and a naive peer there."""

    train: FitError
    holdout: FitError
    holdout_none: FitError = Field(description="the naive predictor, same hold-out")
    naive: str = Field(default="no interference", description="what the naive predictor is")
    by_group: dict[str, FitError] = Field(
        default={}, description="hold-out errors by group: 'solo', 'pairs', a set of models"
    )
    train_by_group: dict[str, FitError] = Field(
        default={}, description="of what was fitted to, by group (model acprof)"
    )
    residuals: tuple[dict[str, Any], ...] = Field(
        default=(),
        description="one a tenant: cell_id, model, batch_size, share_pct, neighbours,"
        " measured_ms, predicted_ms, holdout, and low_ms, high_ms: the 90% interval",
    )
    cross_validated: dict[str, FitError] = Field(
        default={},
        description="errors of cells that the fit had not seen: 'points'; 'co-located points';"
        " 'pairs' (sets of models never measured together); 'models' (a model measured alone"
        " only); 'devices' (another device of the type)",
    )
    learning_curve: tuple[LearningPoint, ...] = ()
    power: FitError | None = Field(default=None, description="of the device, unseen cells")
    energy: FitError | None = Field(
        default=None, description="of the device's power times a batch's latency, unseen cells"
    )
    memory: FitError | None = Field(
        default=None, description="of the device (GPU) or of the tenants (CPU), unseen cells"
    )
    intervals: dict[str, IntervalCheck] = Field(
        default={}, description="'all', 'solo', 'co-located': of cross-validated points"
    )


class Coefficients(Record):
    """A fitted model's parameters, with their errors and the profile that they came from."""

    schema_version: Literal[1] = SCHEMA_VERSION
    model: str = Field(description="name of the latency model")
    device: Device
    profile_hash: str
    igprof: str
    created_at: str
    seed: int = 0
    shared: dict[str, Parameter] = Field(default={}, description="of the device")
    models: dict[str, dict[str, Parameter]] = Field(description="of each served model")
    region: dict[str, dict[str, tuple[Finite, Finite]]] = Field(
        default={}, description="what was profiled: model, quantity, lowest and highest"
    )
    extra: dict[str, Any] = Field(default={}, description="what the latency model needs besides")
    report: FitReport | None = None


class Prediction(Record):
    """What is predicted for one tenant of a cell."""

    latency_ms: float = Field(description="mean latency of a batch, alone in flight")
    latency_low_ms: float
    latency_high_ms: float
    throughput_rps: float = Field(description="inferences per second, pipelined")
    cv: float = Field(description="spread of single batches: standard deviation over mean")
    energy_j: float | None = Field(default=None, description="of an inference")
    energy_low_j: float | None = None
    energy_high_j: float | None = None
    power_w: float | None = Field(default=None, description="of the device, all tenants together")
    power_low_w: float | None = None
    power_high_w: float | None = None
    clock_mhz: float | None = Field(default=None, description="of the device's SMs")
    memory_mib: float | None = Field(default=None, description="of the device, this tenant's")


# --- a plan ----------------------------------------------------------------------------------


Arrival = Literal["constant", "poisson", "bursty"]


class Workload(Record):
    """A model, a request rate and a latency SLO, and what its placement must respect."""

    name: str
    model: str
    rate_rps: Positive = Field(description="requests for one inference each, per second")
    slo_ms: Positive
    percentile: float = Field(default=99.0, ge=0, lt=100)
    arrival: Arrival = "poisson"
    burstiness: Positive | None = Field(
        default=None,
        description="arrival bursty: squared coefficient of variation of the gaps between requests"
        " (constant 0, Poisson 1)",
    )
    count: int = Field(default=1, ge=1, le=100_000, description="that many alike")
    replicas: int = Field(
        default=1, ge=1, le=64, description="that many tenants at least, on as many devices"
    )
    max_replicas: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="its rate may be split over so many; None: over no more than replicas",
    )
    memory_mib: Positive | None = Field(
        default=None, description="device memory of one tenant; None: what the coefficients predict"
    )
    anti_affinity: str | None = Field(
        default=None, description="no two workloads with the same label share a device"
    )
    devices: tuple[str, ...] = Field(default=(), description="allowed device types; empty: all")
    priority: int | None = Field(
        default=None,
        description="may be left out where devices do not suffice, the lowest first; None: never",
    )


class Objective(Record):
    """What a plan costs: a weighted sum over its devices."""

    devices: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=1.0, description="weight of a device"
    )
    price: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=0.0, description="weight of a device's price per hour"
    )
    power: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=0.0, description="weight of a watt of a device's mean power at its load"
    )


class PredictedTenant(Record):
    """What a plan promises for one tenant."""

    latency_ms: Positive = Field(description="mean latency of a full batch")
    latency_low_ms: Positive | None = None
    latency_high_ms: Positive | None = None
    throughput_rps: Positive
    utilisation: Positive | None = Field(default=None, description="rate over throughput")
    p50_ms: Positive | None = Field(default=None, description="of a request, queueing included")
    p95_ms: Positive | None = None
    p99_ms: Positive | None = None
    slo_percentile_ms: Positive | None = Field(default=None, description="at the SLO's percentile")
    slo_percentile_low_ms: Positive | None = Field(
        default=None, description="the same, if batches take the lower end of their interval"
    )
    slo_percentile_high_ms: Positive | None = None
    memory_mib: Positive | None = Field(default=None, description="of the device")


class PlanTenant(Record):
    """One workload, or one replica of it, on one device of a plan."""

    workload: str = Field(description="a replica is called WORKLOAD.1, WORKLOAD.2, …")
    model: ModelName
    batch_size: int = Field(ge=1, le=1024)
    share_pct: float = Field(gt=0, le=100)
    rate_rps: Positive = Field(description="of this tenant: a replica has its part")
    slo_ms: Positive
    percentile: float = Field(default=99.0, ge=0, lt=100)
    arrival: Arrival = "poisson"
    burstiness: Positive | None = None
    replica_of: str | None = Field(default=None, description="the workload that it is a part of")
    memory_mib: Positive | None = Field(default=None, description="as the user said it")
    anti_affinity: str | None = None
    devices: tuple[str, ...] = Field(default=(), description="allowed device types; empty: all")
    instances: int = Field(default=1, ge=1, le=64)
    queue_delay_us: int = Field(default=0, ge=0)
    predicted: PredictedTenant | None = Field(default=None, description="None in imported plans")


class PlanDevice(Record):
    """One device of a plan and what runs on it."""

    name: str
    type: str | None = Field(default=None, description="name of its device type; None: the first")
    tenants: tuple[PlanTenant, ...] = Field(min_length=1)
    power_w: Positive | None = Field(default=None, description="mean at its load; None: unknown")
    memory_mib: Positive | None = Field(default=None, description="sum over its tenants")


class PlanDeviceType(Record):
    """A type of device, as a plan was made with it."""

    name: str
    device: Device | None = Field(default=None, description="what was profiled")
    coefficients: str | None = Field(default=None, description="the file, as it was given")
    coefficients_hash: str | None = None
    share_step_pct: float | None = Field(default=None, gt=0, le=100)
    extrapolate: bool = Field(default=False, description="plan outside of what was profiled")
    max_tenants: int | None = Field(default=None, ge=1, description="of one device")
    count: int | None = Field(
        default=None, ge=1, description="how many there are; None: any number"
    )
    price_per_hour: Positive | None = None
    memory_mib: Positive | None = None
    power_limit_w: Positive | None = Field(default=None, description="of the mean at its load")


class WorkloadPrice(Record):
    """What placing a tenant of a class is worth: a dual price."""

    workload: str = Field(description="first tenant of a class of tenants that are alike")
    price: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Certificate(Record):
    """Proof of a bound: no device holds tenants whose prices sum to more than it costs.

    So every plan costs at least the sum of the prices of all tenants, less what limited device
    types are worth.
    """

    prices: tuple[WorkloadPrice, ...]
    type_prices: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        default={}, description="what one device more of a limited type would save"
    )
    value: Finite = Field(description="the bound that they prove, before it is rounded up")


class Plan(Record):
    """Workloads assigned to devices with batch size and share, and what is predicted for each."""

    schema_version: Literal[1] = SCHEMA_VERSION
    strategy: str
    device_types: tuple[PlanDeviceType, ...] = Field(default=(), description="none in imported")
    workloads_hash: str | None = None
    igprof: str
    created_at: str
    seed: int = 0
    latency_rule: str | None = Field(default=None, description="what 'within its SLO' means")
    objective: Objective = Objective()
    cost: Finite | None = Field(default=None, description="value of the objective")
    bound: Finite | None = Field(default=None, description="no plan costs less")
    optimal: bool | None = None
    certificate: Certificate | None = Field(default=None, description="proves the bound")
    solve_s: Finite | None = None
    devices: tuple[PlanDevice, ...] = Field(min_length=1)
    left_out: tuple[str, ...] = Field(
        default=(), description="workloads of low priority for which devices do not suffice"
    )
    notes: tuple[str, ...] = ()

    @property
    def gap(self) -> float | None:
        """How much more the plan may cost than the cheapest: (cost - bound) / bound."""
        if self.cost is None or self.bound is None or self.bound <= 0:
            return None
        return max(self.cost - self.bound, 0.0) / self.bound


# --- an evaluation ---------------------------------------------------------------------------


class WorkloadResult(Record):
    """What an evaluation measured for one workload of a plan."""

    workload: str
    model: str
    device: str
    batch_size: int
    share_pct: float
    rate_rps: float
    slo_ms: float
    percentile: float
    status: Status
    detail: str | None = None
    requests: int = 0
    failed_requests: int = 0
    latency: LatencySummary | None = Field(default=None, description="from the intended instant")
    latency_sent: LatencySummary | None = Field(default=None, description="from the real send")
    throughput_rps: float | None = None
    goodput_rps: float | None = Field(default=None, description="answers within the SLO")
    violations_pct: float | None = Field(
        default=None, description="requests over the SLO or failed, of all requests"
    )
    lagged_pct: float | None = None
    executed_batch: float | None = None
    slo_met: bool | None = Field(
        default=None, description="the percentile is within the SLO and nothing failed"
    )
    predicted: PredictedTenant | None = None


class Result(Record):
    """What an evaluation measured for a plan, with its verdict."""

    schema_version: Literal[1] = SCHEMA_VERSION
    plan_hash: str
    igprof: str
    created_at: str
    duration_s: float
    seed: int
    conditions: Conditions
    workloads: tuple[WorkloadResult, ...]
    slo_met: bool
    notes: tuple[str, ...] = ()
