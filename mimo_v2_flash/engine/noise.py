"""Gumbel noise from counter-based random numbers: a token's noise depends on nothing but itself.

The argmax of log-probabilities plus independent Gumbel noise is a draw from the distribution. The
noise of a token is a function of the seed, the answer's index, the position and the token's id: no
batch, order of sorting or order of sums changes it.

Source: Philox4x64-10, Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC11; the
Gumbel-max trick: Maddison, Tarlow, Minka, arXiv:1411.0030.
"""

import numpy as np

from mimo_v2_flash.cpu.loading import compiled_module

__all__ = ["GumbelNoise"]


class GumbelNoise:
    """A source of standard Gumbel noise, addressed by seed, answer, position and token id.

    The Philox key is (seed, answer); the counter's second word is the position, the third the
    stream, and word t of what begins there belongs to token t.
    """

    def __call__(
        self, seed: int, answer: int, position: int, token_A: np.ndarray, stream: int = 0
    ) -> np.ndarray:
        """Return the noise of the tokens `token_A`, float64, which are in ascending order.

        Streams are independent of each other: 0 draws tokens.
        """
        return -np.log(-np.log(self.uniform(seed, answer, position, token_A, stream)))

    def uniform(
        self, seed: int, answer: int, position: int, token_A: np.ndarray, stream: int
    ) -> np.ndarray:
        """Return the uniform random numbers, float64, that the noise is made of: never 0 or 1.

        Parameters
        ----------
        seed : int
            Seed of the request.
        answer : int
            Index of the answer.
        position : int
            Position of the token that is drawn.
        token_A : array of int
            Token ids.
        stream : int
            Which of the independent streams of numbers.
        """
        key_2 = np.array([seed, answer], np.uint64)
        counter_4 = np.array([0, position, stream, 0], np.uint64)
        loops = compiled_module("philox")
        if loops is None:
            philox = np.random.Philox(key=key_2, counter=counter_4)
            word_A = philox.random_raw(int(token_A[-1]) + 1)[token_A]
        else:
            word_A = np.empty(len(token_A), np.uint64)
            loops.fill_words(key_2, counter_4, token_A, word_A)
        return ((word_A >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
