"""The chat page in Chromium, by the names that a screen reader has, before a model with a script.

Tests that look into an answer while it comes let the model wait in the middle of it.
"""

import json
import re
from types import SimpleNamespace

import pytest

from mimo_v2_flash.text.tokenizer import load_tokenizer
from tests.support.scripted_model import ScriptedModel
from tests.support.served import FOLDER, NAME, WEATHER, serving
from tools.chromium import find_chromium

pytestmark = pytest.mark.browser

INJECTION = "<img src=x onerror=\"document.title='hit'\"><script>document.title='hit'</script>"
FUNCTION = "<function=get_weather>\n<parameter=city>Paris</parameter>\n</function>"
SCRIPT = {
    "Hello": "A list is a mutable sequence.",
    "Long": "list " * 60,
    "Think": "<think>Is it a list?</think>It is.",
    "Weather": f"I will look.<tool_call>\n{FUNCTION}\n</tool_call>",
    "Inject": f"<think>{INJECTION}</think>{INJECTION}",
}


@pytest.fixture(scope="module")
def server():
    model = ScriptedModel(load_tokenizer(FOLDER), SCRIPT)
    with serving(model) as server:
        yield SimpleNamespace(model=model, **vars(server))


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    options = ["--no-sandbox", "--disable-dev-shm-usage"]  # in containers there is neither
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=options)
        yield browser
        browser.close()


