"""A backend from outside of the package is enough: one method, and the model runs on it."""

import inspect

import numpy as np

from mimo_v2_flash.backends import Backend, NumpyBackend
from tests.support.tiny import random_tokens, running, tiny
from tests.support.watching import WatchingBackend


def test_every_backend_compiles_with_one_signature():
    expected = list(inspect.signature(Backend.compile).parameters)
    assert list(inspect.signature(NumpyBackend.compile).parameters) == expected


def test_the_model_runs_where_it_is_told_to():
    token_BT, backend = random_tokens(tiny(), 2, 9), WatchingBackend()
    logits_BTV = running(tiny(), backend=backend).forward(token_BT)
    np.testing.assert_array_equal(logits_BTV, running(tiny()).forward(token_BT))
    assert len(backend.compiled) == len(set(tiny().config.layers))
    assert len(backend.calls) == len(tiny().config.layers)
