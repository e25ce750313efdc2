"""A real Triton that somebody else runs."""

from __future__ import annotations

import pytest

from igniter_prof.config.devices import resolve_device
from igniter_prof.errors import BadInput
from igniter_prof.records import Tenant
from igniter_prof.serving import ServeOptions, deploy, triton

pytestmark = pytest.mark.skipif(
    triton.locate(None) is None and triton.unsupported() is not None,
    reason="no Triton runs on this machine",
)


def test_a_running_triton_is_used_and_left_running() -> None:
    device = resolve_device("cpu")
    with deploy(device, [Tenant(model="mlp", batch_size=4)]) as local:
        address = local.endpoints[0].http_address
        options = ServeOptions(
            runtime="remote",
            address=f"http://{address}",
            grpc_address=local.endpoints[0].grpc_address,
        )
        with deploy(device, [Tenant(model="mlp")], options=options) as remote:
            assert remote.endpoints[0].http_address == address
            assert remote.conditions()["triton"] == local.conditions()["triton"]
            assert remote.ending(0) is None
        with (
            pytest.raises(BadInput, match="did you mean 'mlp'"),
            deploy(device, [Tenant(model="mpl")], options=options),
        ):
            pytest.fail("there is no such model")
        assert local.ending(0) is None
