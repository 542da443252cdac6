"""Which format each weight gets, by which rule: precision, topology, promotion, rows."""

import pytest

from mimo_v2_flash.checkpoint.isq_table import (
    IsqRequest,
    StoredWeight,
    isq_lint,
    isq_table,
    sizes_by_form,
)
from mimo_v2_flash.quantization.topology import Topology, parse_topology

EXPERT = "model.layers.{}.mlp.experts.0.up_proj.weight"
WEIGHTS = [
    StoredWeight("model.embed_tokens.weight", (1024, 512), "BF16", 1 << 20),
    StoredWeight("lm_head.weight", (1024, 512), "BF16", 1 << 20),
    StoredWeight("model.norm.weight", (512,), "BF16", 1 << 10),
    StoredWeight("model.layers.0.input_layernorm.weight", (512,), "BF16", 1 << 10),
    StoredWeight("model.layers.0.self_attn.attention_sink_bias", (8,), "BF16", 16),
    StoredWeight("model.layers.0.self_attn.o_proj.weight", (512, 512), "BF16", 1 << 19),
    *(StoredWeight(EXPERT.format(n), (256, 512), "fp8", 131104) for n in range(4)),
    StoredWeight("model.layers.1.mlp.gate.weight", (16, 512), "F32", 1 << 15),
    StoredWeight("model.layers.1.mlp.gate.e_score_correction_bias", (16,), "F32", 64),
    StoredWeight("model.mtp.layers.1.eh_proj.weight", (512, 1024), "BF16", 1 << 20),
]
NAMES = [weight.name for weight in WEIGHTS]
PRECISE = {*NAMES[2:5], *NAMES[10:12]}


def forms(request: IsqRequest, weights=WEIGHTS) -> dict[str, str]:
    return {row.name: row.form for row in isq_table(weights, request)}


def rules(request: IsqRequest, weights=WEIGHTS) -> dict[str, str]:
    return {row.name: row.rule for row in isq_table(weights, request)}


def request(isq: str | None, topology: str = "") -> IsqRequest:
    return IsqRequest.of(isq, parse_topology(topology) if topology else None)


@pytest.mark.parametrize("isq", [None, "8", "Q4K", "int8", "fp8"])
@pytest.mark.parametrize("topology", ["", "0-4: {isq: 8}", "/./: {isq: 8}"])
def test_what_must_stay_precise_does(isq, topology):
    table = isq_table(WEIGHTS, request(isq, topology))
    assert {row.name for row in table if row.rule == "stays precise"} == PRECISE
    for row, weight in zip(table, WEIGHTS, strict=True):
        if row.name in PRECISE:
            assert (row.form, row.stored, row.nbytes) == ("", weight.stored, weight.nbytes)


@pytest.mark.parametrize(
    ("isq", "promoted"),
    [
        *(("Q3K", "q6_k"), ("Q4K", "q6_k"), ("Q6K", "q8_0"), ("8", "q8_0"), ("int8", "int8")),
        *(("int4", "int8"), ("mxfp4", "int8"), ("fp8", "")),
    ],
)
def test_embedding_and_head_are_promoted(isq, promoted):
    wanted = request(isq)
    table = forms(wanted)
    assert [table[name] for name in NAMES[:2]] == [promoted] * 2
    assert table[NAMES[5]] == wanted.isq
    assert table[NAMES[12]] == wanted.isq  # an MTP head's
    rule = rules(wanted)[NAMES[0]]
    assert ("promoted" in rule) == (promoted not in ("", wanted.isq))


def test_a_regular_expression_decides_for_the_head_too():
    wanted = request("Q4K", "/lm_head/: {isq: Q3K}\n/embed/: {device: cpu}")
    assert (forms(wanted)[NAMES[1]], rules(wanted)[NAMES[1]]) == ("q3_k", "/lm_head/")
    assert (forms(wanted)[NAMES[0]], rules(wanted)[NAMES[0]]) == ("", "/embed/")


def test_an_embedding_is_in_a_format_of_single_rows():
    table = rules(wanted := request("8", "/embed|lm_head/: {isq: fp8}"))
    assert table[NAMES[0]] == "/embed|lm_head/; no embedding is fp8"
    assert [forms(wanted)[name] for name in NAMES[:2]] == ["", "fp8"]


def test_layers_decide_before_the_global_type_and_cover_nothing_else():
    table = forms(request("Q6K", "1-3: {isq: Q3K}\n2: {isq: }\n/layers.3/: {isq: 8}"))
    expected = ["q6_k", "q3_k", "", "q8_0"]
    assert [table[EXPERT.format(n)] for n in range(4)] == expected
    assert table[NAMES[12]] == "q6_k"  # of MTP head 1, which is no layer 1
    assert rules(request("Q6K", "1-3: {isq: Q3K}"))[EXPERT.format(0)] == "--isq Q6K"


def test_what_no_rule_covers_stays_without_a_type():
    table = isq_table(WEIGHTS, request(None, "1: {isq: 8}"))
    assert {row.name for row in table if row.form} == {EXPERT.format(1)}
    assert {row.rule for row in table} == {"stays precise", "as stored", "1"}


