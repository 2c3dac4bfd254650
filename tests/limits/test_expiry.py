from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kling_async.limits.expiry import Expiries

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["set", "set", "set", "discard", "pop", "shift"]),
        st.integers(0, 9),
        st.integers(0, 50),
    )
)


@given(steps=STEPS)
def test_like_a_plain_dictionary(steps: list[tuple[str, int, int]]) -> None:
    """Whatever is set, put off, moved forward and forgotten, the same expires as of a dict."""
    expiries, plain = Expiries(), dict[int, float]()
    for step, number, moment in steps:
        if step == "set":
            expiries.set(number, moment)
            plain[number] = moment
        elif step == "discard":
            expiries.discard(number)
            plain.pop(number, None)
        elif step == "shift":
            expiries.shift(number)
            plain = {key: at + number for key, at in plain.items()}
        else:
            due = {key: at for key, at in plain.items() if at <= moment}
            popped = expiries.pop(moment)
            assert sorted(popped) == sorted(due)
            assert [due[key] for key in popped] == sorted(due.values())
            for key in due:
                del plain[key]
        assert expiries.next() == min(plain.values(), default=None)


def test_the_memory_is_that_of_what_is_left() -> None:
    """What has been discarded, or moved forward again and again, is not kept for ever."""
    expiries = Expiries()
    for number in range(5_000):
        expiries.set(number, 1_000.0 + number)
        expiries.discard(number)
    for step in range(5_000):
        expiries.set(7, 900.0 - step / 10)
    assert len(expiries._heap) < 100  # noqa: SLF001 - its size is what is tested
