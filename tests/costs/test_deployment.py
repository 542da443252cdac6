"""An impossible deployment is refused, and the message names the size."""

import re

import pytest

from mimo_v2_flash import MiMoConfig
from mimo_v2_flash.config_presets import PRESETS
from mimo_v2_flash.costs.deployment import Deployment
from mimo_v2_flash.parallel_config import ParallelConfig


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size = 0: allowed is an integer above 0"),
        ({"context": 300_000}, "context = 300000: allowed is 1 to 262144 tokens"),
        ({"chunk": 5000}, "chunk = 5000: allowed is 1 to the context, 4096"),
        ({"chunk": 0}, "chunk = 0: allowed is 1 to the context, 4096"),
        ({"draft_tokens": 4}, "draft_tokens = 4: allowed is 0 to 3"),
        ({"draft_tokens": 3, "chunk": 2}, "draft_tokens = 3: allowed is 0 to 1"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    deployment = Deployment(MiMoConfig(), ParallelConfig(32, 4, 8), **{"batch_size": 8} | changes)
    with pytest.raises(ValueError, match=re.escape(message)):
        deployment.check()


def test_the_real_model_on_32_ranks_is_allowed():
    Deployment(MiMoConfig(), ParallelConfig(32, 4, 8), 8, 262_144, 512).check()


def test_programs_take_experts_in_the_hubs_format():
    """No device multiplies MXFP4: such experts are prepared in FP8."""
    layout = PRESETS["v2.6-pro"].layout
    deployment = Deployment(MiMoConfig.v2_6_pro(), ParallelConfig(64, 8, 8), 8, layout=layout)
    assert deployment.layout == layout._replace(expert_format=None)
    assert deployment.workload.layout == deployment.layout
    deployment.check()


def test_the_plan_is_the_models():
    with pytest.raises(
        ValueError, match="expert_parallel_size = 3: allowed is a divisor of 256 experts"
    ):
        Deployment(MiMoConfig(), ParallelConfig(3, 1, 3), 3).check()