@pytest.fixture
def open_page(server, chromium):
    """Return a function that opens the page; no page may log errors or ask another server."""
    contexts, errors, urls, bodies = [], [], [], []

    def note_request(request):
        urls.append(request.url)
        if request.method == "POST":
            bodies.append(json.loads(request.post_data))

    def open_page(url=server.url, **options):
        contexts.append(chromium.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", note_request)
        page.goto(url)
        page.get_by_role("heading", name=NAME).wait_for()
        return page

    open_page.errors, open_page.bodies = errors, bodies
    yield open_page
    for context in contexts:
        context.close()
    assert errors == []
    assert {url.split("/")[2] for url in urls if not url.startswith("data:")} == {
        server.url.removeprefix("http://")
    }


@pytest.fixture
def page(open_page):
    return open_page()


@pytest.fixture
def paused(server):
    """Let answers wait after four tokens, until the test resumes them or ends."""
    server.model.pause_after = 4
    server.model.resumed.clear()
    yield server.model.resumed
    server.model.resumed.set()
    server.model.pause_after = 0


def send(page, text):
    page.get_by_role("textbox", name="Message").fill(text)
    page.get_by_role("textbox", name="Message").press("Enter")


def last(page):
    return page.get_by_role("article").last


def answer(page):
    """Return the last answer, once it is whole."""
    page.get_by_role("button", name="Send").wait_for()
    return last(page)


def set_fields(page, **fields):
    page.get_by_role("button", name="Settings").click()
    for name, value in fields.items():
        page.get_by_label(name.replace("_", " ")).fill(value)
    page.get_by_role("button", name="Done").click()


def check_thinking(page):
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Thinking").check()
    page.get_by_role("button", name="Done").click()


def wait_until(page, condition):
    for _ in range(4000):
        if condition():
            return
        page.wait_for_timeout(5)
    raise AssertionError


def test_a_message_is_answered_token_by_token(page, paused):
    send(page, "Hello")
    page.get_by_role("article").get_by_text("A list").wait_for()
    assert last(page).inner_text() != SCRIPT["Hello"]
    assert last(page).get_attribute("aria-busy") == "true"
    assert page.get_by_role("button", name="Send").is_hidden()
    paused.set()
    answer(page).get_by_text(SCRIPT["Hello"], exact=True).wait_for()
    assert re.search(r"^\d+ tokens in, \d+ out$", last(page).inner_text(), re.M)
    assert last(page).get_attribute("aria-busy") == "false"


BYTE_BY_BYTE = """() => {
  const whole = window.fetch;
  const transform = (bytes, to) => bytes.forEach((byte) => to.enqueue(Uint8Array.of(byte)));
  window.fetch = async (...request) => {
    const response = await whole(...request);
    return new Response(response.body.pipeThrough(new TransformStream({ transform })), response);
  };
}"""


def test_events_may_be_split_anywhere(page):
    page.evaluate(BYTE_BY_BYTE)
    send(page, "naïve 字 🙂")
    answer(page).get_by_text("naïve 字 🙂", exact=True).wait_for()


def test_shift_and_enter_is_a_new_line(page):
    field = page.get_by_role("textbox", name="Message")
    field.press("Enter")
    field.fill("one")
    field.press("Shift+Enter")
    field.press_sequentially("two")
    assert field.input_value() == "one\ntwo"
    page.get_by_role("button", name="Send").click()
    answer(page)
    assert page.get_by_role("article").first.inner_text() == "one\ntwo"
    assert field.input_value() == ""


def test_thinking_is_folded_when_it_is_over(page, paused):
    check_thinking(page)
    send(page, "Think")
    thinking = last(page).get_by_text("Is it", exact=False)
    thinking.wait_for()
    paused.set()
    answer(page).get_by_text("It is.", exact=True).wait_for()
    assert thinking.is_hidden()
    last(page).get_by_text("Thinking", exact=True).click()
    assert thinking.inner_text() == "Is it a list?"
    assert "of thinking)" in last(page).inner_text()


def test_a_tool_call_is_shown(page, open_page):
    set_fields(page, Tools=json.dumps([WEATHER]))
    send(page, "Weather")
    assert answer(page).get_by_text("Tool call: get_weather").is_visible()
    assert last(page).get_by_text('"city": "Paris"').is_visible()
    assert open_page.bodies[-1]["tools"] == [WEATHER]
    send(page, "Hello")  # the call is part of the chat
    assert SCRIPT["Hello"] in answer(page).inner_text()
    assert open_page.bodies[-1]["messages"][1]["tool_calls"][0]["function"]["name"] == "get_weather"


def test_stop_frees_the_row_and_keeps_the_text(page, server, paused):
    send(page, "Long")
    last(page).get_by_text("list").wait_for()
    page.get_by_role("button", name="Stop").click()
    assert "Stopped" in answer(page).inner_text()
    wait_until(page, lambda: not server.service.running)
    assert server.engine.stats.running == 1  # its step waits
    paused.set()
    wait_until(page, lambda: server.engine.stats.running == 0)
    assert server.lines()[-1]["finish_reasons"] == ["abort"]
    send(page, "Hello")
    assert SCRIPT["Hello"] in answer(page).inner_text()


def test_regenerate_asks_for_the_last_answer_again(page, open_page):
    send(page, "Hello")
    answer(page)
    page.get_by_role("button", name="Regenerate").click()
    assert SCRIPT["Hello"] in answer(page).inner_text()
    assert page.get_by_role("article").count() == 2
    first, second = open_page.bodies
    assert first == second


def test_settings_reach_the_request_and_survive_a_reload(page, open_page):
    fields = {"System_message": "Be brief.", "Temperature": "0.5", "Top_p": "1"}
    set_fields(page, **fields, Max_tokens="3")
    check_thinking(page)
    page.reload()
    send(page, "Long")
    assert "cut at its limit" in answer(page).inner_text()
    assert open_page.bodies == [
        {
            "model": NAME,
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Long"},
            ],
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0.5,
            "top_p": 1,
            "max_tokens": 3,
            "chat_template_kwargs": {"enable_thinking": True},
        }
    ]


def test_what_is_not_set_is_not_sent(page, open_page):
    send(page, "Hello")
    answer(page)
    fields = {"model", "messages", "stream", "stream_options", "chat_template_kwargs"}
    assert open_page.bodies[-1].keys() == fields


