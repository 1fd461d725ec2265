"""The conformance kit on real accounts: `nox -s live -- e2b`."""
