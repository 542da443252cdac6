"""Commands of a chat: each does what it says, and what is none is not sent to the model."""

import pytest

from mimo_v2_flash.chat.commands import COMMANDS, EndOfChatError, run_command
from mimo_v2_flash.chat.conversation import Conversation


@pytest.fixture
def conversation(runner):
    settings = {"temperature": 0, "max_tokens": 2}
    return Conversation(runner, settings=settings, experts_touched=lambda: (3, 80))


def silent(kind, part):
    """Show nothing."""


def run(conversation, line):
    return run_command(conversation, line, silent)


def test_help_lists_all_commands(conversation):
    assert all(name in run(conversation, "/help") for name in COMMANDS)


def test_settings_are_shown_set_and_reset(conversation):
    assert run(conversation, "/set temperature 0.5") == '{"temperature": 0.5, "max_tokens": 2}'
    assert run(conversation, "/set temperature") == '{"max_tokens": 2}'
    assert "top_p" in run(conversation, "/set")


def test_a_conversation_is_changed(conversation, tmp_path):
    run(conversation, "/system Be brief.")
    assert conversation.system == "Be brief."
    run(conversation, "/think on")
    assert conversation.enable_thinking is True
    run(conversation, "/think off")
    conversation.reply("What is a list?", silent)
    assert "length" in run(conversation, "/regen")
    assert run(conversation, "/tokens").endswith(" of 256 tokens.")
    assert run(conversation, f"/save {tmp_path / 'a file'}").endswith("2 messages.")
    run(conversation, "/undo")
    assert conversation.messages == []
    run(conversation, f"/load {tmp_path / 'a file'}")
    assert len(conversation.messages) == 2
    assert "tokens/s" in run(conversation, "/stats")
    assert "3 of 80 experts" in run(conversation, "/experts")
    run(conversation, "/clear")
    assert conversation.messages == []
    run(conversation, "/system")
    assert conversation.system is None


@pytest.mark.parametrize("line", ["/exit", "/bye", "/quit", "\\exit"])
def test_there_are_several_words_to_leave(conversation, line):
    with pytest.raises(EndOfChatError):
        run(conversation, line)


@pytest.mark.parametrize("line", ["/nope", "/", "/think maybe", "/set temperature x", "/save"])
def test_a_line_that_makes_no_sense_is_refused(conversation, line):
    with pytest.raises(ValueError, match=r"."):
        run(conversation, line)
    assert conversation.messages == []


def test_experts_are_not_counted_everywhere(runner):
    with pytest.raises(ValueError, match="NumPy"):
        run(Conversation(runner), "/experts")


def test_drafts_are_in_the_statistics_where_there_are_some(conversation, monkeypatch):
    assert "drafts" not in run(conversation, "/stats")
    stats = conversation.runner.stats._replace(
        drafted=(4, 4, 2), accepted=(3, 1, 0), tokens_per_step=2.0, draft_seconds=0.5
    )
    monkeypatch.setattr(type(conversation.runner), "stats", stats)
    last = run(conversation, "/stats").splitlines()[-1]
    assert last == "2.00 tokens per step: 4 of 10 drafts accepted, 0.50 s in drafting"
