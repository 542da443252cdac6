"""The eager NumPy backend runs functions as they are."""

import numpy as np

from mimo_v2_flash.execution import NumpyBackend
from mimo_v2_flash.layers.decoder import DecoderLayer
from mimo_v2_flash.parallel import SoloGroup
from tests.support.tiny import tiny


def test_a_layer_is_its_own_program():
    layer = DecoderLayer.build(tiny().config.layers[0], SoloGroup(), SoloGroup())
    assert NumpyBackend().compile(layer) is layer


def test_arrays_stay_where_they_are():
    record = (np.zeros(2), (np.ones(3),))
    assert NumpyBackend().to_device(record) is record


def test_any_function_is_a_program():
    assert NumpyBackend().compile(np.add)(1, 2) == 3
