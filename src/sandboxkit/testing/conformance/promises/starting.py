"""Starting a command: it is given exactly what the caller wrote, or is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sandboxkit.errors import ExecStartError, InvalidSpecError
from sandboxkit.sandbox import Sandbox
from sandboxkit.testing.conformance.fixtures import Making
from sandboxkit.testing.conformance.inside import answer
from sandboxkit.testing.conformance.promise import promise

_WORDS = [
    "a b",
    "",
    "$HOME",
    "'",
    '"',
    "*",
    "é 日本\u202e",
    "-x",
    "; echo no",
    "`id`",
    "\\",
    "a\nb",
]
_ARGV = "import json, sys; print(json.dumps(sys.argv[1:]))"
_ENV = "import json, os; print(json.dumps(dict(os.environ)))"


@promise
async def test_arguments_are_never_joined_or_expanded(sandbox: Sandbox) -> None:
    """Each element of argv arrives as one argument, whatever is in it."""
    assert await answer(sandbox, _ARGV, *_WORDS) == _WORDS


@promise
async def test_arguments_that_are_not_utf8_arrive(sandbox: Sandbox) -> None:
    """Bytes that are no UTF-8 are passed by Python's surrogateescape."""
    script = "import os, sys; print(list(os.fsencode(sys.argv[1])))"
    assert await answer(sandbox, script, "\udcff\udc80a") == [0xFF, 0x80, 0x61]


@promise
async def test_environment_values_are_verbatim(sandbox: Sandbox) -> None:
    """A variable has exactly the value given, and is one variable."""
    env = {f"V{number}": word for number, word in enumerate(_WORDS)}
    env |= {"LD_PRELOAD": "", "lower.and-odd": "1", "V": "x\nLD_PRELOAD=/evil.so\nPATH=/evil"}
    found = await answer(sandbox, _ENV, env=env)
    assert {name: found[name] for name in env} == env
    assert found["PATH"] != "/evil"


@promise
async def test_the_sandboxs_environment_reaches_every_command(create: Making) -> None:
    """Variables of the spec are in every command; those of the call go before them."""
    sandbox = await create(env={"SPEC": "a b\n'\"", "BOTH": "spec"})
    found = await answer(sandbox, _ENV, env={"BOTH": "call"})
    assert (found["SPEC"], found["BOTH"]) == ("a b\n'\"", "call")


@promise
async def test_a_command_starts_in_the_work_directory(sandbox: Sandbox, folder: str) -> None:
    """The work directory is the default, and where a relative `cwd` leads from."""
    assert (await sandbox.sh("pwd -P")).text == f"{sandbox.workdir}\n"
    relative = folder.removeprefix(f"{sandbox.workdir}/")
    assert (await sandbox.sh("pwd -P", cwd=relative)).text == f"{folder}\n"
    assert (await sandbox.sh("pwd -P", cwd="/")).text == "/\n"


@promise
async def test_the_home_directory_is_the_users_and_writable(sandbox: Sandbox) -> None:
    """HOME is set to a directory in which the sandbox's user can write."""
    result = await sandbox.sh('cd && pwd && touch "$HOME/.kit" && rm "$HOME/.kit"', check=True)
    assert result.text == f"{sandbox.home}\n"


@promise
async def test_a_command_inherits_its_standard_streams_alone(sandbox: Sandbox) -> None:
    """Nothing that the guest has open is open in what it starts."""
    script = """
        import json, os
        names = [int(name) for name in os.listdir("/proc/self/fd")]
        print(json.dumps(sorted(fd for fd in names if os.path.exists(f"/proc/self/fd/{fd}"))))
    """
    assert await answer(sandbox, script) == [0, 1, 2]


@promise
@pytest.mark.parametrize("cwd", ["/no/such/directory", "no-such", "/etc/passwd"])
async def test_a_bad_directory_is_told(sandbox: Sandbox, cwd: str) -> None:
    """A `cwd` that cannot be entered is `ExecStartError`, code `bad_cwd`."""
    with pytest.raises(ExecStartError) as caught:
        await sandbox.exec(["true"], cwd=cwd)
    assert caught.value.code == "bad_cwd"
    assert cwd in str(caught.value)


@promise
async def test_a_missing_program_is_told(sandbox: Sandbox) -> None:
    """A program that does not exist is `ExecStartError`, code `not_found`: no exit code."""
    for name in ("no-such-program", "/no/such/program"):
        with pytest.raises(ExecStartError) as caught:
            await sandbox.exec([name])
        assert caught.value.code == "not_found"
        assert name in str(caught.value)


