"""The answer when nobody scripted one."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from daemon.simulator.script import Step, ToolUse

_THOUGHT = "The prompt says which scenario to play."


def scenario(body: Mapping[str, Any]) -> Step:
    """A loop of tools when the prompt asks for one and the tools are there, else text; thoughts when they are enabled.

    `[[tool-loop]]` runs a command, reads a file (`[[file:PATH]]`) and says so; `[[parallel-tools]]` runs two commands
    in one answer. `[[commands:N]]` makes it N commands one after the other, and with `[[log:PATH]]` each command leaves
    a line in that file. How far a scenario is shows in the tool results that came back.
    """
    messages = body.get("messages")
    messages = [item for item in messages if isinstance(item, dict)] if isinstance(messages, list) else []
    text = json.dumps(messages)
    tools = {tool.get("name") for tool in body.get("tools") or [] if isinstance(tool, dict)}
    results = sum(1 for block in _blocks(messages) if block.get("type") == "tool_result")
    thinking = _thought(body.get("thinking"))
    if "[[tool-loop]]" in text and {"Bash", "Read"} <= tools:
        return _tool_loop(results, text, thinking)
    if "[[parallel-tools]]" in text and "Bash" in tools:
        return _parallel_tools(results, text, thinking)
    return Step(text=f"Simulated answer to {len(messages)} messages.", thinking=thinking)


def _tool_loop(results: int, text: str, thinking: str | None) -> Step:
    wanted = _named_in(text, "commands")
    commands = int(wanted) if wanted.isdecimal() else 1
    if results < commands:
        words = f"proxyctl-was-here{f'-{results + 1}' if commands > 1 else ''}"
        return Step(text="First a command.", thinking=thinking, tool_uses=(_command(words, text),))
    if results == commands:
        read = ToolUse("Read", {"file_path": _named_in(text, "file") or "/etc/hostname"})
        return Step(text="Now a file.", thinking=thinking, tool_uses=(read,))
    return Step(text="The tool loop is done.", thinking=thinking)


def _parallel_tools(results: int, text: str, thinking: str | None) -> Step:
    if results:
        return Step(text=f"Both tools are done: {results} results.", thinking=thinking)
    commands = tuple(_command(f"parallel-{name}", text) for name in ("one", "two"))
    return Step(text="Two commands at once.", thinking=thinking, tool_uses=commands)


def _command(words: str, text: str) -> ToolUse:
    """A command that says these words, and keeps them where the prompt names a log."""
    log = _named_in(text, "log")
    return ToolUse("Bash", {"command": f"echo {words}{f' | tee -a {log}' if log else ''}"})


def _thought(thinking: object) -> str | None:
    """What the model thinks: nothing unless asked to, and an empty text when the thoughts are not to be shown."""
    if not isinstance(thinking, dict) or thinking.get("type") not in ("enabled", "adaptive"):
        return None
    return "" if thinking.get("display") == "omitted" else _THOUGHT


def _blocks(messages: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            yield from (block for block in content if isinstance(block, dict))


def _named_in(text: str, name: str) -> str:
    """What is between `[[name:` and `]]` in the prompt, if that is there."""
    return text.partition(f"[[{name}:")[2].partition("]]")[0]
