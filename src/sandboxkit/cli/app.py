"""The commands and their options; each command's work is in a module of its own.

Those are imported when they run, so that `sandboxkit --help` is quick.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import sandboxkit
from sandboxkit.cli.outcome import finish
from sandboxkit.cli.sessions_app import StoreFiles, StoreUrl, sessions

app = typer.Typer(
    name="sandboxkit",
    help="Run AI agents in sandboxes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

bench = typer.Typer(help="Measure.", no_args_is_help=True)
app.add_typer(bench, name="bench")
app.add_typer(sessions, name="sessions")

ProviderName = Annotated[
    str, typer.Option("--provider", "-p", help="The backend.", envvar="SANDBOXKIT_PROVIDER")
]
SameProvider = Annotated[
    str | None,
    typer.Option(
        "--provider",
        "-p",
        help="The backend; default: docker, or where the session was.",
        envvar="SANDBOXKIT_PROVIDER",
    ),
]
Image = Annotated[str | None, typer.Option(help="The image; default: sandboxkit's own.")]
Network = Annotated[str, typer.Option(help="'none', or 'open': the backend's own network.")]
SameNetwork = Annotated[
    str | None, typer.Option(help="'none', or 'open'; default: none, or what the session had.")
]
Allow = Annotated[
    list[str] | None,
    typer.Option(help="A host that it may reach, such as pypi.org; repeatable."),
]
Cpu = Annotated[float | None, typer.Option(help="CPUs; default 1.")]
MemoryGib = Annotated[float | None, typer.Option(help="Memory in GiB; default 1.")]
Setup = Annotated[bool, typer.Option("--setup", help="Bring up a Docker engine where none runs.")]


def _version(wanted: bool) -> None:  # noqa: FBT001 - as typer calls it
    if wanted:
        typer.echo(f"sandboxkit {sandboxkit.__version__}")
        raise typer.Exit


@app.callback()
def _of_all(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="The version.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    *,
    provider: ProviderName = "docker",
    setup: Setup = False,
    keep_output: Annotated[
        Path | None,
        typer.Option(
            help="Directory for the file that the agent writes; default ./sandboxkit-demo."
        ),
    ] = None,
) -> None:
    """Watch a real agent at work in a real sandbox. Needs no account."""
    from sandboxkit.cli.demo import demo as work

    finish(work(provider=provider, setup=setup, output=keep_output))


@app.command()
def run(
    prompt: Annotated[str, typer.Argument(help="What the agent shall do.")],
    *,
    provider: SameProvider = None,
    image: Image = None,
    network: SameNetwork = None,
    allow: Allow = None,
    cpu: Cpu = None,
    memory_gib: MemoryGib = None,
    model: Annotated[str | None, typer.Option(help="The model; default: the agent's own.")] = None,
    max_turns: Annotated[
        int | None, typer.Option(min=1, help="The most that the model is asked.")
    ] = None,
    upload: Annotated[
        Path | None,
        typer.Option(help="A file, or a directory whose content goes to the work directory."),
    ] = None,
    download: Annotated[
        list[str] | None,
        typer.Option(help="A path in the sandbox to fetch; repeatable."),
    ] = None,
    output: Annotated[Path, typer.Option(help="Where downloads go.")] = Path(),
    name: Annotated[
        str | None,
        typer.Option(help="A session that lives on: the one of this name, or a new one."),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the session, so that it can go on.")
    ] = False,
    resume: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Go on with a session that was kept; see `sessions ls`."),
    ] = None,
    store: StoreUrl = None,
    files: StoreFiles = None,
) -> None:
    """Give one prompt to an agent in a fresh sandbox. Needs ANTHROPIC_API_KEY."""
    from sandboxkit.cli.run import Kept, Transfers
    from sandboxkit.cli.run import run as work
    from sandboxkit.cli.spec import policy_from, spec_from

    policy = policy_from(network or "none", allow) if network or allow else None
    kept = Kept(store, files, resume) if keep or resume or store or files else None
    spec = spec_from(image=image, network=policy, cpu=cpu, memory_gib=memory_gib)
    transfers = Transfers(upload, tuple(download or ()), output)
    finish(
        work(
            prompt,
            provider=provider,
            spec=spec,
            model=model,
            max_turns=max_turns,
            transfers=transfers,
            name=name,
            kept=kept,
        )
    )


@app.command(
    name="exec",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
def execute(
    command: Annotated[list[str], typer.Argument(help="The program and its arguments.")],
    *,
    provider: ProviderName = "docker",
    sandbox_id: Annotated[
        str | None, typer.Option("--id", help="A living sandbox; default: a fresh one.")
    ] = None,
    image: Image = None,
    network: Network = "none",
    allow: Allow = None,
    cpu: Cpu = None,
    memory_gib: MemoryGib = None,
    cwd: Annotated[str | None, typer.Option("--cwd", "-w", help="Where it starts.")] = None,
    env: Annotated[
        list[str] | None, typer.Option("--env", "-e", help="NAME=VALUE for it; repeatable.")
    ] = None,
    user: Annotated[str | None, typer.Option("--user", "-u", help="Who it runs as.")] = None,
) -> None:
    """Run one command in a sandbox; its output and exit code are ours."""
    from sandboxkit.cli.exec import execute as work
    from sandboxkit.cli.spec import env_from, policy_from, spec_for

    policy = policy_from(network, allow)
    finish(
        work(
            command,
            provider=provider,
            spec=spec_for(sandbox_id, network=policy, image=image, cpu=cpu, memory_gib=memory_gib),
            sandbox_id=sandbox_id,
            cwd=cwd,
            env=env_from(env or ()),
            user=user,
        )
    )


@app.command("mcp")
def serve_mcp(
    *,
    provider: ProviderName = "docker",
    sandbox_id: Annotated[
        str | None,
        typer.Option("--id", help="A living sandbox, which then stays; default: a fresh one."),
    ] = None,
    image: Image = None,
    network: Network = "none",
    allow: Allow = None,
    cpu: Cpu = None,
    memory_gib: MemoryGib = None,
    lease_s: Annotated[
        float | None,
        typer.Option(
            "--lease", help="Seconds that it outlives a killed or sleeping host; default 60."
        ),
    ] = None,
    idle_s: Annotated[
        float | None,
        typer.Option("--idle", help="Seconds without use after which it ends; default never."),
    ] = None,
    share: Annotated[
        Path | None,
        typer.Option(help="A directory that the client may copy from and to.", file_okay=False),
    ] = None,
) -> None:
    """Serve a sandbox's tools to an MCP client, over stdin and stdout."""
    from sandboxkit.cli.mcp import serve_mcp as work
    from sandboxkit.cli.spec import policy_from, spec_for

    spec = spec_for(
        sandbox_id,
        network=policy_from(network, allow),
        image=image,
        cpu=cpu,
        memory_gib=memory_gib,
        lease_s=lease_s,
        idle_timeout_s=idle_s,
    )
    if share is not None and not share.is_dir():
        raise typer.BadParameter(f"there is no directory {str(share)!r}", param_hint="--share")
    finish(work(provider=provider, spec=spec, sandbox_id=sandbox_id, share=share))


