"""outputs: events of one step and answer are one."""

from mimo_v2_flash.engine.outputs import Event, TokenLogprob

FIRST, SECOND = TokenLogprob(4, -1.0, 1, ()), TokenLogprob(5, -2.0, 2, ())


def test_events_of_a_step_are_one_with_the_last_ones_end():
    first, second = Event(3, 0, (4,), (FIRST,)), Event(3, 0, (5,), (SECOND,), "stop")
    assert first.after(None) is first
    assert second.after(first) == Event(3, 0, (4, 5), (FIRST, SECOND), "stop")
    assert Event(3, 0, (), None, "stop").after(first) == Event(3, 0, (4,), (FIRST,), "stop")


def test_an_event_is_the_same_however_long_its_request_waited():
    assert Event(3, 0, (4,), queue_seconds=1.0) == Event(3, 0, (4,))
