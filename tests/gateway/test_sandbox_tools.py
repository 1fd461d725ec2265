"""Real programs in a sandbox with a list of hosts: nobody has told them of the gateway."""

from __future__ import annotations

import asyncio
import base64
import ensurepip
import hashlib
import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import sandboxkit as sk
from sandboxkit.gateway.environment import trust_environment
from tests.gateway.world import PUBLIC, Certificates, Origin, World, serving

pytestmark = pytest.mark.usefixtures("engine")

HOST = "files.example.org"
URL = f"https://{HOST}"


def add_wheel(root: Path) -> None:
    directory = root / "simple" / "hello"
    directory.mkdir(parents=True)
    name = "hello-1.0-py3-none-any.whl"
    with zipfile.ZipFile(directory / name, "w") as wheel:
        wheel.writestr("hello.py", "print('hello from the wheel')\n")
        info = "hello-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: hello\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    (directory / "index.html").write_text(f'<a href="{name}">{name}</a>')


def add_npm_package(root: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        content = b'{"name": "hello", "version": "1.0.0"}'
        entry = tarfile.TarInfo("package/package.json")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    data = packed.getvalue()
    (root / "npm").mkdir()
    (root / "npm" / "hello-1.0.0.tgz").write_bytes(data)
    digest = base64.b64encode(hashlib.sha512(data).digest()).decode()
    version = {
        "name": "hello",
        "version": "1.0.0",
        "dist": {"tarball": f"{URL}/npm/hello-1.0.0.tgz", "integrity": f"sha512-{digest}"},
    }
    told = {"name": "hello", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
    (root / "npm" / "hello").write_text(json.dumps(told))


async def add_repository(root: Path) -> None:
    """The dumb protocol: a bare repository is a directory of files."""
    script = """
        git init -q work && cd work && echo content > file && git add file
        git -c user.name=x -c user.email=x@example.com commit -q -m one && cd ..
        git clone -q --bare work repo.git && git -C repo.git update-server-info
    """
    env = {"PATH": "/usr/bin:/bin", "HOME": str(root), "GIT_CONFIG_NOSYSTEM": "1"}
    process = await asyncio.create_subprocess_exec("sh", "-ec", script, cwd=root, env=env)
    assert await process.wait() == 0


@dataclass
class Place:
    """A sandbox, and the one host that it may reach."""

    sandbox: sk.Sandbox
    origin: Origin

    async def run(self, *argv: str) -> sk.ExecResult:
        return await self.sandbox.exec(argv, timeout_s=120)


@pytest.fixture
def origin(tmp_path: Path, certificates: Certificates) -> Iterator[Origin]:
    origin = Origin(certificates.server(HOST), handler=serving(tmp_path))
    yield origin
    origin.close()


@pytest.fixture(params=["end to end", "ended by the gateway"])
async def place(
    request: pytest.FixtureRequest, origin: Origin, certificates: Certificates
) -> AsyncIterator[Place]:
    """TLS from end to end, or with a secret, and then the gateway's own certificate."""
    world = World({HOST: [PUBLIC]}, {(PUBLIC, 443): origin.port})
    gateway = sk.Gateway(resolve=world.resolve, dial=world.dial, trust=certificates.trust())
    secret = sk.Secret("TOKEN", "the-value", hosts=[HOST])
    own = request.param == "end to end"
    async with sk.Sandbox.create(
        "docker",
        network=sk.NetworkPolicy.allow([HOST]),
        gateway=gateway,
        secrets=[] if own else [secret],
        env=trust_environment("/work/world.pem") if own else {},
    ) as sandbox:
        await sandbox.files.write("world.pem", certificates.ca_file.read_bytes())
        yield Place(sandbox, origin)


async def test_curl(place: Place, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    assert (await place.run("curl", "-sS", f"{URL}/file")).check().text == "content"
    denied = await place.run("curl", "-sS", "https://evil.example/")
    assert b"response 403" in denied.stderr


async def test_urllib(place: Place, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    script = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1]).read().decode())"
    done = await place.run("python3", "-c", script, f"{URL}/file")
    assert done.check().text == "content\n"
    denied = await place.run("python3", "-c", script, "https://evil.example/")
    assert b"evil.example is not on the list of allowed hosts; do not retry" in denied.stderr


async def test_git(place: Place, tmp_path: Path) -> None:
    await add_repository(tmp_path)
    done = await place.run("git", "clone", "-q", f"{URL}/repo.git")
    done.check()
    assert await place.sandbox.files.read_text("repo/file") == "content\n"
    assert all(one.allowed for one in place.sandbox.network.decisions)
    denied = await place.run("git", "clone", "-q", "https://evil.example/other.git")
    assert denied.exit_code == 128
    assert b"response 403" in denied.stderr


async def test_pip(place: Place, tmp_path: Path) -> None:
    add_wheel(tmp_path)
    (wheel,) = (Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl")
    await place.sandbox.files.upload(wheel, wheel.name)
    pip = ("python3", f"{wheel.name}/pip", "install", "--no-cache-dir", "--target", "lib")
    (await place.run(*pip, "--index-url", f"{URL}/simple", "hello")).check()
    done = await place.run("python3", "lib/hello.py")
    assert done.check().text == "hello from the wheel\n"
    denied = await place.run(*pip, "--retries=1", "--index-url=https://evil.example/", "x")
    assert denied.exit_code == 1
    assert b"403 Forbidden by the network policy: evil.example is not" in denied.stderr


async def test_npm(place: Place, tmp_path: Path) -> None:
    node = shutil.which("node")
    npm = Path("/usr/lib/node_modules/npm")
    if node is None or not await asyncio.to_thread(npm.is_dir):
        pytest.skip("there is no node and npm on this machine to bring into the sandbox")
    add_npm_package(tmp_path)
    await place.sandbox.files.upload(node, "node")
    await place.sandbox.files.upload(npm, "npm")
    install = ("./node", "npm/bin/npm-cli.js", "install", "--no-audit", "--no-fund", "--prefix=app")
    (await place.run(*install, f"--registry={URL}/npm/", "hello")).check()
    assert await place.sandbox.files.exists("app/node_modules/hello/package.json")
    denied = await place.run(
        *install, "--fetch-retries=0", "--registry=https://evil.example/", "other"
    )
    assert denied.exit_code == 1
    assert b"403 Forbidden" in denied.stderr


async def test_apt(tmp_path: Path) -> None:
    """Over plain HTTP, as Debian's own mirrors are; a flat repository without packages."""
    (tmp_path / "Packages").write_text("")
    origin = Origin(handler=serving(tmp_path))
    world = World({HOST: [PUBLIC]}, {(PUBLIC, 80): origin.port})
    async with sk.Sandbox.create(
        "docker",
        network=sk.NetworkPolicy.allow([HOST]),
        gateway=sk.Gateway(resolve=world.resolve, dial=world.dial),
    ) as sandbox:
        script = """
            mkdir -p state/lists/partial cache/archives/partial
            echo "deb [trusted=yes] http://$1/ ./" > list
            apt-get update -o Dir::Etc::sourcelist=/work/list -o Dir::Etc::sourceparts=- \
                -o Dir::State=/work/state -o Dir::Cache=/work/cache -o Acquire::Retries=0 \
                --error-on=any
        """
        update = ["sh", "-ec", script, "sh"]
        done = await sandbox.exec([*update, HOST], timeout_s=60)
        assert f"http://{HOST}" in done.check().text
        denied = await sandbox.exec([*update, "evil.example"], timeout_s=60)
        assert denied.exit_code == 100
        assert b"Forbidden by the network policy: evil.example is not" in denied.stderr
    origin.close()