@app.command("ls")
def list_sandboxes(
    *,
    provider: ProviderName = "docker",
    everyone: Annotated[
        bool, typer.Option("--everyone", help="Those of other owners too.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Ids alone.")] = False,
) -> None:
    """List your sandboxes."""
    from sandboxkit.cli.listing import list_sandboxes as work

    finish(work(provider=provider, everyone=everyone, quiet=quiet))


@app.command("rm")
def remove(
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID", help="Their ids.")] = None,
    *,
    provider: ProviderName = "docker",
    every: Annotated[bool, typer.Option("--all", help="All that are yours.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask, with --all.")] = False,
) -> None:
    """Destroy sandboxes. Nothing that sandboxkit did not create is touched."""
    from sandboxkit.cli.listing import remove as work

    if every == bool(ids):
        raise typer.BadParameter("give ids, or --all", param_hint="ID")
    finish(work(ids or [], provider=provider, every=every, yes=yes))


@app.command("health")
def show_health(
    sandbox_id: Annotated[str, typer.Argument(metavar="ID", help="Its id.")],
    *,
    provider: ProviderName = "docker",
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """Say how a living sandbox is: the machine, and the guest in it. It is not woken."""
    from sandboxkit.cli.health import show_health as work

    finish(work(sandbox_id, provider=provider, as_json=as_json))


@app.command("gc")
def collect(
    *,
    provider: Annotated[
        list[str] | None,
        typer.Option(
            "--provider", "-p", help="A backend; repeatable. Default: those that you have used."
        ),
    ] = None,
    everyone: Annotated[
        bool, typer.Option("--everyone", help="Those of other owners too, where it is proven.")
    ] = False,
    paused: Annotated[
        bool, typer.Option("--paused", help="Paused ones too, whose host is gone.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Say what would be done, and do nothing.")
    ] = False,
) -> None:
    """Remove sandboxes that no host holds any more. What is in use is not touched."""
    from sandboxkit.cli.gc import collect as work

    finish(work(provider or [], everyone=everyone, paused=paused, dry_run=dry_run))


@app.command("providers")
def list_providers(
    *, as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False
) -> None:
    """List the backends: what each can do, and what it still needs."""
    from sandboxkit.cli.providers import list_providers as work

    finish(work(as_json=as_json))


@app.command()
def doctor(
    named: Annotated[
        str | None, typer.Argument(metavar="PROVIDER", help="The backend; default: docker.")
    ] = None,
    *,
    provider: ProviderName = "docker",
    setup: Setup = False,
) -> None:
    """Find out whether agents can run here, and what to do if not.

    A whole sandbox is created, used and destroyed, in your account at the backend.
    """
    from sandboxkit.cli.doctor import doctor as work

    finish(work(provider=named or provider, setup=setup))


@bench.command("model")
def bench_model(
    *,
    model: Annotated[
        list[str] | None, typer.Option(help="A model; repeatable. Default: claude-haiku-4-5.")
    ] = None,
    prompt_tokens: Annotated[
        list[int] | None,
        typer.Option(min=1, help="The size of the prompt; repeatable. Default: 100 and 5000."),
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="How often each is asked.")] = 5,
    max_tokens: Annotated[int, typer.Option(min=1, help="The most of an answer.")] = 100,
    base_url: Annotated[
        str | None,
        typer.Option(
            help="Another Messages API; its key is SANDBOXKIT_MODEL_KEY, where it needs one."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """Measure models through the gateway: first token, total, tokens per second.

    The service is the one that Claude Code would use here. Each request is paid for like any
    other; without a key, the scripted model on this machine is measured.
    """
    from sandboxkit.cli.bench import Plan
    from sandboxkit.cli.bench import bench_model as work

    plan = Plan(model or ["claude-haiku-4-5"], prompt_tokens or [100, 5000], runs, max_tokens)
    finish(work(plan, base_url=base_url, as_json=as_json))
