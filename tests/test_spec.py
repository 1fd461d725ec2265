"""Specs: wrong values are named before anything is created, and secrets never shown."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from sandboxkit.admission import admit
from sandboxkit.errors import (
    ExecStartError,
    InvalidSpecError,
    PathNotFoundError,
    SandboxError,
    UnsupportedError,
    file_error,
)
from sandboxkit.ownership import owned
from sandboxkit.providers.base import Capabilities
from sandboxkit.spec import KEY_LABEL, OWNER_LABEL, NetworkPolicy, Resources, SandboxSpec

NOTHING = Capabilities(isolation="none", network=frozenset({"none"}))


def test_the_defaults_are_those_of_the_hosting_guide() -> None:
    limits = SandboxSpec().resources
    assert (limits.cpu, limits.memory_gib, limits.disk_gib) == (1.0, 1.0, 5.0)
    assert SandboxSpec().network == NetworkPolicy.none()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"cpu": 0}, "resources.cpu"),
        ({"cpu": float("nan")}, "resources.cpu"),
        ({"memory_gib": "plenty"}, "plenty"),
        ({"memory_gb": 2}, "memory_gb"),
        ({"workdir": "work"}, "absolute"),
        ({"workdir": "/a/../b"}, "absolute"),
        ({"workdir": "/proc/self/fd/7"}, "/proc"),
        ({"network": "half-open"}, "network"),
        ({"user": "root:root"}, "user"),
        ({"user": "-x y"}, "user"),
        ({"labels": {"sandboxkit.owner": "me"}}, "reserved"),
        ({"labels": {"bad name": "x"}}, "bad name"),
        ({"labels": {"a": "line\nbreak"}}, "printable"),
        ({"ports": [0]}, "ports"),
        ({"lease_s": 0}, "lease_s"),
        ({"lifetime_s": -1}, "lifetime_s"),
        ({"image": ""}, "image"),
    ],
)
def test_a_wrong_value_is_named(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidSpecError, match=r"not valid|reserved") as caught:
        SandboxSpec.build(None, **fields)
    assert said in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("env", [{"A=B": "s3cret"}, {"": "s3cret"}, {"KEY": "s3cret\0"}])
def test_a_wrong_environment_is_named_without_its_value(env: dict[str, str]) -> None:
    with pytest.raises(InvalidSpecError) as caught:
        SandboxSpec.build(None, env=env)
    assert "s3cret" not in str(caught.value)


def test_no_repr_shows_the_environment() -> None:
    spec = SandboxSpec.build(None, env={"KEY": "s3cret"})
    assert "s3cret" not in repr(spec)
    assert "s3cret" not in repr(owned(spec))


def test_single_fields_add_to_a_spec_and_count_as_written() -> None:
    base = SandboxSpec.build(None, memory_gib=2, image="a")
    spec = SandboxSpec.build(base, cpu=3, resources=Resources(pids=64))
    limits = spec.resources
    assert (spec.image, limits.memory_gib, limits.cpu, limits.pids) == ("a", 2, 3, 64)
    assert spec.demands("resources.memory_gib")
    assert spec.demands("resources.pids")
    assert not spec.demands("resources.disk_gib")
    assert not spec.demands("network")


def test_a_default_that_cannot_be_kept_is_recorded() -> None:
    differences = admit(SandboxSpec(), NOTHING, "cloud")
    assert {difference.field for difference in differences} == {
        "resources.cpu",
        "resources.memory_gib",
        "resources.disk_gib",
        "resources.pids",
    }


@pytest.mark.parametrize(
    "fields",
    [{"disk_gib": 5.0}, {"network": "open"}, {"runtime": "runsc"}, {"image": "x"}, {"ports": [80]}],
)
def test_a_demand_that_cannot_be_kept_is_refused_or_recorded_where_allowed(
    fields: dict[str, Any],
) -> None:
    with pytest.raises(UnsupportedError, match="cloud"):
        admit(SandboxSpec.build(None, **fields), NOTHING, "cloud")
    relaxed = SandboxSpec.build(None, strict=False, **fields)
    assert len(admit(relaxed, NOTHING, "cloud")) >= 1


def test_each_sandbox_gets_a_key_and_an_owner_of_its_own() -> None:
    spec = SandboxSpec.build(None, labels={"team": "blue"}, lifetime_s=60)
    one, two = owned(spec), owned(spec)
    assert one.key != two.key
    assert one.labels["team"] == "blue"
    assert {OWNER_LABEL, KEY_LABEL, "sandboxkit.created", "sandboxkit.expires"} < set(one.labels)


def test_errors_are_the_builtin_that_fits_and_survive_pickling() -> None:
    error = file_error(2, "/x: no such file", op="files.read", sandbox_id="abc")
    assert isinstance(error, PathNotFoundError)
    assert isinstance(error, FileNotFoundError)
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), back.errno, back.sandbox_id, str(back)) == (
        PathNotFoundError,
        2,
        "abc",
        str(error),
    )
    start = pickle.loads(pickle.dumps(ExecStartError("no such program", code="not_found")))
    assert start.code == "not_found"
    assert isinstance(start, SandboxError)
