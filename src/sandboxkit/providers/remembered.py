"""What was applied at creation, kept in a label, so that any process can read it later."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from sandboxkit.providers.base import Difference, Effective

EFFECTIVE_LABEL: Final = "sandboxkit.effective"


def remember(effective: Effective, differences: tuple[Difference, ...]) -> str:
    """The value of `EFFECTIVE_LABEL`; what is None is left out."""
    said = {name: value for name, value in asdict(effective).items() if value is not None}
    told = [asdict(difference) for difference in differences]
    return json.dumps({"effective": said, "differences": told}, separators=(",", ":"))


def recall(
    labels: Mapping[str, str] | None,
) -> tuple[dict[str, str], Effective, tuple[Difference, ...]]:
    """The labels without ours, and what `remember` had kept among them."""
    plain = dict(labels or {})
    packed: dict[str, Any] = json.loads(plain.pop(EFFECTIVE_LABEL, "{}"))
    differences = tuple(Difference(**each) for each in packed.get("differences", ()))
    return plain, Effective(**packed.get("effective", {})), differences
