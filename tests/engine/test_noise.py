"""noise: Philox4x64-10 as its paper has it, standard Gumbel, and every token's noise its alone."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mimo_v2_flash.engine import noise as noise_module
from mimo_v2_flash.engine.noise import GumbelNoise

MASK = 2**64 - 1
# Salmon et al., SC11, table 2 and the Random123 header philox.h.
MULTIPLIERS = 0xD2E7470EE14C6C93, 0xCA5A826395121157
WEYL = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B
# Known answers of Random123 (kat_vectors, philox4x64 10): counter, key, output.
PI = (0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89)
PI_KEY = (0x452821E638D01377, 0xBE5466CF34E90C6C)
KNOWN = [
    (
        (0, 0, 0, 0),
        (0, 0),
        (0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B),
    ),
    (
        (MASK,) * 4,
        (MASK,) * 2,
        (0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0),
    ),
    (
        PI,
        PI_KEY,
        (0xA528F45403E61D95, 0x38C72DBD566E9788, 0xA5A1610E72FD18B5, 0x57BD43B5E52B7FE6),
    ),
]
words = st.integers(0, MASK)
indices = st.integers(0, 10_000)
token_sets = st.sets(st.integers(0, 400), min_size=1, max_size=20).map(sorted)


def philox(counter: tuple[int, ...], key: tuple[int, int]) -> list[int]:
    """Return the four words of one block, by Python's integers."""
    x, (k0, k1) = list(counter), key
    for _ in range(10):
        high, low = zip(*(divmod(x[2 * i] * MULTIPLIERS[i], 2**64) for i in (0, 1)), strict=True)
        x = [high[1] ^ x[1] ^ k0, low[1], high[0] ^ x[3] ^ k1, low[0]]
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return x


def expected(seed: int, answer: int, position: int, token: int) -> float:
    """Return a token's noise. NumPy's generator adds one to the counter before each block."""
    block, word = divmod(token, 4)
    number = philox((block + 1, position, 0, 0), (seed, answer))[word]
    return -math.log(-math.log(((number >> 11) + 0.5) / 2**53))


@pytest.mark.parametrize(("counter", "key", "output"), KNOWN)
def test_the_oracle_is_philox(counter, key, output):
    assert tuple(philox(counter, key)) == output


@given(words, indices, indices, token_sets, st.booleans())
@example(MASK, 0, 0, [0, 1, 2, 3, 4, 5], True)
@example(2**63, 2**32, 2**31, [7], False)
def test_it_is_philox_of_seed_answer_position_and_token(seed, answer, position, tokens, has_numba):
    with pytest.MonkeyPatch.context() as patch:
        if not has_numba:
            patch.setattr(noise_module, "compiled_module", lambda _: None)
        noise_A = GumbelNoise()(seed, answer, position, np.array(tokens))
    oracle_A = [expected(seed, answer, position, token) for token in tokens]
    assert noise_A.dtype == np.float64
    np.testing.assert_allclose(noise_A, oracle_A, rtol=1e-12, atol=1e-14)


@given(words, indices, indices, token_sets, st.data())
def test_a_token_has_the_same_noise_whichever_others_are_wanted(
    seed, answer, position, tokens, data
):
    noise = GumbelNoise()
    noise_V = noise(seed, answer, position, np.arange(401))
    noise(seed ^ 1, answer + 3, position + 1, np.arange(9))  # no call leaves anything behind
    np.testing.assert_array_equal(noise(seed, answer, position, np.array(tokens)), noise_V[tokens])
    one = data.draw(st.sampled_from(tokens))
    assert noise(seed, answer, position, np.array([one])) == noise_V[one]


@pytest.mark.parametrize(
    "other", [(8, 0, 5), (7, 1, 5), (7, 0, 6), (0, 7, 5), (5, 0, 7), (7 + 2**32, 0, 5)], ids=str
)
def test_seed_answer_and_position_each_matter(other):
    noise, token_V = GumbelNoise(), np.arange(4000)
    one_V, two_V = noise(7, 0, 5, token_V), noise(*other, token_V)
    assert not np.any(one_V == two_V)
    correlation = np.corrcoef(one_V, two_V)[0, 1]
    assert abs(correlation) < 4 / np.sqrt(4000)
    assert len(np.unique(one_V)) == 4000


@pytest.mark.parametrize("along", ["token", "position", "answer", "seed"])
def test_it_is_standard_gumbel_in_every_direction(along):
    """Kolmogorov-Smirnov: 1.95 / sqrt(n) is the critical distance at 0.1 %."""
    noise, n = GumbelNoise(), 4000
    if along == "token":
        sample_n = noise(1, 2, 3, np.arange(n))
    else:
        first = ("seed", "answer", "position").index(along)
        key = [[*(1, 2, 3)[:first], i, *(1, 2, 3)[first + 1 :]] for i in range(n)]
        sample_n = np.concatenate([noise(*each, np.array([11])) for each in key])
    distribution_n = np.exp(-np.exp(-np.sort(sample_n)))
    distance = np.max(np.abs(distribution_n - (np.arange(n) + 0.5) / n))
    assert distance < 1.95 / np.sqrt(n)


def test_the_whole_vocabulary_has_finite_noise():
    noise_V = GumbelNoise()(0, 0, 262_143, np.arange(152_576))
    assert np.all(np.isfinite(noise_V))
    assert noise_V[-1] == pytest.approx(expected(0, 0, 262_143, 152_575), rel=1e-12)
