"""What plays Claude in the examples of the patterns where there is no ANTHROPIC_API_KEY.

The model's words are written here. All else is real: Claude Code takes them for a model's, calls
its tools in the sandbox, and sends back what came of them. Your program needs nothing of this.
"""

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence

from sandboxkit.testing import ModelRequest, ScriptedModel, call, say
from sandboxkit.testing.scripted_model.steps import Step

Line = Step | Callable[[ModelRequest], Step]
Scenes = Mapping[str, Sequence[Line]]
"""For the words by which a prompt is known: the answers to it, one for each time asked."""


async def play(program: Callable[[], Awaitable[None]], scenes: Scenes) -> None:
    """Run the program with Claude; or, where there is no key, with these scenes."""
    if os.environ.get("ANTHROPIC_API_KEY"):
        await program()
        return

    def answer(request: ModelRequest) -> Step:
        prompt, answers = _asked(request)
        scene = next(scene for words, scene in scenes.items() if words in prompt)
        line = scene[answers]
        return line(request) if callable(line) else line

    async with ScriptedModel(answer) as model:
        os.environ["ANTHROPIC_BASE_URL"] = model.url
        await program()


def _asked(request: ModelRequest) -> tuple[str, int]:
    """The last prompt, and how often the model has answered since."""
    prompt, answers = "", 0
    for end, message in enumerate(request.messages, 1):
        so_far = request.model_copy(update={"messages": request.messages[:end]})
        if message.role == "assistant":
            answers += 1
        elif so_far.last_text:
            prompt, answers = so_far.last_text, 0
    return prompt, answers


def _result(request: ModelRequest) -> str:
    """What the tool that was called last has given back."""
    return request.tool_results[-1].text


# ephemeral_bug_fix.py

BUG_FIX: Scenes = {
    "fail": [
        [say("I will look at the code."), call("Read", file_path="/work/prices.py")],
        [
            say("The discount is divided by 10 instead of 100."),
            call(
                "Edit",
                file_path="/work/prices.py",
                old_string="discount_percent / 10)",
                new_string="discount_percent / 100)",
            ),
        ],
        [say("Now the tests again."), call("Bash", command="python3 -m unittest 2>&1")],
        lambda request: say(
            "I fixed `total` in prices.py: it divided the discount by 10. The tests say: "
            + _result(request).strip().splitlines()[-1]
        ),
    ]
}

# long_running_site_builder.py

_PAGE = """\
<!doctype html>
<title>Bees</title>
<h1>Bees</h1>
<p>A bee visits some two million flowers for one glass of honey.</p>
"""
_ASK = "curl -s --retry 30 --retry-delay 1 --retry-connrefused http://127.0.0.1:8000/ | grep h1"
_SERVE = (
    "curl -s http://127.0.0.1:8000/ >/dev/null || "
    "setsid nohup python3 -m http.server 8000 --directory site >server.log 2>&1 & " + _ASK
)

SITE: Scenes = {
    "Make a site of one page": [
        [say("I write the page."), call("Write", file_path="/work/site/index.html", content=_PAGE)],
        [say("Now I serve it."), call("Bash", command=_SERVE)],
        lambda request: say(f"The site is up on port 8000; it answers {_result(request).strip()}"),
    ],
    "better headline": [
        call("Read", file_path="/work/site/index.html"),
        [
            say("I made this page before; I change its headline."),
            call(
                "Edit",
                file_path="/work/site/index.html",
                old_string="<h1>Bees</h1>",
                new_string="<h1>The life of bees</h1>",
            ),
        ],
        [say("Is it still served?"), call("Bash", command=_SERVE)],
        lambda request: say(f"Yes: {_result(request).splitlines()[0]}"),
    ],
}

# hybrid_research.py

_NOTES = """\
# What the letters say of the bridge

- 1871, Anna: it is of stone, and old.
- 1874, Jakob: it is of oak, "as it always was".

Open: one of them seems to be wrong.
"""
_CONCLUSION = """\
cat >> notes.md <<'END'

# Conclusion

Both are right. The piers are of stone; the flood of 1872 took the deck, and the new one is of oak.
END
tail -n 1 notes.md"""


def _remembered(request: ModelRequest) -> Step:
    """The second day begins with what was said on the first, or not at all."""
    said = [block.text for message in request.messages for block in message.content]
    assert any("contradict each other; that is open" in text for text in said)
    return [
        say("I left it open whether Anna or Jakob is wrong; the mayor's letter decides it."),
        call("Bash", command=_CONCLUSION),
    ]


RESEARCH: Scenes = {
    "Read the letters": [
        call("Bash", command="head -n 20 letters/*"),
        [
            say("They contradict each other."),
            call("Write", file_path="/work/notes.md", content=_NOTES),
        ],
        say("The notes are in notes.md. Anna and Jakob contradict each other; that is open."),
    ],
    "left open yesterday": [
        _remembered,
        say("Both are right: Anna saw the piers, Jakob the deck. It is in notes.md."),
    ],
}

# single_container_game.py


def _guess(request: ModelRequest) -> Step:
    """The middle of what the answers so far leave over."""
    low, high = 1, 100
    for line in _result(request).splitlines():
        match line.split():
            case [number, "higher"]:
                low = int(number) + 1
            case [number, "lower"]:
                high = int(number) - 1
            case _:
                pass
    return call("Bash", command=f"echo {(low + high) // 2} | tee -a /shared/table/guesses.txt")


def _answer(request: ModelRequest) -> Step:
    """The truth."""
    secret, guess = (int(line) for line in _result(request).split())
    word = "right" if guess == secret else "higher" if guess < secret else "lower"
    return call("Bash", command=f"echo {guess} {word} | tee -a /shared/table/answers.txt")


GAME: Scenes = {
    "think of a number": [
        call("Bash", command="echo 62 > secret.txt"),
        say("I have a number."),
    ],
    "Append your next guess": [
        call("Bash", command="cat /shared/table/answers.txt 2>/dev/null || echo none"),
        _guess,
        lambda request: say(f"I guess {_result(request).strip()}."),
    ],
    "Look at the last line": [
        call("Bash", command="cat secret.txt; tail -n 1 /shared/table/guesses.txt"),
        _answer,
        lambda request: say(f"It is {_result(request).split()[-1]}."),
    ],
}
