"""Figures of Trainium2: they are consistent with each other and with those of a whole chip."""

from mimo_v2_flash.costs import trainium2


def test_the_matrix_unit_does_what_is_said_of_it():
    two_cores = 2 * trainium2.SIDE**2 * 2.4e9 * 2  # at 2.4 GHz
    assert abs(two_cores / trainium2.FLOPS - 1) < 0.01


def test_a_chip_of_four_ranks_has_the_bandwidth_that_is_said_of_it():
    assert abs(4 * trainium2.BYTES_PER_SECOND / 2.9e12 - 1) < 0.01


def test_every_figure_is_offered():
    assert all(getattr(trainium2, name) > 0 for name in trainium2.__all__)
