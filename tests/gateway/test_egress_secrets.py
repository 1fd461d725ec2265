"""Secrets: the sandbox has a placeholder, the host that it is for gets the value."""

from __future__ import annotations

import asyncio
import base64
import copy
import pickle
import ssl
from pathlib import Path

import pytest

from sandboxkit.errors import InvalidSpecError
from sandboxkit.gateway import Egress, Limits, Secret
from sandboxkit.spec import NetworkPolicy
from tests.gateway.conftest import Site
from tests.gateway.world import (
    OTHER_PUBLIC,
    PUBLIC,
    Certificates,
    Origin,
    World,
    curl,
    proxy_url,
    tunnel,
)

VALUE = "s3cr&t value/+"
ALLOWED = ["api.example.com", "other.example", "*.example.org"]
HOSTS = ["api.example.com"]


@pytest.fixture
def trusted(certificates: Certificates) -> ssl.SSLContext:
    return certificates.trust()


def ca_file(egress: Egress, directory: Path) -> Path:
    assert egress.ca_pem is not None
    file = directory / "session.pem"
    file.write_bytes(egress.ca_pem)
    return file


async def test_the_value_goes_to_its_host_only(
    site: Site, trusted: ssl.SSLContext, certificates: Certificates, tmp_path: Path
) -> None:
    other = Origin(certificates.server("other.example"))
    site.world.names["other.example"] = [OTHER_PUBLIC]
    site.world.places |= {(OTHER_PUBLIC, 443): other.port, (OTHER_PUBLIC, 80): site.http.port}
    secret = Secret("TOKEN", VALUE, hosts=HOSTS)
    async with site.world.egress(ALLOWED, secrets=[secret], trust=trusted) as egress:
        placeholder = egress.placeholders["TOKEN"]
        assert placeholder.startswith("sandboxkit-secret-")
        ca = ("--cacert", ca_file(egress, tmp_path))
        bearer = ("-H", f"Authorization: Bearer {placeholder}")

        code, out, err = await curl(egress, *ca, *bearer, "https://api.example.com/x")
        assert (code, out) == (0, "hello from api.example.com"), err
        (seen,) = site.https.seen
        assert seen.headers["Authorization"] == f"Bearer {VALUE}"

        # Another host has its own TLS, end to end: it gets the placeholder at most.
        world = ("--cacert", certificates.ca_file)
        assert (await curl(egress, *world, *bearer, "https://other.example/"))[0] == 0
        assert other.seen[0].headers["Authorization"] == f"Bearer {placeholder}"
        # What can be read, and is not for this host, does not leave at all.
        for url in ("http://other.example/", "http://api.example.com/"):
            _, out, _ = await curl(egress, *bearer, url)
            assert "TOKEN must not go to" in out
            assert egress.decisions[-1].allowed is False
        assert site.http.seen == []
        assert VALUE not in str(egress.decisions) + repr(secret)
    other.close()


async def test_where_a_placeholder_can_stand(
    site: Site, trusted: ssl.SSLContext, tmp_path: Path
) -> None:
    calls = 0

    async def value() -> str:
        nonlocal calls
        calls += 1
        return f"value-{calls}"

    secrets = [Secret("FRESH", value, hosts=HOSTS), Secret("FIXED", VALUE, hosts=HOSTS)]
    async with site.world.egress(ALLOWED, secrets=secrets, trust=trusted) as egress:
        fresh, fixed = egress.placeholders["FRESH"], egress.placeholders["FIXED"]
        ca = ("--cacert", ca_file(egress, tmp_path))
        url = "https://api.example.com"
        headers = ("-H", f"X-A: a {fresh} b", "-H", f"X-B: {fixed}", "-H", f"X-C: {fixed}{fresh}")
        await curl(egress, *ca, *headers, f"{url}/1?q={fixed}&r={fresh}#f")
        await curl(egress, *ca, "-u", f"git:{fixed}", url + "/2")  # Basic, as git writes it
        await curl(egress, *ca, "-d", f"key={fixed}", url + "/3")
        _, out, _ = await curl(egress, *ca, f"{url}/bot{fixed}/x")
        assert "no path" in out
        await curl(egress, *ca, url + "/4")
    one, two, three, four = site.https.seen
    assert one.headers["X-A"] == "a value-1 b"
    assert (one.headers["X-B"], one.headers["X-C"]) == (VALUE, VALUE + "value-1")
    assert one.path == "/1?q=s3cr%26t%20value%2F%2B&r=value-1"
    assert base64.b64decode(two.headers["Authorization"].split()[1]).decode() == f"git:{VALUE}"
    assert three.body == f"key={fixed}".encode()  # bodies are passed on as they are
    assert "Authorization" not in four.headers
    assert calls == 1


