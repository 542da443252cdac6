"""Topology files: mistral.rs's grammar and precedence, and one line for what is wrong."""

from pathlib import Path

import pytest

from mimo_v2_flash.quantization.topology import Topology, parse_topology, read_topology

FOLDER = Path(__file__).parents[2] / "topologies"
OWNERS = (
    "# Early layers: lower quantization for embeddings\n0-8:\n  isq: Q3K\n"
    "# Middle layers: balanced quantization\n8-24:\n  isq: Q4K\n"
    "# Final layers: higher quality for output\n24-32:\n  isq: Q6K\n"
)
Q, DOWN = "model.layers.3.self_attn.q_proj.weight", "model.layers.3.mlp.down_proj.weight"


def decided(text: str, layer: int | None, name: str = Q) -> str | None:
    """Return the selector that decides for a weight of a layer."""
    rule = parse_topology(text).rule_for(name, layer)
    return rule and rule.selector


@pytest.mark.parametrize(
    ("text", "layer", "selector"),
    [
        ("0-4: {isq: Q4K}", 0, "0-4"),
        ("0-4: {isq: Q4K}", 3, "0-4"),
        ("0-4: {isq: Q4K}", 4, None),  # the end is exclusive
        ("0-4: {isq: Q4K}", None, None),  # embedding, head, MTP heads
        ("2: {isq: Q4K}", 2, "2"),
        ("2: {isq: Q4K}", 3, None),
        # mistral.rs's own tests
        ("0-4: {isq: Q4K}\n2-6: {isq: Q6K}", 0, "0-4"),
        ("0-4: {isq: Q4K}\n2-6: {isq: Q6K}", 2, "2-6"),
        ("0-4: {isq: Q4K}\n2-6: {isq: Q6K}", 5, "2-6"),
        ("0-4: {isq: Q4K}\n2-4: {isq: Q3K}", 1, "0-4"),
        ("0-4: {isq: Q4K}\n2-4: {isq: Q3K}", 2, "2-4"),
        # the higher end, whatever the order and the beginning
        ("2-6: {isq: Q6K}\n0-4: {isq: Q4K}", 3, "2-6"),
        ("0-6: {isq: Q6K}\n3-5: {isq: Q4K}", 3, "0-6"),
        ("3: {isq: Q4K}\n0-6: {isq: Q6K}", 3, "0-6"),
        ("3: {isq: Q4K}\n0-4: {isq: Q6K}", 3, "0-4"),
        ("0-4: {isq: Q6K}\n3: {isq: Q4K}", 3, "3"),
        # regular expressions before ranges, the later of two
        ("/q_proj/: {isq: Q4K}\n0-48: {isq: Q6K}", 3, "/q_proj/"),
        ("/q_proj/: {isq: Q4K}\n/self_attn/: {isq: Q6K}", 3, "/self_attn/"),
        ("/self_attn/: {isq: Q6K}\n/q_proj/: {isq: Q4K}", 3, "/q_proj/"),
        ("/q_proj/: {isq: Q4K}\n/k_proj/: {isq: Q6K}", 3, "/q_proj/"),
        ("/q_proj/: {isq: Q4K}", None, "/q_proj/"),
        (r"'/^model\.layers\.3\..*\.weight$/': {isq: Q4K}", 3, r"/^model\.layers\.3\..*\.weight$/"),
        (r"'/^layers\.3/': {isq: Q4K}", 3, None),
    ],
)
def test_which_rule_decides(text, layer, selector):
    assert decided(text, layer) == selector


def test_a_rule_is_a_whole_entry():
    """A stronger rule without a type leaves as stored what a weaker one has a type for."""
    topology = parse_topology("0-4: {isq: Q4K}\n2-4: {device: cpu}\n1: {isq: }\n0: {isq: ~}")
    forms = [rule.isq for layer in range(4) if (rule := topology.rule_for(Q, layer))]
    assert forms == ["q4_k", "q4_k", None, None]
    assert [rule.isq for rule in topology.rules] == ["q4_k", None, None, None]


