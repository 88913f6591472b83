"""Cases as data: each request of `cases.yaml` gives or refuses what stands beside it, on both databases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from contract.rows.model import COLUMNS
from contract.rows.speaker import Refused, Speaker

CASES = yaml.safe_load(Path(__file__).with_name("cases.yaml").read_text("utf-8"))
EXPECTATIONS = ("do", "gives", "refuses", "at")


def shown(expected: Any, found: Any) -> Any:
    """Return what of `found` the expectation speaks of: of objects the members it names, of lists all."""
    if isinstance(expected, dict) and isinstance(found, dict) and expected.keys() <= found.keys():
        return {name: shown(expected[name], found[name]) for name in expected}
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        return [shown(*pair) for pair in zip(expected, found, strict=True)]
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
async def test_case(speaker: Speaker, case: dict[str, Any]) -> None:
    """What the case says holds, request after request."""
    await speaker.call("tables.define", table="things", columns=COLUMNS)
    for row in case.get("rows", ()):
        await speaker.call("rows.insert", table="things", rows=[row])
    for ask in case["ask"]:
        members = {name: value for name, value in ask.items() if name not in EXPECTATIONS}
        if ask["do"] != "transact":
            members["table"] = "things"
        try:
            result = await speaker.call(f"rows.{ask['do']}", **members)
        except Refused as refused:
            found: Any = (refused.code, refused.path)
            assert found == (ask.get("refuses"), ask.get("at")), f"{ask}: {refused}"  # noqa: PT017 - or an answer
        else:
            assert "gives" in ask, f"{ask} was answered: {result}"
            answer = shown(ask["gives"], result)
            assert answer == ask["gives"], ask
            assert repr(answer) == repr(ask["gives"]), f"{ask}: kinds differ in {answer}"