def test_no_text_becomes_html(page, open_page):
    send(page, INJECTION)
    assert INJECTION in answer(page).inner_text()
    check_thinking(page)
    send(page, "Inject")
    assert answer(page).text_content().count(INJECTION) == 2
    page.reload()
    assert page.get_by_role("article").count() == 4
    assert page.locator("article :is(img, script)").count() == 0
    assert page.title() == NAME
    assert open_page.errors == []


def test_a_script_that_makes_html_of_text_is_stopped(page, open_page):
    with pytest.raises(Exception, match="TrustedHTML"):
        page.evaluate("document.body.innerHTML = '<b>text</b>'")
    (error,) = open_page.errors
    assert "TrustedHTML" in error
    open_page.errors.clear()


def test_a_chat_survives_a_reload_and_ends_with_a_new_one(page, open_page):
    send(page, "Hello")
    answer(page)
    page.reload()
    assert SCRIPT["Hello"] in answer(page).inner_text()
    page.get_by_role("button", name="New chat").click()
    assert page.get_by_role("article").count() == 0
    send(page, "Long")
    answer(page)
    assert open_page.bodies[-1]["messages"] == [{"role": "user", "content": "Long"}]


def test_a_new_chat_ends_the_answer_that_comes(page, open_page, server, paused):
    send(page, "Long")
    last(page).get_by_text("list").wait_for()
    page.get_by_role("button", name="New chat").click()
    wait_until(page, lambda: not server.service.running)
    paused.set()
    send(page, "Hello")
    assert SCRIPT["Hello"] in answer(page).inner_text()
    assert page.get_by_role("article").count() == 2
    assert open_page.bodies[-1]["messages"] == [{"role": "user", "content": "Hello"}]


def test_an_error_is_shown_in_the_servers_words(page, open_page):
    send(page, "list " * 300)
    assert "maximum context length is 256 tokens" in answer(page).get_by_role("alert").inner_text()
    (error,) = open_page.errors
    assert "400" in error
    open_page.errors.clear()  # Chromium logs each answer with such a status
    set_fields(page, Tools="[")
    page.get_by_role("button", name="Regenerate").click()
    assert "no JSON" in answer(page).get_by_role("alert").inner_text()


def test_a_key_is_sent_and_lives_in_the_tab(chromium):
    model = ScriptedModel(load_tokenizer(FOLDER), SCRIPT)
    with serving(model, api_keys=["secret"]) as server:
        page = chromium.new_page()
        page.goto(server.url)
        page.get_by_text("a valid API key is needed").wait_for()
        set_fields(page, API_key="secret")
        page.get_by_role("heading", name=NAME).wait_for()
        assert page.get_by_text("a valid API key is needed").is_hidden()
        send(page, "Hello")
        assert SCRIPT["Hello"] in answer(page).inner_text()
        assert page.evaluate("localStorage.length") == 0
        assert page.context.cookies() == []
        page.context.close()


PHONE = {"viewport": {"width": 375, "height": 667}, "is_mobile": True, "has_touch": True}


def test_a_phone_never_scrolls_sideways(open_page):
    page = open_page(**PHONE)
    widths = "[document.documentElement, ...document.querySelectorAll('main, dialog')]"
    overflows = f"{widths}.some((each) => each.scrollWidth > each.clientWidth)"
    set_fields(page, Tools=json.dumps([WEATHER]))
    for message in ("Weather", "x" * 120, "Long"):
        send(page, message)
        answer(page)
        assert not page.evaluate(overflows)
    assert page.get_by_role("button", name="Regenerate").is_visible()
    page.get_by_role("button", name="Settings").tap()
    assert not page.evaluate(overflows)
    field = page.get_by_label("API key").bounding_box()
    assert field["x"] >= 0
    assert field["x"] + field["width"] <= 375


def test_colours_are_those_of_the_system(open_page):
    def brightness(scheme):
        page = open_page(color_scheme=scheme)
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)))

    assert brightness("light") > 600
    assert brightness("dark") < 150
