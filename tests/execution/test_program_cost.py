"""Totals of a program's cost."""

from mimo_v2_flash.execution.program_cost import Matmul, ProgramCost, Temporary


def test_matmuls_and_temporaries_are_summed():
    matmuls, temporaries = (
        (Matmul(3, 2, 5, 7), Matmul(1, 1, 1, 1)),
        (Temporary(8, 0), Temporary(9, 1)),
    )
    cost = ProgramCost(4, matmuls, {}, {}, 0, temporaries, ())
    assert cost.operations == 2 * 3 * 2 * 5 * 7 + 2
    assert cost.largest_temporary == 9
    assert cost._replace(temporaries=()).largest_temporary == 0
