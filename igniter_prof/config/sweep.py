"""Sweeps: read what is asked for, and turn it into cells. Pure: nothing is started here."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from igniter_prof.errors import BadInput
from igniter_prof.files import parse, read_yaml
from igniter_prof.records import Cell, ContainerSize, Sweep, SweepModel, Tenant

SET_SIZES = {"pairs": 2, "triples": 3}
FULL_SHARE_PCT = 100.0
TIME_SLICING = "time-slicing"
MIN_CELLS_FOR_BASELINE = 4
"""In a smaller sweep the baselines would take longer than the cells."""
ROUNDING = 1e-9
_DIMENSIONS = (
    "batch_sizes",
    "shares",
    "instances",
    "input_scales",
    "cpu_cores",
    "memory_mib",
    "gpu",
)


def load_sweep(path: Path | None, overrides: Mapping[str, Any]) -> Sweep:
    """Read a sweep file, if there is one, and lay what the command line says over it.

    In a file a model may be a plain name, and values that were given as a scalar become a list of
    one.

    Args:
        path: a YAML file, or None.
        overrides: fields of Sweep (a mapping replaces only the keys that it has).

    Raises:
        BadInput: names the file, the field, and what would be right.
    """
    document = {} if path is None else read_yaml(path)
    where = "the command line" if path is None else str(path)
    if not isinstance(document, dict):
        raise BadInput(
            "a sweep is a mapping", where=where, hint="see docs/profile.md for an example"
        )
    document = dict(document)
    for key, value in overrides.items():
        if isinstance(value, dict) and isinstance(document.get(key), dict):
            document[key] = {**document[key], **value}
        else:
            document[key] = value
    if isinstance(document.get("models"), (list, tuple)):
        document["models"] = [
            {"name": model} if isinstance(model, str) else model for model in document["models"]
        ]
    for key in (*_DIMENSIONS, "monitors"):
        if isinstance(document.get(key), (bool, int, float, str)):
            document[key] = [document[key]]
    sweep = parse(document, Sweep, where)
    _check(sweep, where)
    return sweep


def _check(sweep: Sweep, where: str) -> None:
    names = [model.name for model in sweep.models]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadInput(f"model '{twice[0]}' is listed twice", where=where)
    stopping = sweep.stopping
    if stopping.max_s < stopping.min_s:
        raise BadInput(
            f"the longest window ({stopping.max_s:g} s) is shorter than the shortest"
            f" ({stopping.min_s:g} s)",
            where=f"{where}, stopping",
            hint="--min-time is at most --max-time",
        )
    trace_s = sweep.load.trace_s or ()
    if len(trace_s) > 1 and len(set(trace_s)) == 1:
        raise BadInput(
            "all instants of the trace are the same",
            where=f"{where}, load",
            hint="trace_s holds the send instants in seconds, which lie apart",
        )
    if not isinstance(sweep.colocate, str):
        for members in sweep.colocate:
            unknown = sorted(set(members) - set(names))
            if unknown:
                raise BadInput(
                    f"model '{unknown[0]}' is not among the sweep's models",
                    where=f"{where}, colocate",
                    hint=f"models: {', '.join(names)}",
                )
            if len(members) < 2:
                raise BadInput("a co-located set has two or more", where=f"{where}, colocate")
    for split in sweep.colocate_shares or ():
        if sum(split) > FULL_SHARE_PCT + ROUNDING:
            raise BadInput(
                f"shares {list(split)} add up to {sum(split):g}, at most 100 fit on a device",
                where=f"{where}, colocate_shares",
            )
    if sweep.share_mechanism == TIME_SLICING:
        shares = {*sweep.shares, *(s for model in sweep.models for s in model.shares or ())}
        if shares != {FULL_SHARE_PCT} or sweep.colocate_shares is not None:
            raise BadInput(
                f"{TIME_SLICING} gives no shares",
                where=f"{where}, share_mechanism",
                hint="leave shares and colocate_shares out, or use mps",
            )
    if sweep.runtime == "remote" and sweep.address is None:
        raise BadInput(
            "a remote sweep needs the server's address",
            where=where,
            hint="--address host:port of its HTTP endpoint",
        )
    sizes = _sizes(sweep)
    if sweep.runtime == "remote" and sizes != [ContainerSize()]:
        raise BadInput("caps cannot be set on a remote server", where=where)
    if sweep.sizes is not None:
        for key in ("cpu_cores", "memory_mib", "gpu"):
            if getattr(sweep, key) != (None,):
                raise BadInput(
                    f"sizes and {key} are both set", where=where, hint="sizes says it all"
                )
    for model in sweep.models:
        if model.http is not None:
            _check_http(sweep, model, where)


def _check_http(sweep: Sweep, model: SweepModel, where: str) -> None:
    at = f"{where}, model '{model.name}'"
    if sweep.protocol == "grpc":
        raise BadInput(
            f"'{model.name}' is served over HTTP, and the sweep's protocol is grpc",
            where=f"{where}, protocol",
        )
    if sweep.runtime == "local":
        raise BadInput(
            "the local runtime starts Tritons only, and this model has a server of its own",
            where=at,
            hint="--runtime docker, or --runtime remote --address host:port if it runs already",
        )
    if model.shapes is not None:
        raise BadInput(
            "shapes are for Triton's inputs", where=at, hint="say it in http.inputs.NAME.shape"
        )
    if set(model.instances or sweep.instances) != {1}:
        raise BadInput(
            "instances are Triton's; this server decides for itself",
            where=at,
            hint="instances: [1] for this model, and a number of workers in http.environment",
        )


def cells(
    sweep: Sweep, device_id: str, *, fits: Callable[[Sequence[Tenant]], bool] | None = None
) -> list[Cell]:
    """All cells of a sweep, in the order in which they are to be measured.

    The order is random with the sweep's seed, and after every ``baseline_every`` cells the first
    solo cell is measured again (``baseline``), so that drift of the machine can be told apart from
    what the dimensions do.

    Args:
        sweep: what is asked for.
        device_id: of the device.
        fits: whether the host can measure some tenants at all; a baseline must.

    Raises:
        BadInput: the sweep has no cells.
    """
    # a core cap takes the share's place, so that several shares may give the same cell
    points = list(dict.fromkeys([*_solo(sweep, device_id), *_colocated(sweep, device_id)]))
    if not points:
        raise BadInput(
            "the sweep has no cells", hint="one of its lists is empty, or no split of shares fits"
        )
    drawn = [
        point.model_copy(update={"repeat": repeat})
        for point in points
        for repeat in range(sweep.repeats)
    ]
    random.Random(sweep.seed).shuffle(drawn)
    if sweep.baseline_every == 0 or len(drawn) < MIN_CELLS_FOR_BASELINE:
        return drawn
    able = (point for point in points if fits is None or fits(point.tenants))
    baseline = next(able, points[0]).model_copy(update={"baseline": True})
    ordered: list[Cell] = []
    turns = itertools.count()
    for index, cell in enumerate(drawn):
        if index % sweep.baseline_every == 0:
            ordered.append(baseline.model_copy(update={"repeat": next(turns)}))
        ordered.append(cell)
    ordered.append(baseline.model_copy(update={"repeat": next(turns)}))
    return ordered


def shared_server(sweep: Sweep) -> bool:
    """Whether the tenants of a cell live in one server, without shares of their own."""
    return sweep.server == "shared" or sweep.runtime == "remote"


def _sizes(sweep: Sweep) -> list[ContainerSize]:
    """The sizes of container over which each model is measured."""
    if sweep.sizes is not None:
        return list(sweep.sizes)
    return [
        ContainerSize(cpu_cores=cores, memory_mib=memory, gpu=gpu)
        for cores, memory, gpu in itertools.product(sweep.cpu_cores, sweep.memory_mib, sweep.gpu)
    ]


def _cell(sweep: Sweep, device_id: str, tenants: tuple[Tenant, ...]) -> Cell:
    return Cell(
        device=device_id,
        tenants=tenants,
        load=sweep.load,
        server="shared" if shared_server(sweep) else "own",
        protocol=sweep.protocol,
    )


def _variants(
    sweep: Sweep,
    model: SweepModel,
    batch_sizes: Sequence[int],
    shares: Sequence[float | None],
    device_id: str,
) -> Iterator[Tenant]:
    """A model's tenants over all dimensions."""
    for share, batch, instances, scale, size in itertools.product(
        shares,
        batch_sizes,
        model.instances or sweep.instances,
        model.input_scales or sweep.input_scales,
        _sizes(sweep),
    ):
        yield Tenant(
            model=model.name,
            batch_size=batch,
            share_pct=share if _takes_share(size, device_id) else None,
            instances=instances,
            input_scale=scale,
            cpu_cores=size.cpu_cores,
            memory_mib=size.memory_mib,
            gpu=size.gpu,
        )


