"""Long-running: an agent that has a machine for as long as it is wanted, and serves what it makes.

    python long_running_site_builder.py                     # makes a site; then changes it
    python long_running_site_builder.py "Add a picture"     # what you like
    python long_running_site_builder.py --end

The machine and the agent outlive the program, for an hour after its last run: the next run finds
them by their name, with the conversation, the files and the server that is running there.

With ANTHROPIC_API_KEY in the environment it talks to Claude; without, to a scripted model.
"""

import asyncio
import sys
import urllib.request

import sandboxkit as sk
import scripted

NAME = "site-builder"
PORT = 8000
MAKE = (
    "Make a site of one page about bees: site/index.html. Serve the directory site on port "
    f"{PORT} by `setsid nohup python3 -m http.server`, so that it goes on when you are done, and "
    "check that it answers."
)
CHANGE = "Find a better headline for the page, and see that it is still served."


def session() -> sk.Session:
    return sk.Session("docker", name=NAME, keep_s=3600.0, budget=sk.Budget(usd=2.0))


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as page:  # noqa: S310 - of our own tunnel
        body: bytes = page.read()
    return body.decode()


async def main() -> None:
    if sys.argv[1:] == ["--end"]:
        await session().destroy()
        return
    async with session() as builder:
        sandbox = builder.sandbox
        is_made = await sandbox.files.exists("site/index.html")
        print("found" if is_made else "made", sandbox.id)
        wish = sys.argv[1] if len(sys.argv) > 1 else CHANGE if is_made else MAKE
        print((await builder.run(wish)).text)
        # A tunnel, which needs no network; for a public URL there is `ports.expose`.
        async with sandbox.ports.forward(PORT) as address:
            print(address.url())
            print(await asyncio.to_thread(fetch, address.url()))


if __name__ == "__main__":
    asyncio.run(scripted.play(main, scripted.SITE))
