"""scheduler: which rank gets a request: the one that knows its prompt, else the emptiest."""

from tests.engine.test_scheduler import RANKS, Simulation


def test_a_rank_that_knows_more_of_a_prompt_gets_it_while_it_has_rows():
    """Request 3 needs two rows, which rank 1 does not have any more."""
    known = {1: (0, 32, 0), 2: (32, 64, 0), 3: (0, 64, 0), 4: (0, 64, 32), 5: (0, 64, 0)}
    simulation = Simulation(RANKS, known_prefix=lambda request, rank: known[request.id][rank])
    requests = [simulation.add(id_, 1, 99, n=1 + (id_ == 3)) for id_ in known]
    simulation.step()
    ranks = [[sequence.rank for sequence in request.sequences] for request in requests]
    assert ranks == [[1], [1], [0, 0], [1], [2]]
    rows = [[sequence.row for sequence in request.sequences] for request in requests]
    assert rows == [[3], [4], [0, 1], [5], [6]]


def test_where_ranks_know_equally_much_they_stay_even():
    simulation = Simulation(RANKS, known_prefix=lambda *_: 96)
    requests = [simulation.add(id_, 1, 99) for id_ in range(6)]
    simulation.step()
    assert [request.sequences[0].rank for request in requests] == [0, 1, 0, 1, 2, 0]


def test_nobody_waits_for_the_rank_that_knows_its_prompt():
    """A stream of prompts that rank 0 knows does not keep the one before them waiting."""
    simulation = Simulation((slice(0, 1), slice(1, 2)), known_prefix=lambda _, rank: 64 - rank)
    requests = [simulation.add(id_, 1, 6) for id_ in range(7)]
    simulation.run(seconds=0.01)
    assert simulation.began == [request.id for request in requests]
