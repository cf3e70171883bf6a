"""`proxyctl bedrock-keys`."""

import os
import re
from typing import Annotated, Any

import typer

from proxyctl.arguments import KeyArgument
from proxyctl.command import new_group, register
from proxyctl.commands.users import IfMissing
from proxyctl.context import Cli
from proxyctl.errors import CliError, NotFoundError, UsageError
from proxyctl.output import column, dollars

group = new_group("The AWS credentials that access keys go to Bedrock with.")

COLUMNS = [
    column("auth"),
    column("region"),
    column("route"),
    column("profile"),
    column("fingerprint"),
    column("key id ends in", "key_id_hint"),
    column("role", "role_arn"),
    column("expires", "expires_at"),
    column("sealed by"),
    column("created", "created_at"),
]
TEST_COLUMNS = [
    column("ok"),
    column("model"),
    column("bedrock model"),
    column("route"),
    column("status"),
    column("message"),
    ("cost", lambda row: dollars(row["cost_nano_usd"])),
    column("duration ms"),
    column("request id"),
]
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_IS_NO_SECRET = re.compile(r"[A-Z]+(_[A-Z0-9]+)+")


@register(group, "set")
def set_bedrock_key(
    cli: Cli,
    key: KeyArgument,
    from_file: Annotated[str | None, typer.Option("--from-file", help="Read the secret from a file, or -.")] = None,
    from_env: Annotated[str | None, typer.Option("--from-env", help="Name of the variable with the secret.")] = None,
    iam: Annotated[bool, typer.Option("--iam", help="The secret is that of an IAM access key.")] = False,
    access_key_id: Annotated[str | None, typer.Option("--access-key-id", help="With --iam: AKIA… or ASIA….")] = None,
    session_token_from_env: Annotated[
        str | None, typer.Option("--session-token-from-env", help="With --iam: name of the variable with the token.")
    ] = None,
    assume_role: Annotated[str | None, typer.Option("--assume-role", help="ARN of a role for the daemon.")] = None,
    external_id_from_env: Annotated[
        str | None, typer.Option("--external-id-from-env", help="With --assume-role: name of the variable with it.")
    ] = None,
    ambient: Annotated[bool, typer.Option("--ambient", help="Use the daemon's own AWS credentials.")] = False,
    region: Annotated[str | None, typer.Option("--region", help="AWS region, such as us-east-1.")] = None,
    route: Annotated[str | None, typer.Option("--route", help="auto, messages or invoke.")] = None,
    profile_prefix: Annotated[
        str | None, typer.Option("--profile-prefix", help="global, us, eu, jp, au, us-gov, apac or none.")
    ] = None,
) -> None:
    """Register a Bedrock key in place of the one before. The secret is asked for, or read; it is never an option.

    Example: proxyctl bedrock-keys set alice/laptop --from-env AWS_BEARER_TOKEN_BEDROCK --region us-east-1

    Example: proxyctl bedrock-keys set ci/runner --iam --access-key-id AKIA… --from-env AWS_SECRET_ACCESS_KEY

    Example: proxyctl bedrock-keys set alice/laptop --assume-role arn:aws:iam::123456789012:role/bedrock
    """
    from proxyctl.resolve import find_key

    kinds = {"iam": iam, "assume_role": assume_role is not None, "ambient": ambient}
    chosen = [name for name, given in kinds.items() if given] or ["api_key"]
    if len(chosen) > 1:
        raise UsageError("--iam, --assume-role and --ambient exclude each other")
    auth = chosen[0]
    only = {
        "--access-key-id": (access_key_id, "iam"),
        "--session-token-from-env": (session_token_from_env, "iam"),
        "--external-id-from-env": (external_id_from_env, "assume_role"),
    }
    _check_options(auth, only, from_file or from_env)
    found = find_key(cli.client, key)
    body: dict[str, Any] = {"auth": auth, "region": region, "route": route, "profile": profile_prefix}
    body["role_arn"] = assume_role
    body["aws_access_key_id"] = access_key_id
    body["aws_session_token"] = variable("--session-token-from-env", session_token_from_env)
    body["external_id"] = variable("--external-id-from-env", external_id_from_env)
    if auth == "api_key":
        body["api_key"] = _secret(cli, "Bedrock API key: ", from_file, from_env)
    elif auth == "iam":
        body["aws_secret_access_key"] = _secret(cli, f"Secret of {access_key_id}: ", from_file, from_env)
    given = {name: value for name, value in body.items() if value is not None}
    answer = cli.client.post(f"/admin/access-keys/{found['id']}/bedrock-key", given)
    cli.tell(f"Bedrock key of {_label(found)}: {auth} in {answer['region']}, fingerprint {answer['fingerprint']}.")
    if cli.quiet:
        typer.echo(answer["id"])
    elif cli.printer.form or cli.options.query:
        cli.printer.item(answer, COLUMNS)


