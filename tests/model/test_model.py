"""The protocol holds in every state of its small configurations, and each rule is needed: without it, it breaks."""

import pytest

from tests.model.actors import Actors
from tests.model.explorer import Result, explore
from tests.model.mutants import LIMITS, MEDIUM, MUTANTS, SMALL

# Every kind of step that there is, by its label: one that nobody takes proves nothing.
STEPS = {
    "HEAD is lost",
    "HEAD is rebuilt",
    "a late request of",
    "advance to era floor",
    "advance to era floor trash dropped",
    "carries into era",
    "commits",
    "crashes",
    "destroy",
    "expire",
    "finds its pack gone",
    "finds the note and raises era and floor",
    "gives up after a no-op",
    "gives up, unknown",
    "holds",
    "is refused",
    "is told of its success",
    "is too late to re-pack",
    "leaves a note",
    "links",
    "links which exists",
    "opens attempt",
    "other bytes turn up under",
    "plans",
    "power is lost",
    "power is lost, and rename with it",
    "raises era and floor",
    "raises the era",
    "re-packs",
    "reads back after a refusal: FencedError",
    "reads back after a refusal: again",
    "reads back after no reply: CommitUnknownError",
    "reads back after no reply: again",
    "reads back after no reply: it was ours",
    "releases",
    "somebody reads HEAD",
    "swaps the manifests",
    "syncs",
    "syncs and the disk fails",
    "syncs which fails",
    "syncs which lies",
    "the request of lands",
    "undelete",
    "uploads",
}


def explored(name: str) -> Result:
    return explore(Actors((SMALL | MEDIUM | LIMITS)[name]))


def test_small_configurations_hold_to_the_end_and_take_every_kind_of_step() -> None:
    taken: set[str] = set()
    for name in SMALL:
        result = explored(name)
        assert (name, result.violation, result.trace, result.finished) == (name, None, [], True)
        taken |= result.kinds

    assert set() == STEPS - taken


@pytest.mark.slow
@pytest.mark.parametrize("name", MEDIUM)
def test_a_medium_configuration_holds_to_the_end(name: str) -> None:
    result = explored(name)

    assert (result.violation, result.trace, result.finished) == (None, [], True)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_rule_is_caught(name: str) -> None:
    mutant = MUTANTS[name]

    result = explore(Actors(SMALL[mutant.where]._replace(broken=name)))

    assert result.violation is not None, f"not caught in {result.states} states"
    assert result.violation.startswith(mutant.invariant), result.trace


@pytest.mark.parametrize("name", LIMITS)
def test_a_known_limit_is_still_one(name: str) -> None:
    result = explored(name)

    assert result.violation is not None
    assert result.violation.startswith("I1")


def test_no_mutant_is_misspelt() -> None:
    """A switch that nobody tests is caught by its own test above; here, that each is tested somewhere at all."""
    assert all(mutant.where in SMALL for mutant in MUTANTS.values())
    assert len(MUTANTS) >= 40
