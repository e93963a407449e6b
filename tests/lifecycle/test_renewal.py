from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from certloom.lifecycle.renewal import Window, renewal_window, retry_after
from certloom.policy.profile_parts import RenewalRule

BORN = 1_800_000_000
DAY = 86400
USUAL = RenewalRule()

lifetimes = st.one_of(st.integers(1, 3600), st.integers(3600, 11 * 365 * DAY))
serials = st.binary(min_size=1, max_size=20)
rules = st.one_of(
    st.just(USUAL),
    st.tuples(st.floats(0.25, 0.98), st.floats(0.001, 0.5)).map(
        lambda pair: RenewalRule(start=pair[0], end=min(pair[0] + pair[1], 0.99))
    ),
    st.tuples(st.integers(1, 400 * DAY), st.integers(1, 400 * DAY)).map(
        lambda pair: RenewalRule(start=pair[0] + pair[1], end=pair[1])
    ),
    st.tuples(st.floats(0.25, 0.98), st.integers(1, 400 * DAY)).map(
        lambda pair: RenewalRule(start=pair[0], end=pair[1])
    ),
)
marks = st.one_of(st.none(), st.integers(BORN - DAY, BORN + 12 * 365 * DAY))


def window_of(lifetime: int, serial: bytes, rule: RenewalRule = USUAL, now: int = BORN) -> Window:
    return renewal_window(BORN, BORN + lifetime - 1, serial, rule, now)


@given(lifetimes, serials, rules, marks, marks, st.integers(BORN, BORN + 12 * 365 * DAY))
def test_a_window_ends_after_it_starts(
    lifetime: int, serial: bytes, rule: RenewalRule, revoked: int | None, replace: int | None, now: int
) -> None:
    window = renewal_window(
        BORN, BORN + lifetime - 1, serial, rule, now, revoked_at=revoked, replace_since=replace
    )
    assert window.end > window.start


@given(lifetimes, serials, rules)
def test_the_window_of_a_living_certificate_lies_within_its_life_after_the_first_quarter(
    lifetime: int, serial: bytes, rule: RenewalRule
) -> None:
    window = window_of(lifetime, serial, rule)
    assert not window.moved
    assert window.start >= BORN + lifetime // 4
    assert window.end <= BORN + lifetime


@given(lifetimes, serials, rules, st.lists(st.integers(BORN, BORN + 12 * 365 * DAY), min_size=2, max_size=4))
def test_every_poll_gets_the_same_window(
    lifetime: int, serial: bytes, rule: RenewalRule, polls: list[int]
) -> None:
    assert len({window_of(lifetime, serial, rule, now) for now in polls}) == 1


def test_ninety_days_are_renewed_in_their_last_third() -> None:
    window = window_of(90 * DAY, b"serial")
    assert BORN + 59 * DAY < window.start < window.end <= BORN + 72 * DAY
    assert window.end - window.start > 3 * DAY


def test_ten_minutes_are_renewed_with_minutes_to_spare() -> None:
    for i in range(100):
        window = window_of(600, bytes([i]))
        assert window.start >= BORN + 390
        assert window.end <= BORN + 480
        assert window.end - window.start >= 20


def test_a_fleet_issued_in_one_minute_is_not_renewed_in_one_minute() -> None:
    for lifetime in (600, DAY, 90 * DAY, 10 * 365 * DAY):
        span = lifetime * 14 // 100
        starts = [window_of(lifetime, i.to_bytes(16, "big")).start - BORN for i in range(1000)]
        # Ten parts of the room for starts hold about a tenth of the fleet each.
        room = span * 3 // 4
        parts = [0] * 11
        for start in starts:
            parts[(start - int(lifetime * 0.66)) * 10 // (room + 1)] += 1
        assert min(parts[:10]) > 60
        assert max(parts) < 150


def test_times_before_expiry_are_taken_as_such() -> None:
    rule = RenewalRule(start=30 * DAY, end=10 * DAY)
    window = window_of(90 * DAY, b"serial", rule)
    assert BORN + 60 * DAY <= window.start < window.end <= BORN + 80 * DAY


def test_a_certificate_too_short_for_times_before_expiry_is_spread_over_the_usual_shares() -> None:
    rule = RenewalRule(start=30 * DAY, end=10 * DAY)
    assert window_of(5 * DAY, b"serial", rule) == window_of(5 * DAY, b"serial", USUAL)


@given(lifetimes, serials, rules, st.integers(0, 400 * DAY), st.integers(0, 400 * DAY), st.booleans())
def test_a_revoked_or_marked_certificate_is_to_be_renewed_at_once(
    lifetime: int, serial: bytes, rule: RenewalRule, age: int, since: int, revoked: bool
) -> None:
    mark = BORN + age
    windows = {
        renewal_window(
            BORN,
            BORN + lifetime - 1,
            serial,
            rule,
            mark + later,
            revoked_at=mark if revoked else None,
            replace_since=None if revoked else mark,
        )
        for later in (0, 1, since)
    }
    (window,) = windows
    assert window.moved
    assert window.start < window.end <= mark


def test_the_earlier_of_two_marks_counts() -> None:
    window = renewal_window(
        BORN, BORN + DAY, b"serial", USUAL, BORN + 500, revoked_at=BORN + 400, replace_since=BORN + 100
    )
    assert window.end == BORN + 100


def test_a_mark_from_a_clock_that_is_ahead_counts_from_now() -> None:
    window = renewal_window(BORN, BORN + DAY, b"serial", USUAL, BORN + 10, revoked_at=BORN + 15)
    assert window.end == BORN + 10


def test_long_lived_certificates_are_asked_about_every_six_hours() -> None:
    for lifetime in (90 * DAY, 10 * 365 * DAY):
        assert retry_after(BORN, window_of(lifetime, b"serial")) == 6 * 3600


def test_short_lived_certificates_are_asked_about_more_often() -> None:
    assert retry_after(BORN, window_of(600, b"serial")) == 60
    assert 2000 < retry_after(BORN, window_of(DAY, b"serial")) < 4000


def test_a_client_is_called_back_no_later_than_the_window_opens() -> None:
    window = Window(BORN + 90 * DAY, BORN + 93 * DAY, False)
    assert retry_after(window.start - 1000, window) == 1000


@given(lifetimes, serials, rules, st.integers(BORN, BORN + 12 * 365 * DAY))
def test_retry_after_stays_within_a_minute_and_six_hours(
    lifetime: int, serial: bytes, rule: RenewalRule, now: int
) -> None:
    assert 60 <= retry_after(now, window_of(lifetime, serial, rule)) <= 6 * 3600