@register(group, "status")
def show_bedrock_key(cli: Cli, key: KeyArgument) -> None:
    """The Bedrock key of an access key, without its secret.

    Example: proxyctl bedrock-keys status alice/laptop
    """
    from proxyctl.resolve import find_key

    found = find_key(cli.client, key)
    cli.printer.item(cli.client.get(f"/admin/access-keys/{found['id']}/bedrock-key"), COLUMNS)


@register(group, "test")
def test_bedrock_key(cli: Cli, key: KeyArgument) -> None:
    """Send one small request to Bedrock with the key; it costs a little. Exit 1 when it does not work.

    Example: proxyctl bedrock-keys test alice/laptop
    """
    from proxyctl.resolve import find_key

    found = find_key(cli.client, key)
    result = cli.client.post(f"/admin/access-keys/{found['id']}/bedrock-key/test", {})
    cli.printer.item(result, TEST_COLUMNS, name="request_id")
    if not result["ok"]:
        raise CliError(
            f"the Bedrock key of {_label(found)} does not work: {result['message'] or result['status']}",
            request_id=result["request_id"],
        )


@register(group, "remove")
def remove_bedrock_key(
    cli: Cli,
    key: KeyArgument,
    if_missing: Annotated[IfMissing, typer.Option("--if-missing", help="When there is no such key.")] = IfMissing.FAIL,
) -> None:
    """Take the Bedrock key of an access key away. What was stored of it is erased.

    Example: proxyctl bedrock-keys remove alice/laptop --yes
    """
    from proxyctl.resolve import find_key

    try:
        found = find_key(cli.client, key)
        cli.client.get(f"/admin/access-keys/{found['id']}/bedrock-key")
    except NotFoundError:
        if if_missing is IfMissing.SKIP:
            cli.tell(f"No Bedrock key of {key!r}, nothing to do.")
            return
        raise
    cli.confirm(f"This removes the Bedrock key of {_label(found)}", name=found["name"])
    cli.client.delete(f"/admin/access-keys/{found['id']}/bedrock-key")
    cli.tell(f"Removed the Bedrock key of {_label(found)}.")


def _check_options(auth: str, only: dict[str, tuple[str | None, str]], secret: str | None) -> None:
    for option, (value, belongs_to) in only.items():
        if value is not None and auth != belongs_to:
            raise UsageError(f"{option} goes with --{belongs_to.replace('_', '-')} only")
    if auth == "iam" and only["--access-key-id"][0] is None:
        raise UsageError("--iam needs --access-key-id", hint="--iam --access-key-id AKIA… --from-env NAME")
    if auth in ("assume_role", "ambient") and secret is not None:
        raise UsageError(f"--{auth.replace('_', '-')} takes no secret")


def _secret(cli: Cli, prompt: str, from_file: str | None, from_env: str | None) -> str:
    """The secret from the one place that was named, or from a person."""
    if from_file is not None and from_env is not None:
        raise UsageError("--from-file and --from-env exclude each other")
    if from_file == "-" == cli.options.token_file:
        raise UsageError("--from-file and --token-file cannot both read standard input")
    if from_env is not None:
        return variable("--from-env", from_env) or ""
    if from_file is not None:
        from proxyctl.credentials import read_secret_file

        try:
            return as_ascii(read_secret_file(from_file), "--from-file")
        except UnicodeError:
            raise UsageError("--from-file: what was read is not the text of a key") from None
    if not cli.interactive:
        raise UsageError("no secret: nobody can be asked", hint="--from-env NAME, or --from-file PATH, or - for stdin")
    import getpass

    return as_ascii(getpass.getpass(prompt), "the secret")


def variable(option: str, name: str | None) -> str | None:
    """The value of a variable. A name that may be a secret that somebody put there is not quoted."""
    if name is None:
        return None
    if not _NAME.fullmatch(name):
        raise UsageError(f"{option}: expected the name of an environment variable")
    value = os.environ.get(name)
    if not value:
        shown = f" {name}" if _IS_NO_SECRET.fullmatch(name) else ""
        raise UsageError(f"{option}: there is no such environment variable{shown}, or it is empty")
    return as_ascii(value.removesuffix("\n"), option)


def as_ascii(secret: str, source: str) -> str:
    if not secret.isascii():
        raise UsageError(f"{source}: what was read is not the text of a key")
    return secret


def _label(key: dict[str, Any]) -> str:
    return f"{key['user_name']}/{key['name']}"