@pytest.mark.parametrize(
    ("isq", "columns", "form", "reason"),
    [
        ("Q4K", 512, "q4_k", ""),
        ("Q4K", 128, "q8_0", "; rows of 128 have no blocks of 256"),
        ("Q3K", 384, "q8_0", "; rows of 384 have no blocks of 256"),
        ("Q6K", 40, "", "; rows of 40 have no blocks of 256; rows of 40 have no blocks of 32"),
        ("8", 40, "", "; rows of 40 have no blocks of 32"),
        ("int4", 96, "int8", "; rows of 96 have no blocks of 128"),
        ("mxfp4", 40, "int8", "; rows of 40 have no blocks of 32"),
        ("int8", 23, "int8", ""),
        ("fp8", 23, "fp8", ""),
    ],
)
def test_rows_that_hold_no_blocks_fall_back_and_the_rule_says_so(isq, columns, form, reason):
    weights = [StoredWeight(EXPERT.format(0), (64, columns), "BF16", 128 * columns)]
    (row,) = isq_table(weights, wanted := request(isq))
    assert (row.form, row.rule) == (form, rules(wanted, weights)[row.name])
    assert row.rule.endswith(reason)
    assert row.rule.partition(";")[0].startswith("--isq ")


def test_what_is_in_the_format_already_stays():
    wanted = request("fp8")
    assert {row.form for row in isq_table(WEIGHTS[6:10], wanted)} == {""}
    assert forms(wanted)[NAMES[5]] == "fp8"
    other = [StoredWeight(EXPERT.format(0), (256, 512), "q8_0", 139264)]
    assert rules(wanted, other) == {EXPERT.format(0): "--isq fp8; is Q8_0 already"}
    assert forms(request("8"), other) == {EXPERT.format(0): ""}


def test_bytes_are_those_of_the_blocks():
    table = isq_table(WEIGHTS, request("Q4K"))
    sizes = {row.name: row.nbytes for row in table}
    assert sizes[EXPERT.format(0)] == 256 * 2 * 144
    assert sizes[NAMES[0]] == 1024 * 2 * 210
    assert sizes_by_form(table) == {
        "q6_k": 2 * 1024 * 2 * 210,
        "q4_k": (4 * 256 * 2 + 512 * 2 + 512 * 4) * 144,
        "F32": (1 << 15) + 64,
        "BF16": (1 << 11) + 16,
    }


# What is odd


@pytest.mark.parametrize(
    ("isq", "topology", "lines"),
    [
        ("8", "", []),
        ("8", "0-4: {isq: 6}", []),
        (None, "/proj/: {isq: 6}", []),
        (
            "8",
            "0-3: {isq: 6}\n2-4: {isq: 8}",
            ["0-3 and 2-4 overlap: 2-4 decides for layer 2"],
        ),
        (
            "8",
            "1-4: {isq: 6}\n0-4: {isq: 8}",
            ["1-4 and 0-4 overlap: 0-4 decides for layers 1 to 3"],
        ),
        ("8", "0-5: {isq: 6}", ["0-5: the model has 4 layers, 0 to 3"]),
        (
            "8",
            "0-4: {isq: 6}\n4: {isq: 8}\n48: {isq: 8}",
            ["4: the model has 4 layers, 0 to 3", "48: the model has 4 layers, 0 to 3"],
        ),
        (
            "8",
            "0-4: {isq: 6}\n/q_proj/: {isq: 8}\n/norm/: {isq: 8}",
            [f"{each} matches no weight that can be quantized" for each in ("/q_proj/", "/norm/")],
        ),
        (
            None,
            "1: {isq: 6}",
            [
                "no rule for layer 0 (0.000655 GB): as stored",
                "no rule for layers 2 to 3 (0.000262 GB): as stored",
            ],
        ),
        ("Q4K", "0: {isq: 6}", ["no rule for layers 1 to 3 (0.000221 GB): Q4K of --isq"]),
        ("Q4K", "/o_proj|s.[123]/: {isq: 6}", ["no rule for layer 0 (7.37e-05 GB): Q4K of --isq"]),
    ],
)
def test_lint(isq, topology, lines):
    wanted = request(isq, topology)
    assert isq_lint(isq_table(WEIGHTS, wanted), wanted, 4) == lines


# Requests as text


@pytest.mark.parametrize(
    ("isq", "topology"),
    [
        (None, ""),
        ("8", ""),
        (None, "0-8: {isq: Q3K}"),
        ("Q4K", '"0-8": {isq: 3}\n"/a\\\\.b|é\\"/": {isq: }\n3: {isq: fp8}'),
    ],
)
def test_a_request_is_the_same_from_its_text(isq, topology):
    wanted = request(isq, topology)
    assert IsqRequest.of_text(wanted.text) == wanted
    assert bool(wanted.text) == (wanted != IsqRequest())


def test_a_request_names_its_forms():
    assert request("Q4K", "0-2: {isq: 8}\n3: {isq: }").forms == {"q4_k", "q8_0"}
    assert IsqRequest(None, Topology()).forms == set()


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"isq": "q8_0"}', '{"isq": 1, "topology": 2}'])
def test_a_damaged_text_is_refused(text):
    with pytest.raises(ValueError, match=r"^isq of prepared weights is damaged: "):
        IsqRequest.of_text(text)
