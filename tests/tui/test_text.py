from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tui.hostile import FORBIDDEN, HOSTILE
from tui.text import arrange, clean, fit, line_width, plain, width_of, wrap


@pytest.mark.parametrize("text", HOSTILE)
def test_no_character_that_acts_on_a_terminal_survives(text):
    assert not FORBIDDEN.search(clean(text))


@given(st.text())
def test_any_text_becomes_harmless_and_stays_on_one_line(text):
    assert not FORBIDDEN.search(clean(text))


@given(st.text())
def test_cleaning_twice_changes_nothing_more(text):
    assert clean(clean(text)) == clean(text)


def test_ordinary_text_passes_unchanged():
    text = "orders-0@18220031 ▓░ ● ⚠ ✖ Müller 東京 \\x1b [/] [@click=app.quit]x[/]"
    assert clean(text) == text


def test_a_long_text_is_cut_with_an_ellipsis():
    assert clean("x" * 50, 10) == "x" * 9 + "…"


@given(
    st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cc", "Cf", "Mn", "Me", "Zl", "Zp"])), st.integers(0, 30)
)
def test_a_fitted_text_takes_exactly_its_width(text, width):
    assert width_of(fit(clean(text), width)) == width


def test_a_wide_character_is_never_cut_in_half():
    assert fit("東京都", 4) == "東 …"
    assert fit("東京", 4) == "東京"
    assert fit("12", 5, "right") == "   12"


def test_groups_of_the_lowest_priority_are_left_out_first():
    groups = [(5, (("aaaa", "plain"),)), (9, (("bbbb", "plain"),)), (1, (("cccc", "plain"),))]
    assert plain(arrange(groups, 20)) == "aaaa  bbbb  cccc"
    assert plain(arrange(groups, 12)) == "aaaa  bbbb"
    assert plain(arrange(groups, 5)) == "bbbb"
    assert line_width(arrange(groups, 12)) == 10


def test_wrapping_keeps_words_together_where_it_can():
    assert wrap("offsets are processed again", 12) == ["offsets are ", "processed ", "again"]
    assert wrap("x" * 25, 10) == ["x" * 10, "x" * 10, "x" * 5]


@given(st.text(alphabet="ab 東", max_size=60), st.integers(2, 9))
def test_wrapping_loses_nothing_and_keeps_the_width(text, width):
    pieces = wrap(text, width)
    assert "".join(pieces) == text
    assert all(width_of(piece) <= width for piece in pieces)
