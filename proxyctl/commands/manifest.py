"""`proxyctl apply`, `diff`, `export`."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proxyctl.command import register
from proxyctl.context import Cli
from proxyctl.errors import CliError, ExitCode, UsageError
from proxyctl.output import clean, column

if TYPE_CHECKING:
    from proxyctl.keys_file import KeysFile
    from proxyctl.manifest import Manifest, Step

COLUMNS = [column(title) for title in ("result", "created", "updated", "deleted", "unchanged")]
_SIGNS = {"create": "+", "update": "~", "delete": "-"}
_LONG = 10  # steps from which on a bar is worth it

Files = Annotated[str, typer.Option("--file", "-f", help="A manifest, a folder of manifests, or - for stdin.")]
Prune = Annotated[bool, typer.Option("--prune", help="Also delete what the manifest's lists do not name.")]
Reset = Annotated[
    bool, typer.Option("--reset-bedrock-keys", help="Set Bedrock keys again: their secrets cannot be compared.")
]


def register_commands(app: typer.Typer) -> None:
    register(app, "apply")(apply_manifest)
    register(app, "diff")(diff_manifest)
    register(app, "export")(export_manifest)


def apply_manifest(
    cli: Cli,
    file: Files,
    prune: Prune = False,
    reset_bedrock_keys: Reset = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="With --dry-run: exit 8 when there is something to do.")
    ] = False,
    keys_out: Annotated[str | None, typer.Option("--keys-out", help="New file (0600) for keys that are made.")] = None,
    allow_print_secrets: Annotated[
        bool, typer.Option("--allow-print-secrets", help="Print keys that are made to standard output.")
    ] = False,
) -> None:
    """Make the daemon what a manifest says. What it does not name stays.

    Safe to run again. See: proxyctl help manifest

    Example: proxyctl apply -f manifest.yaml --yes --keys-out keys.json
    """
    from proxyctl.manifest import diff, pending
    from proxyctl.manifest_state import read_state

    desired = _read(cli, file)
    state = read_state(cli.client, desired)
    plan = diff(desired, state.manifest, prune=prune, reset_bedrock_keys=reset_bedrock_keys)
    steps = pending(plan)
    _tell_plan(cli, steps)
    unchanged = len(plan) - len(steps)
    if not steps or cli.dry_run:
        word = "planned" if steps else "unchanged"
        _report(cli, word, steps, unchanged)
        _tell_counts(cli, steps, unchanged, "To do: " if steps else "")
    else:
        _apply(cli, steps, unchanged, state, keys_out, allow_print_secrets=allow_print_secrets)
    if steps and exit_code and cli.dry_run:
        raise typer.Exit(ExitCode.DIFFERENT)


def diff_manifest(cli: Cli, file: Files, prune: Prune = False) -> None:
    """What apply would do. Exit 0 when there is nothing to do, 8 when there is.

    Example: proxyctl diff -f manifest.yaml
    """
    from proxyctl.manifest import diff, pending
    from proxyctl.manifest_state import read_state

    desired = _read(cli, file)
    plan = diff(desired, read_state(cli.client, desired).manifest, prune=prune)
    steps = pending(plan)
    if cli.printer.form in (None, "table") and not cli.options.query:
        sys.stdout.writelines(line + "\n" for line in _lines(steps))
    _report(cli, "different" if steps else "unchanged", steps, len(plan) - len(steps))
    _tell_counts(cli, steps, len(plan) - len(steps), "To do: " if steps else "")
    if steps:
        raise typer.Exit(ExitCode.DIFFERENT)


def export_manifest(cli: Cli) -> None:
    """The daemon's state as a manifest, without secrets. YAML, or JSON with -o json.

    Example: proxyctl export > manifest.yaml
    """
    from proxyctl.manifest_state import document, read_state

    found = document(read_state(cli.client).manifest)
    if cli.printer.form in (None, "table", "yaml") and not cli.options.query:
        import yaml

        sys.stdout.write(yaml.safe_dump(found, sort_keys=False, allow_unicode=True))
    else:
        cli.printer.item(found, [column("version")], name="version")


def _read(cli: Cli, file: str) -> "Manifest":
    from proxyctl.manifest_files import texts
    from proxyctl.manifest_form import parsed
    from proxyctl.manifest_text import read

    if file == "-" == cli.options.token_file:
        raise UsageError("--file and --token-file cannot both read standard input")
    return parsed([read(name, text) for name, text in texts(file)])


def _apply(
    cli: Cli, steps: "tuple[Step, ...]", unchanged: int, state: Any, keys_out: str | None, *, allow_print_secrets: bool
) -> None:
    """Check everything that can be checked, ask, and do the steps; what is done is told, also after a failure."""
    from proxyctl.manifest_steps import found_secrets, perform

    makes_keys = any(step.kind == "access key" and step.action == "create" for step in steps)
    if makes_keys and keys_out is None and not allow_print_secrets:
        raise UsageError(
            "nothing was changed: this makes access keys, which are shown once and have to go somewhere",
            hint="--keys-out FILE, or --allow-print-secrets",
        )
    secrets = found_secrets(steps)
    deletions = sum(step.action == "delete" for step in steps)
    question = f"This makes {len(steps)} changes at {cli.server}" + (
        f", {deletions} of them deletions" * (deletions > 0)
    )
    cli.confirm(question, name=f"delete {deletions}" if deletions else "apply")
    keys = _keys_file(keys_out) if makes_keys and keys_out is not None else None
    shown: dict[str, str] = {}
    done: list[Step] = []
    try:
        with _progress(len(steps)) as advance:
            for step in steps:
                secret = perform(cli.client, step, state, secrets)
                done.append(step)
                if secret is not None and keys is not None:
                    keys.add(step.name, secret)
                elif secret is not None:
                    shown[step.name] = secret
                advance()
    except BaseException as error:
        if isinstance(error, CliError):
            failed = steps[len(done)]
            error.message = f"{failed.kind} {failed.name}: {error.message}"
        _tell_done(cli, done, steps)
        _report(cli, "failed", done, unchanged, shown=shown, keys=keys)
        raise
    finally:
        if keys is not None:
            keys.forget_if_empty()
    _report(cli, "applied", done, unchanged, shown=shown, keys=keys)
    _tell_counts(cli, done, unchanged, "")
    if keys is not None:
        cli.tell(f"The new keys are in {keys.path}.")


def _keys_file(path: str) -> "KeysFile":
    from proxyctl.keys_file import KeysFile

    return KeysFile(path)


def _tell_done(cli: Cli, done: "list[Step]", steps: "tuple[Step, ...]") -> None:
    told = f"Stopped after {len(done)} of {len(steps)} changes."
    sys.stderr.write(f"{told} Once the cause is gone, it is safe to run it again.\n")
    if done:
        cli.tell("Done until then:")
        for line in _lines(done):
            cli.tell(f"  {line}")


def _report(
    cli: Cli,
    result: str,
    steps: "tuple[Step, ...] | list[Step]",
    unchanged: int,
    *,
    shown: dict[str, str] | None = None,
    keys: "KeysFile | None" = None,
) -> None:
    """The outcome for programs, and keys that may be printed."""
    from proxyctl.manifest import counts

    if not (cli.printer.form or cli.options.query) or cli.printer.form == "table":
        for name, secret in (shown or {}).items():
            sys.stdout.write(f"{name}\t{secret}\n")
        return
    changed = [{k: v for k, v in asdict(step).items() if k != "wanted"} for step in steps]
    number = counts(steps) | {"unchanged": unchanged}
    document = {"result": result, **number, "changes": changed, "keys_file": keys.path if keys else None}
    cli.printer.item(document | ({"keys": shown} if shown else {}), COLUMNS, name="result")


def _tell_plan(cli: Cli, steps: "tuple[Step, ...]") -> None:
    for line in _lines(steps):
        cli.tell(line)


def _tell_counts(cli: Cli, steps: "tuple[Step, ...] | list[Step]", unchanged: int, prefix: str) -> None:
    from proxyctl.manifest import counts

    number = counts(steps) | {"unchanged": unchanged}
    cli.tell(
        prefix + ", ".join(f"{count} {word}" for word, count in number.items() if count or word != "deleted") + "."
    )


def _lines(steps: "tuple[Step, ...] | list[Step]") -> list[str]:
    return [_line(step) for step in steps]


def _line(step: "Step") -> str:
    parts = []
    for change in step.changes:
        before = "" if step.action == "create" else f"{_shown(change.before)} -> "
        if step.action != "create" or change.after is not None:
            parts.append(f"{change.field} {before}{_shown(change.after)}")
    said = f": {', '.join(parts)}" if parts else ""
    return f"{_SIGNS[step.action]} {step.kind} {clean(step.name)}{said}"


def _shown(value: object) -> str:
    return "none" if value is None else clean(value)


@contextmanager
def _progress(total: int) -> "Iterator[Callable[[], None]]":
    """A bar for a long plan, where somebody looks on."""
    if total < _LONG or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("applying", total=total)
        yield lambda: progress.advance(task)
