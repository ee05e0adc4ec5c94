"""formats/remap.py: who gets whose state, all at once."""

from __future__ import annotations

import pytest

from formats.errors import IncompatibleError, InvalidInputError, TooLargeError, UsageError
from formats.ids import OperatorId, operator_id
from formats.remap import BadRemapError, OperatorMapping, OperatorName, parse_mapping, parse_pair, plan_remap, together

KNOWN = tuple(OperatorName(uid, operator_id(uid)) for uid in ("a", "b", "c"))
NAMELESS = OperatorName("", OperatorId("f" * 32))


def moves(mapping: OperatorMapping, known: tuple[OperatorName, ...] = KNOWN) -> dict[str, tuple[str, str]]:
    return {str(move.old): (str(move.new or ""), move.action) for move in plan_remap(known, mapping)}


def remap(*pairs: tuple[str, str], **rest: object) -> OperatorMapping:
    return OperatorMapping(remap=pairs, **rest)  # type: ignore[arg-type]  # as given


def test_nothing_asked_for_keeps_everything() -> None:
    assert moves(OperatorMapping()) == {uid: (uid, "kept") for uid in "abc"}
    assert not OperatorMapping()


def test_two_operators_are_swapped_and_three_turned_round() -> None:
    assert moves(remap(("a", "b"), ("b", "a"))) == {"a": ("b", "remapped"), "b": ("a", "remapped"), "c": ("c", "kept")}
    assert moves(remap(("a", "b"), ("b", "c"), ("c", "a"))) == {
        "a": ("b", "remapped"),
        "b": ("c", "remapped"),
        "c": ("a", "remapped"),
    }


def test_either_side_is_a_uid_or_an_id() -> None:
    (move, *_) = plan_remap(KNOWN, remap((operator_id("a"), "x")))
    assert move.new == OperatorName("x", operator_id("x"))
    (move, *_) = plan_remap(KNOWN, remap(("a", "e" * 32)))
    assert move.new == OperatorName("", OperatorId("e" * 32))
    swapped = plan_remap(KNOWN, remap(("a", operator_id("b")), (operator_id("b"), "a")))
    assert [str(one.new) for one in swapped] == ["b", "a", "c"]
    assert moves(remap(("f" * 32, "named")), (*KNOWN, NAMELESS))["f" * 32] == ("named", "remapped")


def test_an_operator_of_the_old_name_makes_room() -> None:
    assert moves(remap(("a", "b"), drop=("b",))) == {"a": ("b", "remapped"), "b": ("", "dropped"), "c": ("c", "kept")}


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (remap(("A", "x")), "has no operator 'A'"),
        (remap(("a", "")), "an operator's uid is not empty"),
        (remap(("a", "x"), ("a", "y")), "'a' is mapped to two operators: x and y"),
        (remap(("a", "x"), drop=("a",)), "an operator is dropped and remapped: a"),
        (OperatorMapping(drop=("z",)), "has no operator 'z'"),
        (remap(("a", "b")), "a and b would both become b"),
        (remap(("a", "x"), ("b", "x"), ("c", "x")), "a and b and c would both become x"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused(mapping: OperatorMapping, message: str) -> None:
    with pytest.raises(BadRemapError, match=message) as refused:
        plan_remap(KNOWN, mapping)
    assert (refused.value.exit_code, refused.value.kind) == (15, "bad-remap")


def test_the_nearest_names_are_suggested() -> None:
    known = tuple(OperatorName(uid, operator_id(uid)) for uid in ("order-totals", "order-window", "sink"))
    with pytest.raises(BadRemapError) as refused:
        plan_remap(known, remap(("order-total", "x")))
    assert refused.value.hint == "did you mean: order-totals, order-window"
    assert refused.value.facts["suggestions"] == ["order-totals", "order-window"]


def test_operators_come_together_where_it_is_asked_for() -> None:
    assert moves(remap(("a", "b"), merge=True)) == {"a": ("b", "merged"), "b": ("b", "merged"), "c": ("c", "kept")}


def test_state_that_nobody_asks_for_is_refused_unless_it_is_allowed() -> None:
    few = remap(("a", "x"), operators=("x", "b"))
    with pytest.raises(IncompatibleError, match="no operator asks for: c"):
        plan_remap(KNOWN, few)
    allowed = together(few, OperatorMapping(allow_non_restored=True))
    assert moves(allowed) == {"a": ("x", "remapped"), "b": ("b", "kept"), "c": ("", "not restored")}


def test_a_mapping_file_says_what_the_options_say() -> None:
    text = 'drop = ["c"]\noperators = ["x"]\nmerge = true\n[remap]\n"a=1" = "b"\n'
    assert parse_mapping(text, "m.toml") == OperatorMapping(
        remap=(("a=1", "b"),), drop=("c",), operators=("x",), merge=True
    )
    both = together(parse_mapping(text, "m.toml"), remap(("q", "r"), drop=("d",)))
    assert (both.remap, both.drop, both.merge) == ((("a=1", "b"), ("q", "r")), ("c", "d"), True)
    assert parse_pair("a=b=c") == ("a=b", "c")


@pytest.mark.parametrize(
    "text", ["remap", "[remap]\na = 1", "drop = 'a'", "[other]", "merge = 'yes'", "a = " + "[" * 5000]
)
def test_a_mapping_file_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match=r"m\.toml is no mapping"):
        parse_mapping(text, "m.toml")


def test_a_mapping_has_two_sides_and_a_limit() -> None:
    for text in ("a", "=a", "a="):
        with pytest.raises(UsageError, match="not a mapping"):
            parse_pair(text)
    with pytest.raises(TooLargeError):
        parse_mapping(" " * (2 << 20), "m.toml")
