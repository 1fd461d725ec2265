"""What stands between a sandbox and the world: the network by a list, keys kept outside.

The gateway runs on the host and knows nothing of sandboxes or backends: it serves
loopback ports, each for one session.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandboxkit.gateway.decisions import Decision
    from sandboxkit.gateway.egress import Egress
    from sandboxkit.gateway.limits import Limits
    from sandboxkit.gateway.secrets import Secret
    from sandboxkit.gateway.settings import Gateway

# `sandboxkit.spec` reads hosts with this package: what needs more loads when it is asked for.
_HOME = {
    "Decision": "decisions",
    "Egress": "egress",
    "Gateway": "settings",
    "Limits": "limits",
    "Secret": "secrets",
}

__all__ = ["Decision", "Egress", "Gateway", "Limits", "Secret"]


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
