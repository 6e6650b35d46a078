"""The life of a source, by a scripted clock: every transition has its reason, waits grow and are capped,
nothing is for ever.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.stream.run.supervisor import Patience, Supervisor

PATIENCE = Patience(
    connect_s=10, stall_s=1, watchdog_s=5, retry_s=0.5, retry_cap_s=8, jitter=0.0, stable_s=10, start_s=None
)


def supervisor(is_live: bool = True, patience: Patience = PATIENCE, dice: float = 0.5) -> Supervisor:
    return Supervisor(is_live, patience, 0.0, lambda: dice)


def states(life: Supervisor) -> list[str]:
    return [change.state for change in life.changes]


def running(at_s: float = 0.0) -> Supervisor:
    """A source that has just given its first frame."""
    life = supervisor()
    assert life.poll(at_s) == "connect"
    life.frame(at_s)
    return life


def test_it_connects_at_once_and_runs_with_the_first_frame() -> None:
    life = supervisor()
    assert (life.state, life.poll(0.0), life.poll(0.1)) == ("CONNECTING", "connect", "wait")
    assert life.frame(0.5) is None
    assert (life.state, life.since_s, life.reason, life.connects) == ("RUNNING", 0.5, "first frame", 1)


def test_silence_stalls_it_and_a_frame_brings_it_back() -> None:
    life = running()
    assert life.poll(0.9) == "wait"
    assert life.state == "RUNNING"
    assert life.poll(1.0) == "wait"
    assert (life.state, life.reason) == ("STALLED", "no frame for 1.0 s")
    assert life.frame(3.0) is None
    assert (life.state, life.reason, life.connects) == ("RUNNING", "frames again after 3.0 s", 1)
    assert states(life) == ["CONNECTING", "RUNNING", "STALLED", "RUNNING"]


def test_the_watchdog_leaves_a_silent_connection_and_tries_again() -> None:
    life = running()
    life.poll(1.0)
    assert life.poll(4.9) == "wait"
    assert life.poll(5.0) == "abandon"
    assert (life.state, life.changes[-1].details) == ("RECONNECTING", {"attempt": 1, "retry_in_s": 0.5})
    assert [life.poll(at_s) for at_s in (5.0, 5.4, 5.5, 5.6)] == ["wait", "wait", "connect", "wait"]
    assert life.frame(6.0) == 6.0
    assert (life.state, life.connects) == ("RUNNING", 2)


def test_a_connection_without_a_frame_is_given_up() -> None:
    life = supervisor()
    life.poll(0.0)
    assert [life.poll(at_s) for at_s in (9.9, 10.0)] == ["wait", "abandon"]
    assert (life.state, life.last_error) == ("CONNECTING", "no frame within 10.0 s of connecting")


def test_waits_double_up_to_the_cap_and_a_lasting_connection_starts_them_anew() -> None:
    life, now_s = running(), 0.0
    waits = []
    for _ in range(7):
        life.failed(now_s, "refused")
        waits.append(life.changes[-1].details["retry_in_s"])
        now_s += waits[-1]
        assert life.poll(now_s) == "connect"
    assert waits == [0.5, 1, 2, 4, 8, 8, 8]
    life.frame(now_s)
    life.failed(now_s + 9.9, "gone")
    assert life.changes[-1].details["retry_in_s"] == 8
    life.poll(now_s + 20)
    life.frame(now_s + 20)
    life.failed(now_s + 30, "gone")
    assert life.changes[-1].details == {"attempt": 1, "retry_in_s": 0.5}


@pytest.mark.parametrize(("dice", "wait_s"), [(0.0, 0.4), (0.5, 0.5), (1.0, 0.6)])
def test_jitter_spreads_the_waits(dice: float, wait_s: float) -> None:
    life = supervisor(patience=Patience(jitter=0.2), dice=dice)
    life.poll(0.0)
    life.failed(0.0, "refused")
    assert life.changes[-1].details["retry_in_s"] == pytest.approx(wait_s)


def test_the_outage_counts_from_the_last_frame_over_all_attempts() -> None:
    life = running()
    life.frame(2.0)
    life.failed(2.5, "reset")
    life.poll(3.0)
    life.failed(3.0, "refused")
    life.poll(4.0)
    assert life.frame(4.5) == 2.5


def test_a_source_with_frames_far_apart_gets_more_patience() -> None:
    life = running()
    for at_s in (4.0, 8.0, 12.0, 16.0):
        life.frame(at_s)
    assert life.poll(27.9) == "wait"
    assert life.state == "RUNNING"
    life.poll(28.0)
    assert life.state == "STALLED"
    assert [life.poll(at_s) for at_s in (39.9, 40.0)] == ["wait", "abandon"]


def test_a_source_that_says_it_is_slow_gets_more_patience_from_the_start() -> None:
    life = running()
    life.opened(0.5, True)
    assert [life.poll(at_s) for at_s in (5.9, 6.0, 11.9, 12.0)] == ["wait", "wait", "wait", "abandon"]
    assert states(life) == ["CONNECTING", "RUNNING", "STALLED", "RECONNECTING"]


def test_one_long_gap_does_not_make_it_patient() -> None:
    life = running()
    for at_s in (0.1, 0.2, 0.3, 4.0, 4.1, 4.2):
        life.frame(at_s)
    assert life.poll(9.3) == "abandon"


def test_a_wrong_password_is_not_tried_again() -> None:
    life = supervisor()
    life.poll(0.0)
    life.failed(0.1, "refused", hopeless=True)
    assert (life.state, life.is_final, life.poll(1e6)) == ("FAILED", True, "wait")


def test_a_file_ends_or_fails_once_and_may_take_its_time() -> None:
    for finish, state in (
        (lambda life: life.ended(99.0), "ENDED"),
        (lambda life: life.failed(99.0, "cut off"), "FAILED"),
    ):
        life = supervisor(is_live=False)
        life.poll(0.0)
        assert life.poll(50.0) == "wait"
        life.frame(50.0)
        assert life.poll(90.0) == "wait"
        assert life.state == "STALLED"
        finish(life)
        assert (life.state, life.poll(1000.0)) == (state, "wait")
        assert life.frame(1001.0) is None
        life.failed(1002.0, "late")
        assert life.state == state


@pytest.mark.parametrize(
    "wrong", [{"connect_s": 0}, {"watchdog_s": -1}, {"jitter": 2}, {"start_s": 0}, {"retry_s": float("nan")}]
)
def test_impossible_patience(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"above 0 s|a share"):
        Patience(**wrong)


MOVES = st.lists(
    st.tuples(st.sampled_from(["poll", "frame", "fail", "hang", "end"]), st.floats(0, 30)), max_size=60
)


def test_a_source_whose_pictures_are_left_out_is_not_given_up() -> None:
    life = supervisor()
    assert life.poll(0.0) == "connect"
    life.frame(0.1)
    for step in range(1, 200):
        life.alive(step / 10)
        assert life.poll(step / 10) == "wait"
    assert life.state == "STALLED"
    assert life.poll(20.0 + PATIENCE.watchdog_s) == "abandon"


@given(MOVES, st.booleans(), st.floats(0, 1))
def test_whatever_happens_it_is_in_a_state_that_can_be_left(
    moves: list[tuple[str, float]], is_live: bool, dice: float
) -> None:
    patience = Patience(jitter=0.2)
    life = Supervisor(is_live, patience, 0.0, lambda: dice)
    now_s, capturing = 0.0, False
    for move, step_s in moves:
        now_s += step_s
        before = life.is_final
        if move == "poll" or move == "hang":
            step = life.poll(now_s)
            assert (step == "connect") <= (not capturing)
            assert (step == "abandon") <= capturing
            capturing = {"connect": True, "abandon": False, "wait": capturing}[step]
        elif not capturing:
            continue
        elif move == "frame":
            outage_s = life.frame(now_s)
            assert outage_s is None or outage_s >= 0
            assert life.state == "RUNNING"
        elif move == "fail":
            life.failed(now_s, "x")
            capturing = False
        else:
            life.ended(now_s)
            capturing = False
        assert not before or life.is_final
    if is_live and not life.is_final:
        # However long the back-off is, within cap and time-outs a connection is tried.
        wait_s = 1.2 * patience.retry_cap_s + patience.connect_s + 3 * 30 * len(moves) + patience.watchdog_s
        steps = {life.poll(now_s + wait_s * part) for part in (1, 2, 3)}
        assert "connect" in steps or "abandon" in steps
    assert all(
        later.at_s >= earlier.at_s
        for earlier, later in zip(list(life.changes), list(life.changes)[1:], strict=False)
    )
