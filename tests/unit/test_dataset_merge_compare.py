from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from igniter_prof.dataset import ProfileStore
from igniter_prof.dataset.comparing import compare
from igniter_prof.dataset.merging import merge_profiles
from igniter_prof.dataset.noise import noise, noise_of_profiles
from igniter_prof.dataset.points import point_of
from igniter_prof.errors import BadInput
from igniter_prof.records import Device, Measurement, Tenant
from tests.dataset_samples import CONDITIONS, cell, manifest, sample, write

A, B = Tenant(model="mlp", share_pct=50), Tenant(model="vgg19", share_pct=25)


def test_merge_keeps_every_measurement_once(tmp_path: Path) -> None:
    shared = sample(seed=1)
    first = write(tmp_path / "a", [shared, sample(cell(A, B), [5.0, 9.0], start=1)])
    second = write(tmp_path / "b", [shared])
    third = write(tmp_path / "c", [sample(seed=2, start=5)])
    merged = merge_profiles([first, second, third], tmp_path / "out")
    assert (merged.cells, merged.renumbered, merged.identical) == (3, 1, 1)
    store = ProfileStore.open(tmp_path / "out")
    assert [(len(one.tenants), one.cell.repeat) for one in store.measurements()] == [
        (1, 0),
        (2, 0),
        (1, 1),
    ]
    assert store.manifest.source == "merged"
    assert store.manifest.sweep == manifest().sweep
    repeat = store.measurements()[2]
    np.testing.assert_array_equal(store.requests(repeat.cell_id)[0], sample(seed=2)[1][0])
    # merging the parts in again changes nothing
    again = merge_profiles([tmp_path / "out", first, third], tmp_path / "again")
    assert (again.cells, again.renumbered, again.identical) == (3, 0, 3)


def test_merge_of_other_sweeps_has_none(tmp_path: Path) -> None:
    first = write(tmp_path / "a", [sample()])
    second = write(tmp_path / "b", [sample(cell(B))], manifest("vgg19"))
    merge_profiles([first, second], tmp_path / "out")
    assert ProfileStore.open(tmp_path / "out").manifest.sweep is None


def test_merge_refuses_what_differs_and_leaves_nothing(tmp_path: Path) -> None:
    first = write(tmp_path / "a", [sample()])
    newer = CONDITIONS.model_copy(update={"driver": "2", "triton": "2.60"})
    second = write(tmp_path / "b", [sample(cell(B), conditions=newer)])
    with pytest.raises(BadInput, match=r"triton is 2\.51 and 2\.60"):
        merge_profiles([first, second], tmp_path / "out")
    device = Device(id="cpu:0", kind="cpu", name="A CPU")
    third = write(tmp_path / "c", [], manifest(device=device))
    with pytest.raises(BadInput, match=r"is of the device cpu:0 .* is of cpu:0-1"):
        merge_profiles([first, third], tmp_path / "out")
    with pytest.raises(BadInput, match="is there already"):
        merge_profiles([first], second)
    damaged = write(tmp_path / "d", [sample(cell(B))])
    file = ProfileStore.open(damaged).cell_paths()[0]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(data)
    with pytest.raises(BadInput, match="is damaged"):
        merge_profiles([first, damaged], tmp_path / "out")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a", "b", "c", "d"]


def test_points_forget_device_repeat_and_order() -> None:
    assert point_of(cell(A, B)) == point_of(cell(B, A, device="cuda:GPU-1", repeat=3))
    assert point_of(cell(A)) == point_of(cell(A, baseline=True))
    assert len({point_of(cell(A)), point_of(cell(B)), point_of(cell(A, B))}) == 3
    assert point_of(cell(A)) != point_of(cell(A, protocol="grpc"))


def profile(scale: float, seed: int, run_noise: float, repeats: int = 3) -> list[Measurement]:
    """Twelve points, whose runs scatter by ``run_noise`` more than their requests say."""
    generator = np.random.default_rng(seed)
    return [
        sample(
            cell(Tenant(model=f"m{number}", share_pct=50), repeat=repeat),
            5.0 * scale * float(np.exp(run_noise * generator.standard_normal())),
            count=400,
            seed=seed + 100 * number + repeat,
        )[0]
        for number in range(12)
        for repeat in range(repeats)
    ]


