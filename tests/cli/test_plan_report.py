"""The report of a plan says whether its fullest device fits; test_plan.py tests the tables."""

import pytest

from mimo_v2_flash.cli.plan_report import report
from mimo_v2_flash.costs import Workload, devices
from mimo_v2_flash.parallel_config import ParallelConfig
from tests.support.tiny import tiny

PLAN, WORKLOAD = ParallelConfig(1, 1, 2), Workload(3, 40, 8)  # two sequences, and one


@pytest.mark.parametrize(("share", "status"), [(1.0, 0), (0.999, 1), (0.0, 1)])
def test_the_fullest_device_decides(capsys, share, status):
    config = tiny().config
    least, most = sorted(device.total for device in devices(config, PLAN, WORKLOAD))
    memory = round(least + share * (most - least))
    numbers, shown = report(config, PLAN, WORKLOAD, memory=memory)
    assert shown == status
    assert ("It fits" in capsys.readouterr().out) == (status == 0)
    assert (numbers["memory"], numbers["fits"]) == (memory, status == 0)
