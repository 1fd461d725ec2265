"""Every promise that sandboxkit makes of a provider, as a test that any provider can run.

A provider's whole test file:

    import pytest
    from sandboxkit.testing.conformance import *

    @pytest.fixture
    def provider():
        return MyProvider()

It needs pytest and pytest-asyncio, and an image with Python 3.8, a POSIX shell and
coreutils, which the fixture `spec_fields` may name. What the provider does not keep is
said in the same file, and checked: it must fail, and is an error once it holds.

    known_differences = [cannot("test_a_terminal_has_the_size_asked_for", "why")]
"""

from __future__ import annotations

import pytest

# Before the modules are imported, so that a failed assert says what it compared.
pytest.register_assert_rewrite(f"{__name__}.promises")

from sandboxkit.testing.conformance.suite import *  # noqa: E402, F403
from sandboxkit.testing.conformance.suite import __all__ as __all__  # noqa: E402
