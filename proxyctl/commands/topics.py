"""`proxyctl help TOPIC`: what no single command can say."""

from typing import Annotated

import typer

from proxyctl.command import register
from proxyctl.context import Cli
from proxyctl.errors import UsageError

TOPICS = {
    "environment": """\
PROXY_SERVER       URL of the daemon (default http://127.0.0.1:8000)
PROXY_ADMIN_TOKEN  the admin token; --token-file comes before it, the keyring after it
PROXY_OUTPUT       table, json, yaml, csv or name
PROXY_TIMEOUT      seconds to wait for the daemon (default 30)
PROXY_NO_INPUT     never prompt; CI implies it
PROXY_CA_BUNDLE    certificates to trust
PROXY_ALLOW_HTTP   allow plain HTTP to other machines
PROXY_DEBUG        show tracebacks
A flag comes before a variable. The daemon's own variables are in the README.""",
    "exit-codes": """\
0    done, also with no results
1    failed: the daemon or a provider
2    usage: what was typed cannot be done
3    not found
4    not signed in, or not allowed
5    conflict: it exists, or was changed meanwhile
6    the daemon cannot be reached; safe to try again
7    the daemon refused a value
8    different, or work is pending (db check, pricing diff)
130  interrupted""",
    "output": """\
On a terminal a table; piped, tab-separated rows without a header.
-o json and -o yaml are the API's own shape, money is strings and integers, times are UTC.
-o csv is for spreadsheets, -o name is one id a line. --query takes JMESPath:
  proxyctl users list --query 'items[].name'
Results go to standard output, everything else to standard error.""",
    "errors": """\
error: what happened, in one sentence
hint:  a command that can be pasted
With -o json it is one object on standard error:
  {"error": {"type", "message", "hint", "request_id", "exit_code"}}
Quote the request id when you ask for help: the daemon's log has the rest.""",
}


def register_commands(app: typer.Typer) -> None:
    @register(app, "help")
    def show_topic(cli: Cli, topic: Annotated[str, typer.Argument(help=", ".join(TOPICS))] = "") -> None:
        """Help on a topic: environment, exit-codes, output, errors."""
        if topic not in TOPICS:
            raise UsageError(f"no topic {topic!r}", hint=f"topics: {', '.join(TOPICS)}")
        typer.echo(TOPICS[topic])
