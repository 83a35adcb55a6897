from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tui import format as fmt


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (None, "\u2013"), (math.nan, "\u2013"), (0, "0"), (7, "7"), (999, "999"), (1.5, "1.5"), (1000, "1.0k"), (1249, "1.2k"),
        (18_400, "18k"), (999_499, "999k"), (999_600, "1.0M"), (3_400_000, "3.4M"), (-4_200, "-4.2k"), (2e9, "2.0G"),
    ],
)  # fmt: skip
def test_a_count_is_short(number, shown):
    assert fmt.count(number) == shown


@given(st.floats(min_value=-1e18, max_value=1e18))
def test_a_count_never_takes_more_than_six_characters(number):
    assert len(fmt.count(number)) <= 6


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "\u2013"), (math.inf, "\u2013"), (0, "0s"), (0.000_2, "200µs"), (0.084, "84ms"), (0.9996, "1.0s"), (1.23, "1.2s"),
        (9.97, "10s"), (47, "47s"), (59.7, "1m00s"), (252, "4m12s"), (1860, "31m"), (11_100, "3h05m"), (266_520, "3d02h"),
        (40_000_000, "462d"), (-5, "0s"),
    ],
)  # fmt: skip
def test_a_duration_shows_its_two_most_telling_units(seconds, shown):
    assert fmt.duration(seconds) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(None, "\u2013"), (252, "04:12"), (3729, "1:02:09"), (180_000, "2d02h"), (-1, "00:00")]
)
def test_a_remaining_time_is_a_clock(seconds, shown):
    assert fmt.remaining(seconds) == shown


@pytest.mark.parametrize(("seconds", "shown"), [(0.04, "0.0s"), (0.4, "0.4s"), (12, "12s"), (303, "5m03s"), (None, "\u2013")])
def test_an_age_has_tenths_below_ten_seconds(seconds, shown):
    assert fmt.age(seconds) == shown


@pytest.mark.parametrize(
    ("fraction", "shown"),
    [
        (0, "0%"),
        (0.000_01, "<0.01%"),
        (0.0002, "0.02%"),
        (0.041, "4.1%"),
        (0.63, "63%"),
        (0.9999, "99.9%"),
        (0.995, "99.5%"),
        (1, "100%"),
    ],
)
def test_a_percentage_keeps_what_matters(fraction, shown):
    assert fmt.percent(fraction) == shown


def test_a_bar_is_full_only_at_the_end_and_empty_only_at_the_start():
    assert fmt.bar(0.999, 10) == "█" * 9 + "░"
    assert fmt.bar(0.001, 10) == "█" + "░" * 9
    assert fmt.bar(0, 4) == "░░░░"
    assert fmt.bar(1, 4) == "████"
    assert fmt.bar(math.nan, 3) == "░░░"
    assert fmt.bar(0.5, 0) == ""


@given(st.lists(st.none() | st.floats(allow_nan=True, allow_infinity=True)), st.integers(0, 40))
def test_a_sparkline_has_its_width_whatever_the_values_are(values, width):
    assert len(fmt.sparkline(values, width)) == width


def test_a_sparkline_shows_the_last_values_from_zero_to_their_maximum():
    assert fmt.sparkline([100, 0, 1, 2, 4], 4) == "▁▂▄█"
    assert fmt.sparkline([0, 0], 3) == " ▁▁"
    assert fmt.sparkline([2, None, 2], 3) == "█ █"


def test_changes_carry_their_sign():
    assert (fmt.signed(410), fmt.signed(-1200), fmt.signed(0.2), fmt.signed(None)) == ("+410", "-1.2k", "0", "\u2013")


def test_sizes_are_binary():
    assert (fmt.size(512), fmt.size(1536), fmt.size(256 * 2**20), fmt.size(3 * 2**40)) == (
        "512 B",
        "1.5 KiB",
        "256 MiB",
        "3.0 TiB",
    )


def test_a_share_of_nothing_is_nothing():
    assert (fmt.fraction(3, 0), fmt.fraction(3, None), fmt.fraction(5, 4), fmt.fraction(-1, 4)) == (0, 0, 1, 0)
