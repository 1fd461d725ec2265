"""The E2B backend: a Firecracker machine each, in E2B's cloud.

The `e2b` package is imported when a sandbox is first asked for, not before.
"""

from sandboxkit.providers.e2b.provider import E2BProvider

__all__ = ["E2BProvider"]
