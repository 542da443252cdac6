"""Placements: the first that fits is taken, budgets stay within memory, refusals name the least."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.checkpoint.isq_table import IsqRequest, IsqRow
from mimo_v2_flash.checkpoint.weight_counts import CountedRow
from mimo_v2_flash.costs.placement import Placement, choose, least

sizes = st.integers(0, 10**6)


def placement(resident: int, expert: int, number: int, other: int, label: str = "x") -> Placement:
    matrices = ("gate", "up", "down")
    rows = [("lm_head.weight", resident, 1)]
    name = "model.layers.1.mlp.experts.0.{}_proj.weight"
    rows += [(name.format(matrix), expert, number) for matrix in matrices if number]
    table = [CountedRow(IsqRow(n, (1, 1), "", "F32", size, ""), k) for n, size, k in rows]
    return Placement(label, IsqRequest(), table, other)


@st.composite
def drawn_placements(draw):
    count = draw(st.integers(1, 4))
    return [
        placement(draw(sizes), draw(sizes), draw(st.integers(0, 9)), draw(sizes), f"form {i}")
        for i in range(count)
    ]


def bytes_of(each: Placement) -> tuple[int, int]:
    """Return the bytes of experts and of all else, counted anew."""
    experts = sum(c.number * c.row.nbytes for c in each.table if ".experts." in c.row.name)
    others = sum(c.number * c.row.nbytes for c in each.table if ".experts." not in c.row.name)
    return experts, others + each.other_bytes


@given(drawn_placements(), st.integers(0, 4 * 10**6))
def test_the_first_that_fits_is_taken_and_a_store_after_all_others(resident, memory):
    stored = resident[:1]
    fitting = [each for each in resident if sum(bytes_of(each)) <= memory]
    experts, others = bytes_of(stored[0])
    an_expert = experts and 3 * stored[0].table[-1].row.nbytes + 6 * 4096
    if fitting:
        assert choose(resident, stored, memory) == fitting[0]
    elif experts and others + an_expert <= memory:
        chosen = choose(resident, stored, memory)
        assert chosen.table == stored[0].table
        assert an_expert <= chosen.expert_cache <= memory - others
        assert chosen.needed_bytes <= memory
        assert chosen.expert_cache == max(min(memory - others, experts), an_expert)
    else:
        with pytest.raises(ValueError, match=r"^device_map auto: nothing fits into "):
            choose(resident, stored, memory)


def test_a_refusal_names_the_least_and_how_to_ask_for_it():
    large = placement(50_000, 10_000, 8, 1000, "as stored")
    message = (
        "weights as stored, 54.6 kB of 240.0 kB of experts in an expert cache, 105.6 kB in all"
    )
    with pytest.raises(ValueError, match=re.escape(f"{message} (--expert-cache 54576)")):
        choose([large], [large], 20_000)


def test_a_store_has_what_weights_and_caches_leave():
    large = placement(50_000, 10_000, 8, 1000)
    assert large.with_store(150_000).expert_cache == 150_000 - 50_000 - 1000
    assert large.with_store(10**6).expert_cache == large.experts_bytes == 240_000


def test_without_experts_there_is_no_store():
    dense = placement(50_000, 0, 0, 0, "as stored")
    with pytest.raises(ValueError, match=r"no experts, 50\.0 kB in all"):
        choose([dense], [dense], 20_000)


def test_options_ask_for_the_placement():
    each = placement(5, 5, 8, 5)
    assert each.options == ""
    assert each._replace(request=IsqRequest("q4_k")).options == "--isq Q4K"
    both = each._replace(request=IsqRequest("q8_0"), expert_cache=9)
    assert both.options == "--isq Q8_0 --expert-cache 9"


def test_the_least_is_that_of_the_fewest_bytes():
    few, many = placement(5, 5, 8, 5), placement(6, 5, 8, 5)
    assert least([many, few]) == few