@promise
async def test_a_file_that_is_no_program_is_told(sandbox: Sandbox, folder: str) -> None:
    """What may not be executed is `ExecStartError`, code `not_executable`."""
    await sandbox.files.write(f"{folder}/plain", "x", mode=0o644)
    await sandbox.files.write(f"{folder}/garbage", b"\x7f\x00\x01", mode=0o755)
    for name in ("plain", "garbage", "."):
        with pytest.raises(ExecStartError) as caught:
            await sandbox.exec([f"{folder}/{name}"])
        assert caught.value.code == "not_executable"


@promise
async def test_a_refused_command_costs_no_connection(create: Making) -> None:
    """Input that was on its way to a command that cannot start is dropped, and no more."""
    sandbox = await create()
    for _ in range(3):
        with pytest.raises(ExecStartError):
            await sandbox.exec(["no-such-program"], stdin=b"x" * 3_000_000)
    assert create.wired.line(sandbox.id).spawned == 1


@promise
@pytest.mark.parametrize("user", ["no-such-user", "99999999999999999999", "²", "", "a b"])
async def test_an_unknown_user_is_told(sandbox: Sandbox, user: str) -> None:
    """A user that cannot be had is refused, and the sandbox goes on."""
    with pytest.raises((ExecStartError, InvalidSpecError)) as caught:
        await sandbox.exec(["true"], user=user)
    assert isinstance(caught.value, InvalidSpecError) or caught.value.code == "bad_user"
    assert (await sandbox.exec(["true"])).exit_code == 0


@promise
async def test_a_command_runs_as_the_user_asked_for_or_not_at_all(sandbox: Sandbox) -> None:
    """Another user's number is taken, or refused by `bad_user`; never another one instead."""
    said = "refused: bad_user"
    try:
        said = (await sandbox.sh("id -u; id -g", user="12345")).text
    except ExecStartError as error:
        said = f"refused: {error.code}"
    assert said in {"12345\n12345\n", "refused: bad_user"}


@promise
async def test_a_command_cannot_reach_the_guest(sandbox: Sandbox) -> None:
    """Where the guest has a user of its own, commands can neither signal nor read it."""
    script = """
        import json, os
        reached, others = [], 0
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.stat(f"/proc/{pid}").st_uid == os.getuid():
                    continue
                others += 1
                os.kill(int(pid), 0)
            except (PermissionError, FileNotFoundError, ProcessLookupError):
                continue
            reached.append(pid)
        print(json.dumps([os.getuid(), others, reached]))
    """
    uid, others, reached = await answer(sandbox, script)
    if uid != 0 and others:
        assert reached == []


@promise
@pytest.mark.parametrize(
    "wrong",
    [
        {"argv": []},
        {"argv": "echo joined"},
        {"argv": [""]},
        {"argv": ["echo", "a\0b"]},
        {"argv": ["echo", 1]},
        {"argv": ["echo", "x" * 128 * 1024]},
        {"cwd": "a\0b"},
        {"cwd": "/proc/self/fd/3"},
        {"env": {"A=B": "1"}},
        {"env": {"": "1"}},
        {"env": {"A\0": "1"}},
        {"env": {"A": "1\0"}},
        {"env": {"A": 1}},
        {"stdin": "text"},
        {"timeout_s": -1},
    ],
    ids=lambda wrong: json.dumps(wrong)[:40],
)
async def test_an_impossible_command_is_refused(sandbox: Sandbox, wrong: dict[str, Any]) -> None:
    """What no program can be given is `InvalidSpecError` (a `ValueError`), before any I/O."""
    call: dict[str, Any] = {"argv": ["true"], **wrong}
    argv = call.pop("argv")
    with pytest.raises(InvalidSpecError):
        await sandbox.exec(argv, **call)


@promise
async def test_arguments_that_are_too_long_together_are_told(sandbox: Sandbox) -> None:
    """More than the kernel takes at once is refused, and the sandbox goes on."""
    with pytest.raises((ExecStartError, InvalidSpecError)) as caught:
        await sandbox.exec(["true", *["é" * 60_000] * 40])
    assert isinstance(caught.value, InvalidSpecError) or caught.value.code == "too_long"
    assert (await sandbox.exec(["true", *["x" * 100_000] * 10])).exit_code == 0
