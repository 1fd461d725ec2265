"""The host's side of the channel: processes, files and tunnels over one connection.

It knows nothing of providers but `SandboxHandle.spawn`, and trusts nothing that the
guest says: see `docs/protocol.md`.
"""