async def test_many_requests_over_one_pair_of_connections(
    site: Site, trusted: ssl.SSLContext, tmp_path: Path
) -> None:
    secret = Secret("TOKEN", VALUE, hosts=HOSTS)
    async with site.world.egress(ALLOWED, secrets=[secret], trust=trusted) as egress:
        urls = [f"https://api.example.com/{name}" for name in ("a", "chunked", "b", "c")]
        ca = ("--cacert", ca_file(egress, tmp_path))
        code, out, err = await curl(egress, *ca, *urls)
        assert (code, out.count("hello")) == (0, 4), err
        assert [one.method for one in egress.decisions] == ["CONNECT", "GET", "GET", "GET", "GET"]
        # A large body in both directions.
        big = tmp_path / "big"
        big.write_bytes(bytes(range(256)) * 40_000)
        copy_ = tmp_path / "copy"
        await curl(egress, *ca, "-T", big, "-o", copy_, "https://api.example.com/big")
        assert copy_.read_bytes() == big.read_bytes()
    assert site.https.connections == 2


async def test_a_host_that_echoes_a_header(
    site: Site, trusted: ssl.SSLContext, tmp_path: Path
) -> None:
    secret = Secret("TOKEN", "plain-value", hosts=HOSTS)
    async with site.world.egress(ALLOWED, secrets=[secret], trust=trusted) as egress:
        placeholder = egress.placeholders["TOKEN"]
        _, out, _ = await curl(
            *(egress, "-i", "--cacert", ca_file(egress, tmp_path)),
            *("-H", f"Authorization: {placeholder}", "https://api.example.com/echo-headers"),
        )
        assert site.https.seen[0].headers["Authorization"] == "plain-value"
        assert f"X-Echo: {placeholder}" in out
        assert "plain-value" not in out


async def test_a_value_that_cannot_be_had(
    site: Site, trusted: ssl.SSLContext, tmp_path: Path
) -> None:
    async def fail() -> str:
        raise RuntimeError("the vault's key is hunter2")

    async def smuggle() -> str:
        return "x\r\nX-Admin: 1"

    secrets = [Secret("A", fail, hosts=HOSTS), Secret("B", smuggle, hosts=HOSTS)]
    async with site.world.egress(ALLOWED, secrets=secrets, trust=trusted) as egress:
        for name in ("A", "B"):
            _, out, _ = await curl(
                *(egress, "--cacert", ca_file(egress, tmp_path)),
                *("-H", f"X: {egress.placeholders[name]}", "https://api.example.com/"),
            )
            assert f"secret {name}" in out
            assert "hunter2" not in out + str(egress.decisions)
    assert site.https.seen == []


async def test_the_real_host_is_verified(site: Site, tmp_path: Path) -> None:
    secret = Secret("TOKEN", VALUE, hosts=HOSTS)
    for trust in (None, ssl.create_default_context()):  # the world's authority is in neither
        async with site.world.egress(ALLOWED, secrets=[secret], trust=trust) as egress:
            _, out, _ = await curl(
                *(egress, "--cacert", ca_file(egress, tmp_path)),
                *("-H", f"X: {egress.placeholders['TOKEN']}", "https://api.example.com/"),
            )
            assert "TLS with it failed" in out
            assert VALUE not in out
    assert site.https.seen == []


async def test_a_certificate_of_another_host_is_not_enough(
    site: Site, certificates: Certificates, trusted: ssl.SSLContext, tmp_path: Path
) -> None:
    wrong = Origin(certificates.server("other.example"))
    site.world.places[PUBLIC, 443] = wrong.port
    secret = Secret("TOKEN", VALUE, hosts=HOSTS)
    async with site.world.egress(ALLOWED, secrets=[secret], trust=trusted) as egress:
        ca = ca_file(egress, tmp_path)
        _, out, _ = await curl(egress, "--cacert", ca, "https://api.example.com/")
        assert "Hostname mismatch" in out
    wrong.close()
    assert wrong.seen == []


async def test_another_name_in_the_handshake_or_the_host_header(
    site: Site, trusted: ssl.SSLContext, tmp_path: Path
) -> None:
    secret = Secret("TOKEN", VALUE, hosts=[*HOSTS, "*.example.org"])
    site.world.names["www.example.org"] = [PUBLIC]
    async with site.world.egress(ALLOWED, secrets=[secret], trust=trusted) as egress:
        ca = ("--cacert", ca_file(egress, tmp_path))
        front = ("--connect-to", "www.example.org:443:api.example.com:443")
        assert (await curl(egress, *ca, *front, "https://www.example.org/"))[0] == 35
        assert "asks for another host" in egress.decisions[-1].reason
        _, out, _ = await curl(egress, *ca, "-H", "Host: evil.test", "https://api.example.com/")
        assert "Host header is not api.example.com" in out
        # No name at all.
        client = await tunnel(egress, "api.example.com:443")
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with pytest.raises(ConnectionError):
            await client.writer.start_tls(context, server_hostname="")
        client.close()
    assert site.https.seen == []


