"""What a session may ask of models, and what it has asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sandboxkit.gateway.model.budget import Budget
from sandboxkit.gateway.model.meter import Meter

if TYPE_CHECKING:
    from sandboxkit.gateway.model.endpoint import ModelEndpoint


@dataclass(frozen=True, slots=True)
class Account:
    """One session's.

    Attributes:
        meter: Keeps what was asked.
        budgets: Each must let a request pass; several accounts may share one.
        models: Patterns such as `claude-haiku-*` of the models that may be asked for; None
            is all.
        routes: The endpoints that serve it now.
    """

    meter: Meter = field(default_factory=Meter)
    budgets: tuple[Budget, ...] = ()
    models: tuple[str, ...] | None = None
    routes: set[ModelEndpoint] = field(
        default_factory=set["ModelEndpoint"], repr=False, compare=False
    )
