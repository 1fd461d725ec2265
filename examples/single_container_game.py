"""Single container: two agents play a game in one sandbox, each a Unix user of its own.

One thinks of a number and keeps it in its work directory, which the other cannot enter; guesses
and answers go through a folder that both have named. Each has a budget of its own.

With ANTHROPIC_API_KEY in the environment they talk to Claude; without, to a scripted model.
"""

import asyncio

import sandboxkit as sk
import scripted
from sandboxkit.agents.claude_code import claude_code_artifact

TABLE = "/shared/table"
GUESSES = 7
RULES = (
    "You play a game against another agent, who shares this machine and the folder "
    f"{TABLE} with you, and nothing else. "
)
THINK = RULES + (
    "You are the keeper: think of a number from 1 to 100, and write it to secret.txt in your work "
    "directory, so that you can prove it. Tell nobody."
)
GUESS = RULES + (
    f"You are to guess the keeper's number, from 1 to 100. What the keeper said so far is in "
    f"{TABLE}/answers.txt, if there is anything yet. Append your next guess to "
    f"{TABLE}/guesses.txt: a line with the number alone."
)
ANSWER = RULES + (
    f"You are the keeper. Look at the last line of {TABLE}/guesses.txt, and append that number and "
    f"the true answer to {TABLE}/answers.txt: a line such as `50 higher` if yours is higher, "
    "`50 lower`, or `50 right`."
)


def player(machine: sk.Sandbox, name: str) -> sk.Session:
    budget = sk.Budget(usd=1.0, requests=100)
    return sk.Session(sandbox=machine, user=name, shared_folders=[TABLE], budget=budget)


async def play(keeper: sk.Session, guesser: sk.Session) -> str:
    """The winner."""
    await keeper.run(THINK)
    for _ in range(GUESSES):
        print("guesser:", (await guesser.run(GUESS)).text)
        print("keeper: ", (await keeper.run(ANSWER)).text)
        answers = await keeper.sandbox.files.read_text(f"{TABLE}/answers.txt")
        if answers.split()[-1] == "right":
            return "guesser"
    return "keeper"


async def main() -> None:
    tools = [await claude_code_artifact()]
    async with (
        sk.Sandbox.create("docker", memory_gib=2, artifacts=tools) as machine,
        player(machine, "keeper") as keeper,
        player(machine, "guesser") as guesser,
    ):
        print("The winner is the", await play(keeper, guesser))
        secret = f"{keeper.sandbox.workdir}/secret.txt"
        peek = await guesser.sandbox.exec(["cat", secret])
        print("Could the guesser have cheated?", peek.stderr.decode().strip())
        for name, session in (("keeper", keeper), ("guesser", guesser)):
            print(name, "asked the model", session.meter.total.requests, "times")


if __name__ == "__main__":
    asyncio.run(scripted.play(main, scripted.GAME))
