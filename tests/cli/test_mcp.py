"""`sandboxkit mcp`: the tools of a sandbox, for the real MCP client."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from mcp import Client, MCPError, stdio_client
from mcp_types import ImageContent

from sandboxkit.sandbox import Sandbox
from tests.cli.command import Cli
from tests.cli.mcp_client import ids, parameters, served, text_of, until_gone

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
READING = {"read_process", "read_file", "list_files", "info"}


async def test_what_a_client_is_told(cli: Cli) -> None:
    async with served(cli) as client:
        tools = {tool.name: tool for tool in (await client.session.list_tools()).tools}
        assert (await client.get("info"))["state"] == "not started"
        assert await ids(cli) == []  # listing and asking start nothing

    assert set(tools) == READING | {
        *("exec", "start_process", "stop_process", "write_file", "edit_file", "forward_port"),
        "restart",
    }
    for name, tool in tools.items():
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint == (name in READING)
        assert tool.annotations.destructive_hint == (name not in {*READING, "forward_port"})
        assert tool.annotations.open_world_hint is False
        assert tool.description
        assert tool.output_schema is not None
        assert tool.input_schema["additionalProperties"] is False
    assert tools["exec"].input_schema["required"] == ["command"]
    described: dict[str, Any] = tools["exec"].input_schema["properties"]
    assert all("description" in field for field in described.values())


async def test_commands(cli: Cli) -> None:
    async with served(cli, "--memory-gib", "0.5") as client:
        result, _ = await asyncio.gather(
            client.call("exec", command="echo out; echo err >&2; exit 3"), client.sh("true")
        )
        fields: dict[str, Any] = result.structured_content
        assert not result.is_error  # that a command fails is a fact
        assert (fields["exit_code"], fields["stdout"], fields["stderr"]) == (3, "out\n", "err\n")
        assert (fields["timed_out"], fields["truncated"]) == (False, False)
        assert text_of(result).startswith("exit code 3 after ")
        assert text_of(result).endswith("\nstdout:\nout\nstderr:\nerr")
        assert any("starting the sandbox" in step for step in client.progress)

        assert await client.sh("pwd") == "/work\n"
        words = ["printf", "%s|", "a b", "$HOME", "ü"]
        assert (await client.get("exec", command=words))["stdout"] == "a b|$HOME|ü|"
        given = await client.get("exec", command="cat; pwd", stdin="in", cwd="/tmp")
        assert given["stdout"] == "in/tmp\n"

        flood = await client.get("exec", command="seq 1000000; echo end >&2")
        assert flood["truncated"]
        assert flood["stdout"].startswith("1\n2\n")
        assert flood["stdout"].endswith("\n999999\n1000000\n")
        assert "characters left out" in flood["stdout"]
        assert len(flood["stdout"]) < 31_000

        late = await client.call("exec", command="echo begun; sleep 1000", timeout_s=1)
        assert not late.is_error
        assert "ended by its time-out" in text_of(late)
        assert "begun" in text_of(late)
        assert await ids(cli) == [(await client.get("info"))["id"]]
        assert (await client.get("info"))["memory_gib"] == 0.5


async def test_files(cli: Cli) -> None:
    async with served(cli) as client:
        text = "one\r\ntwo ü\ntwo\n"
        assert (await client.get("write_file", path="d/f", content=text))["bytes_written"] == 16
        assert (await client.get("read_file", path="/work/d/f"))["content"] == text
        part = await client.call("read_file", path="d/f", first_line=2, lines=1)
        assert text_of(part) == "[lines 2 to 2 of 3]\ntwo ü\n"

        assert "no_match" in await client.fail("edit_file", path="d/f", old="three", new="x")
        said = await client.fail("edit_file", path="d/f", old="two", new="x")
        assert "2 times" in said
        assert (await client.get("read_file", path="d/f"))["content"] == text
        await client.sh("chmod 750 d/f")
        await client.get("edit_file", path="d/f", old="two ü", new="2")
        await client.get("edit_file", path="d/f", old="o", new="0", everywhere=True)
        await client.get("write_file", path="d/f", content="end", append=True)
        assert await client.sh("cat d/f; stat -c %a d/f") == "0ne\r\n2\ntw0\nend750\n"

        await client.sh("ln -s f d/link; mkdir d/sub; touch d/$(printf '\\377')")
        listing = await client.get("list_files", path="d")
        assert [(each["name"], each["kind"], each["target"]) for each in listing["entries"]] == [
            ("f", "file", None),
            ("link", "symlink", "f"),
            ("sub", "directory", None),
            ("\ufffd", "file", None),
        ]

        await client.sh(f"echo {base64.b64encode(PNG).decode()} | base64 -d > p.png")
        image = await client.call("read_file", path="p.png")
        (block,) = [each for each in image.content if isinstance(each, ImageContent)]
        assert (base64.b64decode(block.data), block.mime_type) == (PNG, "image/png")

        await client.sh("head -c 11M /dev/zero > big; printf '\\377' > binary")
        assert "use exec with head" in await client.fail("read_file", path="big")
        assert "not_text" in await client.fail("read_file", path="binary")
        assert "not_found" in await client.fail("read_file", path="nowhere")
        assert "permission" in await client.fail("write_file", path="/etc/passwd", content="")


async def test_processes_and_ports(cli: Cli) -> None:
    async with served(cli) as client:
        server = ["python3", "-u", "-m", "http.server", "8123", "--bind", "127.0.0.1"]
        process = (await client.get("start_process", command=server))["process"]
        begun = await client.get("read_process", process=process, wait_s=60)
        assert begun["running"]
        assert "Serving HTTP" in begun["stdout"]
        await client.sh("echo from inside > /work/page")

        forwarded = await client.get("forward_port", port=8123)
        assert await client.get("forward_port", port=8123) == forwarded
        page = await to_thread.run_sync(fetch, f"{forwarded['url']}/page")
        assert page == b"from inside\n"
        heard = await client.get("read_process", process=process, wait_s=60)
        assert "GET /page" in heard["stderr"]
        assert "Serving" not in heard["stdout"]  # it was read before

        info = await client.get("info")
        assert info["forwarded"] == {"8123": forwarded["url"]}
        assert info["processes"][0]["command"].startswith("python3 -u")
        stopped = await client.get("stop_process", process=process)
        assert (stopped["running"], stopped["exit_code"]) == (False, -15)

        quick = (await client.get("start_process", command="echo done; exit 5"))["process"]
        said = ""
        while (state := await client.get("read_process", process=quick, wait_s=60))["running"]:
            said += state["stdout"]
        assert (said + state["stdout"], state["exit_code"]) == ("done\n", 5)
        assert f"known here: {process}, {quick}" in await client.fail("stop_process", process="p9")


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        content: bytes = answer.read()
    return content


async def test_wrong_calls(cli: Cli) -> None:
    async with served(cli) as client:
        assert "command: Field required" in await client.fail("exec")
        said = await client.fail("exec", command="true", timeout_s=-1, shell=True)
        assert "timeout_s: " in said
        assert "shell: Extra inputs are not permitted" in said
        assert await ids(cli) == []
        assert "not_found" in await client.fail("exec", command=["no-such-program"])
        assert "invalid_spec" in await client.fail("exec", command=[])
        assert "invalid_spec" in await client.fail("exec", command=["a\0b"])
        with pytest.raises(MCPError, match="there is no tool 'no-such-tool'"):
            await client.call("no-such-tool")


async def test_a_cancelled_call_ends_its_command(cli: Cli) -> None:
    async with served(cli) as client:
        await client.sh("true")
        line = "echo $$ > pid; while true; do sleep 1; done"
        call = asyncio.ensure_future(client.call("exec", command=line))
        look = "cat pid 2>/dev/null && kill -0 $(cat pid) && echo alive; true"
        while "alive" not in await client.sh(look):
            await anyio.sleep(0.05)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        while "alive" in await client.sh(look):
            await anyio.sleep(0.05)


async def test_the_protocol_of_2026(cli: Cli) -> None:
    told: list[str] = []

    async def heard(progress: float, total: float | None, message: str | None) -> None:
        told.append(message or "")

    async with Client(stdio_client(parameters(cli))) as client:
        assert client.protocol_version == "2026-07-28"
        result = await client.call_tool("exec", {"command": "echo new"}, progress_callback=heard)
    assert result.structured_content["stdout"] == "new\n"
    assert any("starting the sandbox" in step for step in told)


async def test_a_sandbox_that_has_ended(cli: Cli) -> None:
    async with served(cli) as client:
        await client.get("write_file", path="kept", content="x")
        await client.get("start_process", command="sleep 1000")
        (first,) = await ids(cli)
        await to_thread.run_sync(cli.run, "rm", first)

        for name, arguments in [("exec", {"command": "ls"}), ("list_files", {})] * 2:
            said = await client.fail(name, **arguments)
            assert "All that was in it is lost" in said
            assert "Call `restart`" in said
        assert (await client.get("info"))["state"] == "ended"
        assert await ids(cli) == []  # nothing is made anew in silence

        second = await client.get("restart")
        assert second["state"] == "running"
        assert await ids(cli) == [second["id"]]
        assert await client.sh("ls") == ""
        third = await client.get("restart")  # also one that lives
        assert await ids(cli) == [third["id"]]
        assert (await client.get("info"))["processes"] == []


async def test_a_sandbox_that_nobody_used(cli: Cli) -> None:
    async with served(cli, "--idle", "1") as client:
        await client.sh("true")
        await until_gone(cli)
        said = await client.fail("exec", command="true")
        assert "idle for longer than its idle time-out" in said
        assert "Call `restart`" in said


async def test_a_list_of_allowed_hosts(cli: Cli) -> None:
    async with served(cli, "--allow", "pypi.example", "--allow", "*.git.example") as client:
        tool = (await client.session.list_tools()).tools[0]
        assert tool.annotations is not None
        assert tool.annotations.open_world_hint
        said = await client.sh("curl -sS http://denied.example/")
        assert "denied.example is not on the list of allowed hosts" in said
        assert '"allowed": ["pypi.example", "*.git.example"]' in said
        assert (await client.get("info"))["network"] == "allow"


async def test_in_a_living_sandbox(cli: Cli) -> None:
    async with Sandbox.create("docker") as sandbox:
        async with served(cli, "--id", sandbox.id) as client:
            tools = [tool.name for tool in (await client.session.list_tools()).tools]
            assert "restart" not in tools
            await client.get("write_file", path="left", content="by the client")
            await client.get("start_process", command="echo $$ > pid; exec sleep 1000")
            while not await sandbox.files.exists("pid"):
                await anyio.sleep(0.05)
        assert await sandbox.files.read_text("left") == "by the client"
        while (await sandbox.sh("kill -0 $(cat pid)")).exit_code == 0:
            await anyio.sleep(0.05)

    async with served(cli, "--id", sandbox.id) as client:
        assert "sandbox_not_found" in await client.fail("exec", command="true")


async def test_a_shared_directory(cli: Cli) -> None:
    share = cli.cwd / "share"
    (share / "project" / "src").mkdir(parents=True)
    (share / "project" / "src" / "a.txt").write_text("from here")
    (cli.cwd / "secret").write_text("not to be had")
    (share / "way-out").symlink_to(cli.cwd)
    (share / "pipes").mkdir()
    os.mkfifo(os.fsencode(share / "pipes") + b"/\xff")

    async with served(cli, "--share", "share") as client:
        await client.get("upload", local="project", remote="p")
        assert await client.sh("cat p/src/a.txt; tr a-z A-Z < p/src/a.txt > p/b.txt") == "from here"
        await client.get("download", local="results/b.txt", remote="p/b.txt")
        assert (share / "results" / "b.txt").read_text() == "FROM HERE"
        await client.get("download", local="whole", remote="p")
        assert (share / "whole" / "src" / "a.txt").read_text() == "from here"

        said = await client.fail("download", local="project", remote="p")
        assert "replace nothing" in said
        assert "not_found" in await client.fail("upload", local="nowhere", remote="x")
        assert "left out" in await client.fail("upload", local="pipes", remote="x")
        for outside in ("../secret", str(cli.cwd / "secret"), "way-out/secret", "project/../../x"):
            assert "unsafe_path" in await client.fail("upload", local=outside, remote="x")
            assert "unsafe_path" in await client.fail("download", local=outside, remote="p/b.txt")
        await client.sh("mkdir evil; ln -s / evil/root")
        assert "unsafe_path" in await client.fail("download", local="evil", remote="evil")
    assert not (cli.cwd / "x").exists()


def test_stdout_is_the_protocol_alone(cli: Cli) -> None:
    hello = {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "by hand", "version": "1"},
    }
    messages: list[dict[str, Any]] = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
    ]
    lines = "".join(json.dumps(message) + "\r\n" for message in messages)
    done = cli.run("mcp", stdin=b"no message\n\n" + lines.encode())
    assert done.returncode == 0
    (answer,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert answer["result"]["serverInfo"]["name"] == "sandboxkit"
    assert "no network" in answer["result"]["instructions"]
    assert b"Traceback" not in done.stderr


def test_what_is_wrong_is_said_at_once(cli: Cli) -> None:
    for wrong, code in (
        (["--id", "abc", "--image", "debian"], 2),
        (["--share", "nowhere"], 2),
        (["--memory-gib", "-1"], 2),
        (["--lease", "0"], 2),
        (["--allow", "http://a/b"], 2),
        (["--allow", "pypi.example", "--network", "open"], 2),
        (["--allow", "pypi.example", "--id", "abc"], 2),
        (["--provider", "no-such"], 1),
    ):
        done = cli.run("mcp", *wrong)
        assert (done.returncode, done.stdout) == (code, b""), wrong
        assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("package", ["mcp", "mcp_types"])
def test_without_the_extra(package: str, tmp_path: Path) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None; sys.argv[1:] = ['mcp']\n"
        "from sandboxkit.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=False, cwd=tmp_path, text=True
    )
    assert done.returncode == 1
    assert f'{sys.executable} -m pip install "sandboxkit[mcp]"' in done.stderr
    assert "Traceback" not in done.stderr
