"""The search for requests that kill the engine, against a model of an engine, without processes."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from docmill.engine.suspects import Suspects


def search(num_requests: int, poison: set[int]) -> tuple[set[str], int]:
    """Runs until every request is answered or blamed. Returns who was blamed, and the number of deaths."""
    suspects = Suspects()
    waiting = [str(number) for number in range(num_requests)]
    blamed: set[str] = set()
    num_deaths = 0
    while waiting:
        running = list(suspects.group or waiting)
        assert set(running) <= set(waiting)
        for position, name in enumerate(running):
            if int(name) in poison:
                num_deaths += 1
                culprit = suspects.died(running[position:])
                if culprit is not None:
                    assert running[position:] == [culprit]
                    blamed.add(culprit)
                    waiting.remove(culprit)
                break
            waiting.remove(name)
            suspects.finished(name)
            assert suspects.num_deaths(name) == 0
    assert suspects.group is None
    assert suspects.num_under_suspicion == 0
    return blamed, num_deaths


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))))
def test_exactly_the_poison_is_blamed_in_few_deaths(case: tuple[int, set[int]]) -> None:
    num_requests, poison = case
    blamed, num_deaths = search(num_requests, poison)
    assert blamed == {str(number) for number in poison}
    assert num_deaths <= len(poison) * (4 + math.ceil(math.log2(num_requests + 1)))


def test_one_death_makes_no_suspect() -> None:
    suspects = Suspects()
    assert suspects.died(["a", "b"]) is None
    assert suspects.group is None


def test_who_came_later_waits_until_the_suspects_are_cleared() -> None:
    suspects = Suspects()
    suspects.died(["a", "b", "c"])
    assert suspects.died(["b", "c", "new"]) is None
    assert suspects.group == ["b"]
    assert suspects.finished("b")
    assert suspects.group == ["c"]
    assert suspects.finished("c")
    assert suspects.group is None


def test_whoever_is_alone_when_somebody_kills_the_engine_gets_another_chance() -> None:
    suspects = Suspects()
    suspects.died(["a", "b"])
    suspects.died(["a", "b"])
    assert suspects.group == ["a"]
    assert suspects.died(["a"]) is None
    assert suspects.group == ["b"], "the others first"
    suspects.finished("b")
    assert suspects.group == ["a"]
    assert suspects.died(["a"]) == "a"


def test_a_death_before_anything_ran_changes_nothing() -> None:
    suspects = Suspects()
    suspects.died(["a", "b"])
    suspects.died(["a", "b"])
    assert suspects.died([]) is None
    assert suspects.group == ["a"]
    assert suspects.num_deaths("a") == 2
