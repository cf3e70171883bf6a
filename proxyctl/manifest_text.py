"""Manifests as text: YAML and JSON into plain values, with the line of each, and no key twice. Pure."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from proxyctl.errors import UsageError

_MAP, _SEQUENCE, _FLOAT, _MERGE = (f"tag:yaml.org,2002:{name}" for name in ("map", "seq", "float", "merge"))


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and where: a file, a line where one is known, and the path of the field."""

    file: str
    line: int | None
    path: str
    message: str

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{where}: {self.path}: {self.message}" if self.path else f"{where}: {self.message}"


class ManifestError(UsageError):
    """A manifest that cannot be used, with all that is wrong with it."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        lines = [str(problem) for problem in problems]
        text = lines[0] if len(lines) == 1 else "\n  ".join([f"the manifest has {len(lines)} problems:", *lines])
        super().__init__(text, hint="proxyctl help manifest")


@dataclass(slots=True)
class Source:
    """One file: its values, the line of each path, and what was wrong with it."""

    file: str
    value: Any = None
    lines: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def problem(self, path: str, message: str) -> None:
        self.problems.append(Problem(self.file, self._line(path), path, message))

    def _line(self, path: str) -> int | None:
        """The line of a path, or of the nearest one around it."""
        while path and path not in self.lines:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.lines.get(path)


def read(file: str, text: str) -> Source:
    """The values of a file. Syntax that cannot be read is a problem, not an exception."""
    source = Source(file)
    try:
        if text.lstrip().startswith("{") and _read_json(source, text):
            return source
        _read_yaml(source, text)
    except RecursionError:
        source.problem("", "nested too deeply")
    return source


def joined(path: str, name: object) -> str:
    """The path of a field, or of an item of a list."""
    if isinstance(name, int):
        return f"{path}[{name}]"
    return f"{path}.{name}" if path else str(name)


def _read_json(source: Source, text: str) -> bool:
    """Whether it was JSON."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                source.problem("", f"the key {name!r} is there twice")
            found[name] = value
        return found

    try:
        source.value = json.loads(text, object_pairs_hook=unique, parse_float=Decimal)
    except ValueError:
        source.problems.clear()
        return False
    return True


class _Loader(yaml.SafeLoader):
    """YAML without timestamps: a date stays the text it was written as."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _read_yaml(source: Source, text: str) -> None:
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is not None:
                source.value = _value(source, loader, node, "", ())
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        source.problems.append(Problem(source.file, line, "", f"not YAML: {error.problem or error.context}"))
    except yaml.YAMLError:
        source.problem("", "not YAML: it holds characters that YAML does not allow")


def _value(source: Source, loader: _Loader, node: yaml.Node, path: str, around: tuple[yaml.Node, ...]) -> Any:
    source.lines.setdefault(path, node.start_mark.line + 1)
    if node in around:
        source.problem(path, "refers to itself")
        return None
    if isinstance(node, yaml.MappingNode) and node.tag == _MAP:
        return _mapping(source, loader, node, path, (*around, node))
    if isinstance(node, yaml.SequenceNode) and node.tag == _SEQUENCE:
        return [
            _value(source, loader, item, joined(path, number), (*around, node))
            for number, item in enumerate(node.value)
        ]
    if isinstance(node, yaml.ScalarNode):
        return _scalar(source, loader, node, path)
    source.problem(path, "has a tag that is not known")
    return None


def _mapping(
    source: Source, loader: _Loader, node: yaml.MappingNode, path: str, around: tuple[yaml.Node, ...]
) -> dict[str, Any]:
    seen: set[str] = set()
    for name, _ in node.value:
        text = name.value if isinstance(name, yaml.ScalarNode) else ""
        if text in seen and name.tag != _MERGE:
            source.lines[joined(path, text)] = name.start_mark.line + 1
            source.problem(joined(path, text), "is there twice")
        seen.add(text)
    loader.flatten_mapping(node)
    found: dict[str, Any] = {}
    for name, value in node.value:
        if not isinstance(name, yaml.ScalarNode):
            source.problem(path, "expected a name, not a list or a group, before the colon")
            continue
        source.lines.setdefault(joined(path, name.value), name.start_mark.line + 1)
        found[name.value] = _value(source, loader, value, joined(path, name.value), around)
    return found


def _scalar(source: Source, loader: _Loader, node: yaml.ScalarNode, path: str) -> Any:
    if node.tag == _FLOAT:  # as it was written: 10.10 is money
        try:
            return Decimal(node.value.replace("_", ""))
        except InvalidOperation:
            return node.value
    try:
        return loader.construct_object(node)
    except (ConstructorError, ValueError):
        source.problem(path, "has a tag that is not known")
        return None