def test_noise_between_runs_is_not_called_a_change() -> None:
    false = 0
    for seed in range(10):
        comparison = compare(profile(1.0, 2 * seed, 0.03), profile(1.0, 2 * seed + 1, 0.03))
        assert comparison.between_repeats_pct == pytest.approx(3.0, rel=0.5)
        false += any(change.significant for change in comparison.changes)
    # at a false discovery rate of 5%, 10 comparisons without any change have half of one
    assert false <= 2


def test_a_real_change_is_found_and_measured() -> None:
    comparison = compare(profile(1.0, 1, 0.01), profile(1.25, 2, 0.01))
    assert all(change.significant for change in comparison.changes)
    inside = 0
    for change in comparison.changes:
        assert change.low_pct is not None
        assert change.high_pct is not None
        inside += change.low_pct <= 25 <= change.high_pct
    assert inside >= 9
    assert comparison.ratio == pytest.approx(1.25, rel=0.02)
    assert comparison.ratio_low is not None
    assert comparison.ratio_high is not None
    assert comparison.ratio_low < 1.25 < comparison.ratio_high


def test_without_repeats_the_noise_between_runs_is_unknown() -> None:
    comparison = compare(profile(1.0, 1, 0.0, 1), profile(1.0, 2, 0.0, 1))
    assert comparison.between_repeats_pct is None
    assert sum(change.significant is True for change in comparison.changes) <= 1


def test_a_comparison_says_what_else_differs() -> None:
    newer = CONDITIONS.model_copy(update={"triton": "2.60"})
    died = sample(cell(B), conditions=newer)[0]
    tenant = died.tenants[0].model_copy(update={"status": "oom", "latency": None, "stable": None})
    died = died.model_copy(update={"tenants": (tenant,)})
    only = sample(cell(A, repeat=0, protocol="grpc"))[0]
    comparison = compare(
        [sample(cell(A))[0], sample(cell(B))[0], only],
        [sample(cell(A), conditions=newer)[0], died],
    )
    assert comparison.conditions == {"triton": (["2.51"], ["2.60"])}
    assert (comparison.only_a, comparison.only_b) == (1, 0)
    lost = next(change for change in comparison.changes if change.status_b == "oom")
    assert (lost.mean_b_ms, lost.change_pct, lost.significant) == (None, None, None)


def test_noise_is_the_difference_of_repeats_over_their_mean(tmp_path: Path) -> None:
    def exact(mean_ms: float, repeat: int, *tenants: Tenant) -> Measurement:
        measurement = sample(cell(*tenants, repeat=repeat))[0]
        measured = []
        for tenant in measurement.tenants:
            assert tenant.latency is not None
            latency = tenant.latency.model_copy(update={"mean_ms": mean_ms})
            measured.append(tenant.model_copy(update={"latency": latency}))
        return measurement.model_copy(update={"tenants": tuple(measured)})

    found = noise([exact(9.0, 0, A), exact(11.0, 1, A), exact(1.0, 0, B), exact(5.0, 0, A, B)])
    means = {each.group: each for each in found if each.statistic == "mean"}
    assert set(means) == {"all", "solo"}
    assert means["solo"].points == 1
    assert means["solo"].max_pct == pytest.approx(20.0)
    one = write(tmp_path / "a", [sample(cell(A), seed=1)])
    two = write(tmp_path / "b", [sample(cell(A), seed=2)])
    assert noise_of_profiles([one]) == []
    assert {each.points for each in noise_of_profiles([one, two])} == {1}
    newer = CONDITIONS.model_copy(update={"triton": "2.60"})
    three = write(tmp_path / "c", [sample(cell(A), conditions=newer)])
    with pytest.raises(BadInput, match="triton"):
        noise_of_profiles([one, three])
