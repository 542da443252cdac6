"""Totals of a program's cost."""

from mimo_v2_flash.execution.program_cost import Product, ProgramCost, Temporary


def test_matmuls_and_temporaries_are_summed():
    products, temporaries = (
        (Product(3, 2, 5, 7), Product(1, 1, 1, 1)),
        (Temporary(8, 0), Temporary(9, 1)),
    )
    cost = ProgramCost(4, products, {}, {}, 0, temporaries, ())
    assert cost.operations == 2 * 3 * 2 * 5 * 7 + 2
    assert cost.largest_temporary == 9
    assert cost._replace(temporaries=()).largest_temporary == 0
