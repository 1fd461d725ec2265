"""The tables of a store. Their names all begin with `sandboxkit_`: a database may be shared."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

SCHEMA: Final = 1
"""The version of these tables. Any change to them is a new one."""

_NUMBER = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up only an INTEGER

metadata = MetaData()

schema = Table("sandboxkit_schema", metadata, Column("version", Integer, primary_key=True))

sessions = Table(
    "sandboxkit_sessions",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("agent", Text, nullable=False),
    Column("backend", Text, nullable=False),
    Column("spec", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("created", Float, nullable=False),
    Column("updated", Float, nullable=False),
    Column("conversation", String(36), nullable=False),  # as the agent calls it
    Column("parent", String(36)),  # that it was forked from
    Column("writer", Text),  # whose saves are accepted
    Column("snapshot", _NUMBER),  # the newest
)

transcripts = Table(
    "sandboxkit_transcripts",
    metadata,
    Column("number", _NUMBER, primary_key=True, autoincrement=True),
    Column("scope", String(36), nullable=False),  # the session that may see it; "" is nobody's
    Column("project_key", Text, nullable=False),
    Column("session_id", Text, nullable=False),
    Column("subpath", Text, nullable=False),  # "" is the main one
    Column("mtime", BigInteger, nullable=False),  # milliseconds
    Column("length", BigInteger, nullable=False),
    Column("summary", Text),
    UniqueConstraint("scope", "project_key", "session_id", "subpath"),
)

entries = Table(
    "sandboxkit_entries",
    metadata,
    Column("transcript", _NUMBER, ForeignKey(transcripts.c.number), primary_key=True),
    Column("position", BigInteger, primary_key=True),
    Column("once", Text, nullable=False),  # the same entry is never there twice
    Column("entry", Text, nullable=False),  # JSON; as text, since JSONB cannot hold all of it
    UniqueConstraint("transcript", "once"),
)

snapshots = Table(
    "sandboxkit_snapshots",
    metadata,
    Column("number", _NUMBER, primary_key=True, autoincrement=True),
    Column("session", String(36), ForeignKey(sessions.c.id), nullable=False, index=True),
    Column("created", Float, nullable=False),
    Column("manifest", Text, nullable=False),  # digests of its pieces, in JSON
    Column("files", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
)
