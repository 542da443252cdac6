"""The Backend interface: the model runs on any backend that has its methods."""

import inspect

import numpy as np
import pytest

from mimo_v2_flash.execution import Backend, NumpyBackend
from tests.support.tiny import random_tokens, running, tiny
from tests.support.watching import WatchingBackend


@pytest.mark.parametrize("method", ["compile", "to_device"])
def test_every_backend_has_the_same_methods(method):
    expected = list(inspect.signature(getattr(Backend, method)).parameters)
    assert list(inspect.signature(getattr(NumpyBackend, method)).parameters) == expected


def test_the_model_runs_where_it_is_told_to():
    token_BT, backend = random_tokens(tiny(), 2, 9), WatchingBackend()
    logits_BTV = running(tiny(), backend=backend).forward(token_BT)
    np.testing.assert_array_equal(logits_BTV, running(tiny()).forward(token_BT))
    assert len(backend.compiled) == len(set(tiny().config.layers))
    assert len(backend.calls) == len(tiny().config.layers)
