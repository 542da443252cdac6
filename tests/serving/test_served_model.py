"""A served model: its name, the room of its context, texts that are no Unicode."""

import pytest

from mimo_v2_flash.serving.errors import APIError
from tests.support.served import NAME, served_tiny


@pytest.fixture(scope="module")
def served():
    return served_tiny(max_length=64)


def test_its_defaults_are_the_checkpoints(served):
    assert served.defaults["temperature"] == 0.6
    assert served.end_tokens == {0, 2}


def test_another_model_does_not_exist(served):
    served.check_name(NAME)
    for name, status in ((None, 400), ("gpt", 404)):
        with pytest.raises(APIError) as caught:
            served.check_name(name)
        assert caught.value.status == status


def test_a_prompt_that_is_too_long_is_refused_in_the_words_that_clients_know(served):
    served.check_length([1] * 64)
    with pytest.raises(
        APIError, match=r"^This model's maximum context length is 64 tokens"
    ) as caught:
        served.check_length([1] * 65)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(APIError, match="empty"):
        served.check_length([])


def test_a_text_that_is_no_unicode_is_refused(served):
    with pytest.raises(APIError, match="lone surrogate"):
        served.encode("\ud800")
