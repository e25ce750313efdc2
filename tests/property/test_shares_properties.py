"""Cores and slices: nobody's twice, nobody's too many, or a refusal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igniter_prof.errors import BadInput
from igniter_prof.records import Device, Tenant
from igniter_prof.serving.shares.cpu import cores_of
from igniter_prof.serving.shares.mig import Slice, assign
from igniter_prof.serving.shares.mps_clients import Client, parse_clients

GPU = Device(id="cuda:GPU-1", kind="cuda", name="test")


@given(
    cores=st.sets(st.integers(0, 64), min_size=1, max_size=16),
    wanted=st.lists(st.integers(1, 16), min_size=1, max_size=6),
    as_share=st.booleans(),
)
def test_cores_are_disjoint_in_order_and_as_many_as_asked_for(
    cores: set[int], wanted: list[int], as_share: bool
) -> None:
    device = Device(id="cpu:x", kind="cpu", name="test", cores=tuple(sorted(cores)))
    tenants = [
        Tenant(model="m", share_pct=100 * count / len(cores))
        if as_share and count <= len(cores)
        else Tenant(model="m", cpu_cores=count)
        for count in wanted
    ]
    if sum(wanted) > len(cores):
        with pytest.raises(BadInput):
            cores_of(tenants, device)
        return
    found = cores_of(tenants, device)
    assert [len(each) for each in found] == wanted
    assert [core for each in found for core in each] == list(device.cores[: sum(wanted)])


@given(
    there=st.lists(st.integers(1, 7), max_size=7),
    wanted=st.lists(st.integers(1, 7), min_size=1, max_size=7),
)
def test_slices_are_exact_and_given_once(there: list[int], wanted: list[int]) -> None:
    slices = [Slice(f"MIG-{n}", 100 * count / 7) for n, count in enumerate(there)]
    tenants = [Tenant(model="m", share_pct=round(100 * count / 7, 1)) for count in wanted]
    if any(wanted.count(count) > there.count(count) for count in wanted):
        with pytest.raises(BadInput, match="exactly"):
            assign(tenants, slices, GPU)
        return
    found = assign(tenants, slices, GPU)
    assert len(set(found)) == len(found)
    sizes = {each.uuid: there[n] for n, each in enumerate(slices)}
    assert [sizes[str(uuid)] for uuid in found] == wanted


@given(
    clients=st.lists(
        st.builds(
            Client,
            pid=st.integers(1, 2**22),
            namespace=st.integers(2**32 - 2**20, 2**32),
            device=st.sampled_from(["GPU-cb1213a3-d6a4-be7f", "MIG-1"]),
        )
    ),
    command=st.text(st.characters(codec="ascii", exclude_categories=("Cc",))),
)
def test_the_daemons_table_is_read_whatever_the_command_lines(
    clients: list[Client], command: str
) -> None:
    rows = [f"{c.pid}  0  6472  {c.device}  {c.namespace}  x{command}" for c in clients]
    table = "\n".join(["PID  ID  SERVER  DEVICE  NAMESPACE  COMMAND", *rows])
    assert parse_clients(table) == clients


@given(st.text())
def test_other_words_are_no_table(text: str) -> None:
    assert parse_clients(text) is None or "SERVER" in text
