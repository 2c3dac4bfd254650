"""Values of all kinds, for properties that hold for any value."""

from hypothesis import strategies as st

HUGE = 10**5000  # more digits than Python agrees to write

ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.text(st.characters()),
    st.binary(),
    st.lists(st.integers()),
    st.complex_numbers(),
    st.decimals(),
    st.just(HUGE),
    st.just(-HUGE),
)
