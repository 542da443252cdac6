"""Recorded routing: what is written is read; a damaged line is named."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.expert_store.routing_trace import RoutingHeader, read_trace, write_call

HEADER = RoutingHeader("tiny", "ab12", 7, False, [1, 4], [[10, 20, 30], [40, 50, 60]])
ids = st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=2), min_size=1, max_size=5)


def header_line(**changes):
    return json.dumps({"format": "mimo-routing-1", **HEADER._asdict()} | changes)


def write(path, calls, header=HEADER):
    with path.open("w") as file:
        header.write(file)
        for layer, is_decode, expert_NA in calls:
            write_call(file, layer, is_decode, np.array(expert_NA, np.int32))


@given(st.lists(st.tuples(st.sampled_from([1, 4]), st.booleans(), ids)))
def test_what_is_written_is_read(tmp_path_factory, calls):
    path = tmp_path_factory.mktemp("trace") / "routing.jsonl"
    write(path, calls)
    trace = read_trace(path)
    assert trace.header == HEADER
    np.testing.assert_array_equal(trace.header.sizes, [[10, 20, 30], [40, 50, 60]])
    read = [(HEADER.layers[c.layer], c.is_decode, c.expert_NA.tolist()) for c in trace.calls]
    assert read == calls
    assert all(call.experts.tolist() == sorted({*call.expert_NA.ravel()}) for call in trace.calls)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{}",
        "[]",
        "nonsense",
        header_line(format="mimo-routing-2"),
        header_line(layers=[1]),
        header_line(expert_bytes=[[0], [1]]),
        header_line(expert_bytes=[[1], []]),
        header_line(expert_bytes=[1, 2]),
    ],
)
def test_another_file_is_refused(tmp_path, line):
    path = tmp_path / "routing.jsonl"
    path.write_text(line)
    with pytest.raises(ValueError, match=r"routing\.jsonl: no recorded routing, as --record-rout"):
        read_trace(path)


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "{}",
        '{"layer": 2, "decode": true, "experts": [[0]]}',
        '{"layer": [1], "decode": true, "experts": [[0]]}',
        '{"layer": 1, "decode": true, "experts": [[3]]}',
        '{"layer": 1, "decode": true, "experts": [[-1]]}',
        '{"layer": 1, "decode": true, "experts": [0]}',
        '{"layer": 1, "decode": true, "experts": []}',
        '{"layer": 1, "decode": true, "experts": [[0], [1, 2]]}',
        '{"layer": 1, "decode": true, "experts": [[1e400]]}',
        '{"layer": 1, "decode": true, "experts": [["a"]]}',
    ],
)
def test_a_damaged_line_is_named(tmp_path, line):
    path = tmp_path / "routing.jsonl"
    write(path, [(1, True, [[0, 1]])])
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=r"routing\.jsonl: line 3: no call of a layer: "):
        read_trace(path)
