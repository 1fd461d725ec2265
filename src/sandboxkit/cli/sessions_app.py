"""`sandboxkit sessions ...`: the commands and their options."""

from __future__ import annotations

from typing import Annotated

import typer

from sandboxkit.cli.outcome import finish

sessions = typer.Typer(help="What a store keeps of sessions.", no_args_is_help=True)

StoreUrl = Annotated[
    str | None,
    typer.Option(
        "--store", help="The URL of its database; default: SQLite in your state directory."
    ),
]
StoreFiles = Annotated[
    str | None,
    typer.Option("--files", help="A directory, or s3://..., gs://..., az://...; see the docs."),
]
Json = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]


@sessions.command("ls")
def list_sessions(
    *,
    store: StoreUrl = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Ids alone.")] = False,
    as_json: Json = False,
) -> None:
    """List the sessions, the last saved one first."""
    from sandboxkit.cli.sessions import list_sessions as work

    finish(work(store, quiet=quiet, as_json=as_json))


@sessions.command("show")
def show_session(
    session_id: Annotated[str, typer.Argument(metavar="ID", help="Its id.")],
    *,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Show one session: what its sandbox was, what is kept, and how it goes on."""
    from sandboxkit.cli.sessions import show_session as work

    finish(work(session_id, store, as_json=as_json))


@sessions.command("rm")
def remove_sessions(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Their ids.")],
    *,
    store: StoreUrl = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Open ones too, which a host may still have.")
    ] = False,
) -> None:
    """Forget sessions. Their files are freed by `sessions sweep`."""
    from sandboxkit.cli.sessions import remove_sessions as work

    finish(work(ids, store, yes=yes))


@sessions.command("sweep")
def sweep_files(*, store: StoreUrl = None, files: StoreFiles = None) -> None:
    """Free the files that no session has any more, and that are older than a day."""
    from sandboxkit.cli.sessions import sweep_files as work

    finish(work(store, files))
