"""Types of in-situ quantization: mistral.rs's names and numbers, in any case."""

import pytest

from mimo_v2_flash.quantization import registry
from mimo_v2_flash.quantization.isq_types import ISQ_TYPES, isq_name, parse_isq


@pytest.mark.parametrize(
    ("text", "form"),
    [
        *(("8", "q8_0"), ("Q8_0", "q8_0"), ("q8_0", "q8_0"), ("6", "q6_k"), ("Q6K", "q6_k")),
        *(("q6_k", "q6_k"), ("4", "q4_k"), ("q4k", "q4_k"), ("Q4_K", "q4_k"), ("3", "q3_k")),
        *(("Q3K", "q3_k"), ("INT8", "int8"), ("int4", "int4"), ("MXFP4", "mxfp4")),
        *(("fp8", "fp8"), ("F8E4M3", "fp8")),
    ],
)
def test_a_type_has_many_names(text, form):
    assert parse_isq(text) == form


def test_a_name_is_mistral_rss():
    names = [isq_name(form) for form in ISQ_TYPES]
    assert names == ["Q8_0", "Q6K", "Q4K", "Q3K", "int8", "int4", "MXFP4", "fp8"]
    assert all(parse_isq(name) == form for name, form in zip(names, ISQ_TYPES, strict=True))
    assert isq_name("BF16") == "BF16"


@pytest.mark.parametrize("text", ["", "5", "2", "Q5K", "q4_0", "Q4_K_M", "80", "8.0", "hqq8"])
def test_a_type_that_nobody_has_is_refused_with_those_that_there_are(text):
    allowed = "Q8_0, Q6K, Q4K, Q3K, int8, int4, MXFP4, fp8, 8, 6, 4, 3"
    with pytest.raises(ValueError, match=f"^isq is '{text}', allowed is {allowed}$"):
        parse_isq(text)


def test_a_type_without_its_format_is_not_allowed(monkeypatch):
    monkeypatch.setattr(registry, "FORMATS", {"fp8": registry.FORMATS["fp8"]})
    with pytest.raises(ValueError, match=r"allowed is fp8$"):
        parse_isq("8")
