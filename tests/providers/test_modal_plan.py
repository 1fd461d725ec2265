"""What can be said of Modal before it is asked: the account, the limits, the refusals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sandboxkit as sk
from sandboxkit.errors import UnsupportedError
from sandboxkit.providers.modal import ModalProvider
from tests.emulators.modal import ModalEmulator

VARIABLES = ("MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET", "MODAL_CONFIG_PATH", "MODAL_PROFILE")


@pytest.fixture
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No token anywhere; the path is that of the configuration file, which is not there."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "modal.toml"
    monkeypatch.setenv("MODAL_CONFIG_PATH", str(path))
    return path


def test_the_sdk_is_not_imported_to_tell_what_there_is() -> None:
    script = """
import sys
from sandboxkit.providers.modal import ModalProvider
provider = ModalProvider()
provider.capabilities(); provider.credentials(); provider.account(); provider.missing()
assert not {"modal", "grpclib", "synchronicity"} & set(sys.modules), sorted(sys.modules)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)


def test_without_a_token_it_says_what_to_set(nothing_set: Path) -> None:
    found = ModalProvider().credentials()
    assert not found.found
    assert "MODAL_TOKEN_ID" in found.said
    assert "modal token new" in found.said


def test_the_token_is_found_in_the_environment(
    nothing_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODAL_TOKEN_ID", "ak-1")
    assert not ModalProvider().credentials().found, "half a token is none"
    monkeypatch.setenv("MODAL_TOKEN_SECRET", "as-secret")
    found = ModalProvider().credentials()
    assert found.found
    assert "MODAL_TOKEN_ID" in found.said
    assert "as-secret" not in found.said


@pytest.mark.parametrize(
    ("chosen", "profile"), [("", "'work'"), ("home", "'home'"), ("nobody", None)]
)
def test_the_token_is_found_in_the_profile_that_is_active(
    nothing_set: Path, monkeypatch: pytest.MonkeyPatch, chosen: str, profile: str | None
) -> None:
    nothing_set.write_text(
        '[home]\ntoken_id = "ak-1"\ntoken_secret = "as-1"\n'
        '[work]\ntoken_id = "ak-2"\ntoken_secret = "as-2"\nactive = true\n'
    )
    if chosen:
        monkeypatch.setenv("MODAL_PROFILE", chosen)
    found = ModalProvider().credentials()
    assert found.found == (profile is not None)
    if profile:
        assert profile in found.said
    assert "as-" not in found.said


def test_a_broken_configuration_file_is_no_token(nothing_set: Path) -> None:
    nothing_set.write_text("this is = not [ toml")
    assert not ModalProvider().credentials().found


def test_two_tokens_are_two_accounts(nothing_set: Path) -> None:
    tokens = [("ak-1", "as-1"), ("ak-2", "as-2"), ("ak-1", "as-1")]
    first, second, third = (
        ModalProvider(token_id=token, token_secret=secret).account() for token, secret in tokens
    )
    assert first == third != second
    assert "ak-1" not in first


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"lifetime_s": 90_000}, "24 hours"),
        ({"cpu": 0.1}, "eighth of a physical core"),
        ({"ports": (8000,)}, "network='open'"),
        ({"ports": (8000,), "network": "none", "strict": False}, "network='open'"),
        ({"disk_gib": 10}, "disk_gib"),
        ({"pids": 100}, "pids"),
        ({"runtime": "runsc"}, "runtime"),
    ],
)
async def test_what_cannot_be_had_is_refused_before_anything_is_made(
    modal: ModalEmulator, fields: dict[str, Any], says: str
) -> None:
    before = modal.faults.calls["create"]
    with pytest.raises(UnsupportedError, match=says) as caught:
        await sk.Sandbox.create("modal", **fields)
    assert caught.value.provider == "modal"
    assert modal.faults.calls["create"] == before


async def test_what_is_not_strict_is_met_halfway_and_told(modal: ModalEmulator) -> None:
    async with sk.Sandbox.create("modal", cpu=0.1, lifetime_s=90_000, strict=False) as sandbox:
        told = {each.field: each.applied for each in sandbox.info.differences}
        assert (told["resources.cpu"], told["lifetime_s"]) == (0.25, 86_400.0)
        assert sandbox.info.effective.cpu == 0.25
        definition = modal.sandbox(sandbox.id).definition
        assert definition.timeout_secs == 86_400
        assert definition.resources.milli_cpu == definition.resources.milli_cpu_max == 125


async def test_limits_are_hard_and_in_modals_own_units(modal: ModalEmulator) -> None:
    """One of our CPUs is half a physical core; asked for and not exceeded are the same."""
    spec: dict[str, Any] = {
        "cpu": 1.16,
        "memory_gib": 0.75,
        "lifetime_s": 600,
        "labels": {"a": "b"},
    }
    async with sk.Sandbox.create("modal", **spec) as sandbox:
        made = modal.sandbox(sandbox.id)
        asked = made.definition.resources
        assert (asked.milli_cpu, asked.milli_cpu_max) == (580, 580)
        assert (asked.memory_mb, asked.memory_mb_max) == (768, 768)
        assert 600 <= made.definition.timeout_secs <= 630
        assert made.name == sandbox.info.labels["sandboxkit.key"]
        assert made.tags.items() >= sandbox.info.labels.items()
        assert made.env == {}, "the environment goes through the channel"
