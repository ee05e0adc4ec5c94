"""The groups of hostile cases, by name."""

from __future__ import annotations

from importlib import import_module

from tests.hostile.case import Case

GROUPS = ("heads", "manifests", "records", "stores", "texts", "sources", "targets")


def cases_of(group: str) -> list[Case]:
    cases: list[Case] = import_module(f"tests.hostile.{group}").CASES
    return cases
