r"""A backend in memory, for the unit tests of applications: no process, no disk, no engine.

    memory = MemoryProvider()
    memory.on(["git", "status"], stdout="clean\n")
    memory.on(["pytest"], lambda call: Answer(exit_code=1, stdout=call.files.read("log")))
    async with sk.Sandbox.create(memory) as sandbox:
        await the_code_under_test(sandbox)
    assert [call.argv for call in memory.calls] == [("git", "status"), ("pytest", "-q")]

What is real: the whole host side of sandboxkit, and the protocol, which this package
speaks as a second implementation of the guest's side. So streams, stdin, signals, kills,
time-outs, detached processes, files and trees, labels, `attach` and every error of these
behave as on a real backend.

What is not: commands are Python functions; a shell line, like any other command, is
known only if the test says so. Files are not executed, permission bits and users are
recorded and not enforced, ports are refused, and no lease or time limit ends a sandbox.
"""

from __future__ import annotations

from sandboxkit.testing.memory.commands import Answer, Call
from sandboxkit.testing.memory.files import MemoryFiles
from sandboxkit.testing.memory.provider import MemoryProvider

__all__ = ["Answer", "Call", "MemoryFiles", "MemoryProvider"]
