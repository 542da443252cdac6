"""Q8_0's compiled quantizer where it could differ from NumPy's: `test_q8_0` draws the rest."""

import numpy as np

from mimo_v2_flash.cpu.q8_0_encoder import encode
from mimo_v2_flash.quantization import get_format


def test_numbers_at_the_borders_of_codes_are_rounded_as_numpy_does():
    generator = np.random.default_rng(0)
    w_NC = (generator.integers(-254, 255, (500, 32)) / 2).astype(np.float32)
    w_NC[:, 0] = 127
    beside_NC = np.nextafter(w_NC, generator.choice(np.float32([-1, 1]), w_NC.shape) * 1000)
    for drawn_NC in (w_NC, beside_NC):
        expected = get_format("q8_0").encode_blocks(drawn_NC)
        np.testing.assert_array_equal(encode(drawn_NC), expected)