def test_the_file_of_the_guide_is_read_as_it_stands():
    assert (FOLDER / "isq.yml").read_text() == OWNERS
    topology = read_topology(FOLDER / "isq.yml")
    rules = [(layer, topology.rule_for(DOWN, layer)) for layer in (0, 7, 8, 23, 24, 31, 32, 47)]
    forms = {layer: rule and rule.isq for layer, rule in rules}
    expected = {0: "q3_k", 7: "q3_k", 8: "q4_k", 23: "q4_k", 24: "q6_k", 31: "q6_k"}
    assert forms == expected | {32: None, 47: None}


def test_numbers_are_types_and_texts_are_texts():
    topology = parse_topology("010-012: {isq: 8}\n'5': {isq: '6'}\n6: {isq: !!str 4}")
    assert [rule.layers for rule in topology.rules] == [range(10, 12), range(5, 6), range(6, 7)]
    assert [rule.isq for rule in topology.rules] == ["q8_0", "q6_k", "q4_k"]


def test_overlaps_have_the_weaker_first():
    topology = parse_topology("2-6: {isq: Q6K}\n0-4: {isq: Q4K}\n6-8: {isq: Q4K}\n/q/: {isq: 8}")
    pairs = [
        (weak.selector, strong.selector, layers) for weak, strong, layers in topology.overlaps()
    ]
    assert pairs == [("0-4", "2-6", range(2, 4))]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0-8: {isq: Q9K}", "'0-8': isq is 'Q9K', allowed is Q8_0, "),
        ("0-8: {isq: [8]}", r"'0-8': isq is \['8'\], expected a type, such as Q4K"),
        ("0-8: {isk: Q4K}", "'0-8': unknown key 'isk', expected isq or device"),
        ("0-8: Q4K", "'0-8': holds 'Q4K', expected isq: TYPE"),
        ("0-8:", "'0-8': holds '', expected isq: TYPE"),
        ("0-8: {device: tpu}", r"'0-8': device is 'tpu', expected cpu, cuda\[N\] or metal\[N\]"),
        ("0-8: {device: 'cuda[1]'}", r"'0-8': device is cuda\[1\], allowed is cpu: ranks split"),
        ("8-8: {isq: 8}", "'8-8': its end, 8, is exclusive and must be above its start, 8"),
        ("9-8: {isq: 8}", "'9-8': its end, 8, is exclusive and must be above its start, 9"),
        ("-1: {isq: 8}", "'-1': expected START-END, the number of a layer, or /regular expr"),
        ("0-: {isq: 8}", "'0-': expected START-END"),
        ("1e1: {isq: 8}", "'1e1': expected START-END"),
        ("0 - 8: {isq: 8}", "'0 - 8': expected START-END"),
        ("'/q_(/': {isq: 8}", r"'/q_\(/': missing \), unterminated subpattern"),
        ("/: {isq: 8}", "'/': expected START-END"),
        ("0-8: {isq: 8}\n0-8: {isq: 6}", "'0-8' is there more than once"),
        ("0-8: {isq: 8, isq: 6}", "'isq' is there more than once"),
        ("", "holds no rules: expected lines such as `0-8: {isq: Q4K}`"),
        ("[0-8]", "holds no rules"),
        ("0-8: {isq: 8", "not YAML: while parsing a flow mapping .* line 1, column 6"),
        ("0-8: &a [*a]", "not YAML: found unconstructable recursive node"),
        ("0-8: !!python/object/apply:os.system ['true']", r"'0-8': holds \['true'\], expected"),
        ("? [a]\n: {isq: 8}", "not YAML: while constructing a mapping .*unhashable key"),
        ("<<: {isq: 8}", "'<<': expected START-END"),
        ("[" * 500, "not YAML: it is nested too deeply"),
        (b"0-8: {isq: \xff}", "not YAML: .*invalid start byte"),
    ],
)
def test_what_is_wrong_is_one_line(text, message, tmp_path):
    (tmp_path / "t.yml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=rf"t\.yml: {message}") as raised:
        read_topology(tmp_path / "t.yml")
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"nothing\.yml"):
        read_topology("nothing.yml")


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yml")), ids=lambda file: file.stem)
def test_the_topologies_that_ship_are_read(file):
    assert read_topology(file) != Topology()