def _takes_share(size: ContainerSize, device_id: str) -> bool:
    """Whether a container of that size can have a share of the device."""
    if device_id.startswith("cuda:"):
        return size.gpu is not False
    # on a CPU share and core cap are the same knob: a cap takes the share's place
    return size.cpu_cores is None


def _shares(sweep: Sweep, model: SweepModel) -> tuple[float | None, ...]:
    if shared_server(sweep) or sweep.share_mechanism == TIME_SLICING:
        return (None,)
    # the largest share first: the first solo cell is the baseline
    return tuple(sorted(model.shares or sweep.shares, reverse=True))


def _solo(sweep: Sweep, device_id: str) -> Iterator[Cell]:
    for model in sweep.models:
        batches = model.batch_sizes or sweep.batch_sizes
        for tenant in _variants(sweep, model, batches, _shares(sweep, model), device_id):
            yield _cell(sweep, device_id, (tenant,))


def _colocated(sweep: Sweep, device_id: str) -> list[Cell]:
    if sweep.colocate == "none":
        return []
    by_name = {model.name: model for model in sweep.models}
    if isinstance(sweep.colocate, str):
        sets: list[tuple[str, ...]] = list(
            itertools.combinations(by_name, SET_SIZES[sweep.colocate])
        )
    else:
        sets = list(sweep.colocate)
    found = []
    for members in sets:
        choices = [
            list(
                _variants(
                    sweep,
                    by_name[name],
                    sweep.colocate_batch_sizes or by_name[name].batch_sizes or sweep.batch_sizes,
                    _shares(sweep, by_name[name])
                    if sweep.colocate_shares is None or shared_server(sweep)
                    else sorted({split[index] for split in _splits(sweep, len(members))}),
                    device_id,
                )
            )
            for index, name in enumerate(members)
        ]
        found += [
            _cell(sweep, device_id, tenants)
            for tenants in itertools.product(*choices)
            if _fits(sweep, tenants)
        ]
    # a set like (a, a) gives the same cell in both orders
    unique = list({_unordered(cell): cell for cell in reversed(found)}.values())[::-1]
    if sweep.colocate_sample is not None and sweep.colocate_sample < len(unique):
        picked = random.Random(sweep.seed + 1).sample(range(len(unique)), sweep.colocate_sample)
        unique = [unique[index] for index in sorted(picked)]
    return unique


def _splits(sweep: Sweep, size: int) -> list[tuple[float, ...]]:
    return [split for split in sweep.colocate_shares or () if len(split) == size]


def _fits(sweep: Sweep, tenants: tuple[Tenant, ...]) -> bool:
    shares = tuple(tenant.share_pct for tenant in tenants)
    given = tuple(share for share in shares if share is not None)
    # in a split every tenant has its place: it says nothing of those with a core cap instead
    if sweep.colocate_shares is not None and given and len(given) == len(shares):
        return given in _splits(sweep, len(tenants))
    return sum(given) <= FULL_SHARE_PCT + ROUNDING


def _unordered(cell: Cell) -> tuple[str, ...]:
    return tuple(sorted(tenant.model_dump_json() for tenant in cell.tenants))