async def test_the_authority_of_a_session_vouches_for_its_hosts_only(
    site: Site, trusted: ssl.SSLContext
) -> None:
    from cryptography import x509

    secret = Secret("TOKEN", VALUE, hosts=[*HOSTS, "*.example.org"])
    async with (
        site.world.egress(ALLOWED, secrets=[secret], trust=trusted) as one,
        site.world.egress(ALLOWED, secrets=[secret], trust=trusted) as two,
    ):
        assert one.ca_pem != two.ca_pem
        assert one.placeholders != two.placeholders
        assert one.ca_pem is not None
        certificate = x509.load_pem_x509_certificate(one.ca_pem)
        limits = certificate.extensions.get_extension_for_class(x509.NameConstraints)
        assert limits.critical
        assert limits.value.permitted_subtrees == [
            x509.DNSName("api.example.com"),
            x509.DNSName("example.org"),
        ]
        assert b"PRIVATE" not in one.ca_pem


async def test_a_client_that_does_not_trust_the_session(
    site: Site, trusted: ssl.SSLContext, certificates: Certificates
) -> None:
    secret = Secret("TOKEN", VALUE, hosts=HOSTS)
    async with site.world.egress(ALLOWED, secrets=[secret], trust=trusted) as egress:
        ask = ("--cacert", certificates.ca_file, "https://api.example.com/")
        assert (await curl(egress, *ask))[0] == 60
    assert site.https.seen == []


async def test_what_is_no_tls_towards_a_host_of_a_secret(
    site: Site, trusted: ssl.SSLContext
) -> None:
    secret = Secret("TOKEN", VALUE, hosts=HOSTS)
    limits = Limits(head_s=0.5)
    options = {"secrets": [secret], "trust": trusted, "limits": limits}
    async with site.world.egress(ALLOWED, **options) as egress:
        for first in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03", b""):
            client = await tunnel(egress, "api.example.com:443")
            await client.send(first)
            if not first:
                client.writer.write_eof()
            await client.rest()
            client.close()


async def test_the_policy_still_holds(site: Site, trusted: ssl.SSLContext, tmp_path: Path) -> None:
    secret = Secret("TOKEN", VALUE, hosts=["not.allowed.example"])
    async with site.world.egress(ALLOWED, secrets=[secret], trust=trusted) as egress:
        code, _, err = await curl(egress, "https://not.allowed.example/")
        assert (code, "403" in err) == (56, True)
        egress.change(NetworkPolicy.none())
        assert "403" in (await curl(egress, "https://api.example.com/"))[2]


async def test_git_clones_with_a_secret(
    certificates: Certificates, trusted: ssl.SSLContext, tmp_path: Path
) -> None:
    """The dumb protocol: a bare repository is a directory of files."""
    import http.server

    async def git(*arguments: str, **env: str) -> None:
        process = await asyncio.create_subprocess_exec(
            "git",
            *arguments,
            cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1", **env},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await process.communicate()
        assert process.returncode == 0, out.decode()

    who = ("-c", "user.name=x", "-c", "user.email=x@example.com")
    await git("init", "-q", "work")
    (tmp_path / "work/file").write_text("content")
    await git("-C", "work", "add", "file")
    await git(*who, "-C", "work", "commit", "-q", "-m", "one")
    await git("clone", "-q", "--bare", "work", "repo.git")
    await git("-C", "repo.git", "update-server-info")

    wanted = "Basic " + base64.b64encode(b"x:the-token").decode()

    class Files(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(tmp_path))  # type: ignore[arg-type]

        def do_GET(self) -> None:
            if self.headers.get("Authorization") == wanted:
                super().do_GET()
                return
            self.send_response(401)
            self.send_header("WWW-Authenticate", "Basic")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing."""

    origin = Origin(certificates.server("git.example.org"), handler=Files)
    world = World({"git.example.org": [PUBLIC]}, {(PUBLIC, 443): origin.port})
    secret = Secret("GIT_TOKEN", "the-token", hosts=["*.example.org"])
    async with world.egress(["git.example.org"], secrets=[secret], trust=trusted) as egress:
        url = f"https://x:{egress.placeholders['GIT_TOKEN']}@git.example.org/repo.git"
        proxy = proxy_url(egress)
        ca = str(ca_file(egress, tmp_path))
        await git("clone", "-q", url, "clone", HTTPS_PROXY=proxy, GIT_SSL_CAINFO=ca)
    origin.close()
    assert (tmp_path / "clone/file").read_text() == "content"


def test_a_secret_shows_nothing_and_cannot_be_copied() -> None:
    secret = Secret("TOKEN", VALUE, hosts=HOSTS)
    assert repr(secret) == "Secret('TOKEN', hosts=[api.example.com:443])"
    for make in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="TOKEN cannot be"):
            make(secret)


@pytest.mark.parametrize(
    ("name", "hosts"),
    [("", HOSTS), ("a b", HOSTS), ("A=B", HOSTS), ("A", []), ("A", ["*"]), ("A", ["127.0.0.1"])],
)
def test_a_wrong_secret_is_refused(name: str, hosts: list[str]) -> None:
    with pytest.raises(InvalidSpecError) as caught:
        Secret(name, VALUE, hosts=hosts)
    assert VALUE not in str(caught.value)


def test_two_secrets_of_one_name() -> None:
    with pytest.raises(InvalidSpecError, match="same name"):
        World().egress([], secrets=[Secret("A", "1", hosts=HOSTS), Secret("A", "2", hosts=HOSTS)])
