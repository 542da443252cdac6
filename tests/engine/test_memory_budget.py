"""memory_budget: never exceeded; nothing starves; pages are given back where they are needed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.engine.memory_budget import MemoryBudget, MemoryUsage
from mimo_v2_flash.kv_bytes import KVBytes
from tests.support.engine_simulation import Pages, Simulation, arrivals, arrive

ROWS, SIZES = (slice(0, 3),), KVBytes(100, 10, 1)


def budget_of(limit, *, rank_rows=ROWS, **pages) -> tuple[MemoryBudget, Pages]:
    runner = Pages(rank_rows, SIZES, **pages)
    return MemoryBudget(rank_rows, SIZES, limit, runner), runner


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("tokens", [1, 20])
def test_a_request_fits_to_the_byte(n, tokens):
    needed = 100 + n * (10 + tokens)
    budget_of(needed)[0].check(n, tokens)
    with pytest.raises(ValueError, match=rf"may need {needed} bytes.*memory is {needed - 1} bytes"):
        budget_of(needed - 1)[0].check(n, tokens)


@pytest.mark.parametrize("tokens", [1, 20])
def test_what_runs_together_fits_to_the_token(tokens):
    memory, _ = budget_of(100 + (10 + 30) + (10 + tokens))
    assert memory.reserve([0], 30)
    assert not memory.reserve([1], tokens + 1)
    assert memory.reserve([1], tokens)
    assert not memory.reserve([2], 1)


def test_an_empty_cache_fits_to_the_byte():
    budget_of(100)
    with pytest.raises(ValueError, match="an empty KV cache has 100 bytes, memory is 99 bytes"):
        budget_of(99)


def test_without_a_limit_everything_fits_and_nothing_is_releases():
    memory, pages = budget_of(None, prefix_bytes=50)
    memory.check(3, 10**12)
    for row in range(3):
        assert memory.reserve([row], 10**12)
        memory.release(row, 10**9)
    memory.settle()
    assert pages.releases == 0
    assert memory.usage() == (3 * (10**9 + 10), 0, 100 + 3 * (10**9 + 10), 3 * 10**9 + 130, None)


def test_a_row_counts_by_the_most_tokens_that_it_held():
    memory, pages = budget_of(200)
    for tokens in (30, 7):
        assert memory.reserve([0], 30)
        pages.write(0, tokens)
        memory.record(0, tokens)
        assert memory.usage().row_bytes == 40
        memory.release(0, tokens)
    memory.settle()
    assert memory.usage() == MemoryUsage(40, 0, 140, 140, 200)
    assert memory.reserve([1], 40)  # 140 + 50, to the byte within
    assert pages.releases == 0
    assert memory.reserve([2], 1)  # row 0 has nothing now
    assert (pages.written[0], memory.usage().row_bytes) == (0, 0)


def test_what_a_reservation_does_not_cover_is_releases():
    memory, pages = budget_of(200)
    assert memory.reserve([0], 60)
    pages.write(0, 60)
    memory.release(0, 60)
    assert memory.reserve([0], 20)
    assert pages.releases == 0
    assert memory.reserve([1], 30)
    assert pages.written[0] == 20
    memory.record(0, 20)
    assert memory.usage().row_bytes == 30


def test_pages_go_before_prefixes_and_prefixes_before_a_request_waits():
    memory, pages = budget_of(200, prefix_bytes=30)
    assert memory.reserve([0], 50)
    pages.write(0, 50)
    memory.release(0, 50)
    assert memory.reserve([1], 60)
    assert (pages.releases, pages.prefixes[0].budget) == (1, 30)
    assert memory.reserve([2], 15)
    assert pages.prefixes[0].budget == 5
    assert not memory.reserve([0], 1)
    memory.release(2, 15)
    memory.settle()
    assert pages.prefixes[0].budget == 30


def test_a_rank_has_a_limit_of_its_own():
    memory, pages = budget_of(150, rank_rows=(slice(0, 2), slice(2, 4)), prefix_bytes=10)
    assert memory.reserve([0], 40)
    assert memory.reserve([3], 35)
    assert [store.budget for store in pages.prefixes] == [0, 5]
    assert not memory.reserve([1], 1)
    pages.write(3, 35)
    memory.record(3, 35)
    assert memory.usage() == MemoryUsage(45, 5, 150, 150, 150)


ranks = st.sampled_from([(slice(0, 2),), (slice(0, 5),), (slice(0, 3), slice(3, 6), slice(6, 8))])
sizes = st.builds(KVBytes, st.integers(0, 50), st.sampled_from([0, 7, 30]), st.integers(1, 3))


@settings(max_examples=150)
@given(
    st.lists(arrivals, min_size=1, max_size=12),
    ranks,
    sizes,
    st.integers(0, 400),
    st.sampled_from([0, 0, 20, 200]),
    st.sampled_from([0, 0, 9]),
    st.booleans(),
)
def test_no_schedule_exceeds_its_memory_and_all_requests_end(
    schedule, rank_rows, sizes, limit, prefix_bytes, known, gives_back
):
    limit += sizes.fixed
    simulation = Simulation(
        rank_rows,
        limit=limit,
        sizes=sizes,
        known=known,
        prefix_bytes=prefix_bytes,
        gives_back=gives_back,
    )

    accepted = []
    for each in schedule:
        tokens = each.prompt + each.new - 1
        if sizes.fixed + each.n * (sizes.sequence + sizes.token * tokens) <= limit:
            simulation.memory.check(each.n, tokens)
            accepted.append(each)
        else:
            with pytest.raises(ValueError, match="memory is"):
                simulation.memory.check(each.n, tokens)
    requests = arrive(simulation, accepted, 1.0)
    simulation.run()
    for request in requests.values():
        assert all(sequence.finish_reason for sequence in request.sequences)
    simulation.scheduler.schedule()
    assert simulation.memory.usage().memory_bytes == simulation.pages.nbytes
    rest = (limit - sizes.fixed - sizes.sequence) // sizes.token
    assert rest < 1 or simulation.memory.reserve([0], rest)  # nothing stays reserved
