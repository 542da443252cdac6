"""The verdict on a device is one sentence; what does not fit into a NeuronCore is refused."""

import ml_dtypes
import pytest

from mimo_v2_flash import MiMoConfig
from mimo_v2_flash.costs import Device, Workload, device_memory, devices
from mimo_v2_flash.costs.device_memory import check_memory, verdict
from mimo_v2_flash.parallel_config import ParallelConfig
from tests.support.tiny import tiny

GIGA = 10**9
DEVICE = Device({"experts": 8 * GIGA, "head": 2 * GIGA}, 3 * GIGA, {"exchange": GIGA})


@pytest.mark.parametrize(
    ("memory", "sentence"),
    [
        (20, "It fits: 14.0 GB of 20.0 GB, 6.0 GB are free."),
        (14, "It fits: 14.0 GB of 14.0 GB, 0 bytes are free."),
        (
            12,
            "It does not fit: 14.0 GB, 2.0 GB more than 12.0 GB (weights 10.0 GB, cache 3.0 GB, "
            "buffers 1.0 GB). A chip has 96.0 GB.",
        ),
        (
            9,
            "It does not fit: 14.0 GB, 5.0 GB more than 9.0 GB (weights 10.0 GB, cache 3.0 GB, "
            "buffers 1.0 GB). The weights alone are too much. A chip has 96.0 GB.",
        ),
    ],
)
def test_what_fits_and_by_how_much(memory, sentence):
    assert verdict(DEVICE, memory * GIGA) == sentence


def test_a_chip_is_not_offered_to_a_plan_that_does_not_fit_it():
    assert verdict(DEVICE._replace(cache=90 * GIGA), 24 * GIGA).endswith("buffers 1.0 GB).")


WORKLOAD = Workload(1, 4096, 128, "fp8", ml_dtypes.bfloat16, ml_dtypes.bfloat16)


@pytest.mark.parametrize(
    ("plan", "lnc"), [(ParallelConfig(32, 32, 1), 2), (ParallelConfig(64, 64, 1), 1)], ids=str
)
def test_a_plan_that_fits_into_a_core_passes(plan, lnc):
    check_memory(MiMoConfig(), plan, WORKLOAD, lnc)


@pytest.mark.parametrize(
    ("plan", "lnc"), [(ParallelConfig(8, 8, 1), 2), (ParallelConfig(16, 16, 1), 1)], ids=str
)
def test_a_plan_that_does_not_is_refused(plan, lnc):
    with pytest.raises(ValueError, match=rf"lnc {lnc}: It does not fit: .* more than {12 * lnc}"):
        check_memory(MiMoConfig(), plan, WORKLOAD, lnc)


def test_the_fullest_device_counts(monkeypatch):
    plan, workload, config = ParallelConfig(1, 1, 2), Workload(3, 40, 8), tiny().config
    least, most = sorted(device.total for device in devices(config, plan, workload))
    monkeypatch.setattr(device_memory, "NEURON_CORE", {2: (least + most) // 2})
    with pytest.raises(ValueError, match="It does not fit"):
        check_memory(config, plan, workload, 2)
