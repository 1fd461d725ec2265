"""`python -m sandboxkit` is the command `sandboxkit`."""

from __future__ import annotations

from sandboxkit.cli import main

if __name__ == "__main__":
    main()
