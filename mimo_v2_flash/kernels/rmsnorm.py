"""Root-mean-square normalisation over the width of the model.

Source: arXiv:1910.07467, equation 4; transformers `models/mimo_v2_flash`
(`MiMoV2FlashRMSNorm`). MiMo: D = 4096, epsilon = 1e-5, before attention, before the
feed-forward, and before the head.
"""

import numpy as np

from .axes import checked

__all__ = ["rmsnorm"]


@checked
def rmsnorm(x_ND, weight_D, *, epsilon: float):
    """Return `x_ND` at unit root mean square, times `weight_D`, in the dtype of `x_ND`.

        y = x / sqrt(mean(x^2) + epsilon) * weight

    Statistics are float32; the unit vector is rounded to the dtype before it is multiplied by the
    weight, as the checkpoint was trained.

    Parameters
    ----------
    x_ND : array, float32 or bfloat16
        Hidden states.
    weight_D : array
        Weight of each channel.
    epsilon : float
        Number that is added to the mean square.
    """
    wide_ND = x_ND.astype(np.float32)
    power_N1 = np.mean(np.square(wide_ND), axis=-1, keepdims=True)
    unit_ND = wide_ND / np.sqrt(power_N1 + np.float32(epsilon))
    return unit_ND.astype(x_ND.dtype) * weight_D.astype(x_ND.dtype)
