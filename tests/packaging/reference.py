"""proxyctl/REFERENCE.md, from the command tree: `python -m tests.packaging.reference > proxyctl/REFERENCE.md`."""

import inspect
from typing import Any

from proxyctl.commands.topics import TOPICS
from proxyctl.main import tree

HEAD = """\
# Reference of proxyctl

Generated from the commands; `proxyctl COMMAND --help` says the same. `proxyctl help TOPIC` is at the end. Singular nouns are
understood too (`proxyctl user list`).

## Global options

They stand before or after the command.
"""


def commands(command: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """All commands that are listed, with the words that call them."""
    if not hasattr(command, "commands"):
        return [(path, command)]
    found = []
    for name, child in command.commands.items():
        if not child.hidden:
            found += commands(child, (*path, name))
    return found


def reference() -> str:
    """The document."""
    root = tree()
    lines = [HEAD, *(_option(option) for option in root.params if option.name not in _OF_TYPER)]
    group = None
    for path, command in commands(root):
        if path[0] != group:
            group = path[0]
            lines.append(f"\n## {group}")
            if len(path) > 1:
                lines.append(f"\n{root.commands[group].help}")  # type: ignore[attr-defined]
        lines += _command(path, command)
    lines.append("\n# Topics")
    lines += [f"\n## help {name}\n\n```\n{text}\n```" for name, text in TOPICS.items()]
    return "\n".join(lines) + "\n"


_OF_TYPER = ("install_completion", "show_completion")


def _command(path: tuple[str, ...], command: Any) -> list[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    words = [f"[{a.name.upper()}]" if not a.required else a.name.upper() for a in arguments]
    usage = " ".join(["proxyctl", *path, *words, *(["[OPTIONS]"] if options else [])])
    text = inspect.cleandoc(command.help or "")
    said = [part for part in text.split("\n\n") if not part.startswith("Example: ")]
    examples = [part.removeprefix("Example: ") for part in text.split("\n\n") if part.startswith("Example: ")]
    heading = [f"\n### {' '.join(path)}"] if len(path) > 1 else []
    lines = [*heading, f"\n`{usage}`", *(f"\n{part}" for part in said)]
    rows = [f"- `{a.name.upper()}`: {a.help}" for a in arguments if a.help] + [_option(option) for option in options]
    if rows:
        lines += ["", *rows]
    if examples:
        lines += ["\n```console", *(f"$ {example}" for example in examples), "```"]
    return lines


def _option(option: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    return f"- {names}: {option.help}"


if __name__ == "__main__":
    print(reference(), end="")
