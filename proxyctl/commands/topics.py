"""`proxyctl help TOPIC`: what no single command can say."""

from typing import Annotated

import typer

from proxyctl.command import register
from proxyctl.context import Cli
from proxyctl.errors import UsageError

TOPICS = {
    "environment": """\
PROXY_SERVER       URL of the daemon (default http://127.0.0.1:8000)
PROXY_PROFILE      section of config.toml (proxyctl config path)
PROXY_ADMIN_TOKEN  the admin token; --token-file comes before it, the keyring after it
PROXY_OUTPUT       table, json, yaml, csv or name
PROXY_TIMEOUT      seconds to wait for the daemon (default 30)
PROXY_NO_INPUT     never prompt; CI implies it
PROXY_CA_BUNDLE    certificates to trust; SSL_CERT_FILE too
PROXY_ALLOW_HTTP   allow plain HTTP to other machines
PROXY_DEBUG        show each call, and tracebacks
NO_COLOR           no colour
A flag comes before a variable, a variable before the profile: proxyctl config list shows each with its source.
The daemon's own variables are in the README.""",
    "exit-codes": """\
0    done, also with no results
1    failed: the daemon or a provider
2    usage: what was typed cannot be done
3    not found
4    not signed in, or not allowed
5    conflict: it exists, or was changed meanwhile
6    the daemon cannot be reached; safe to try again
7    the daemon refused a value
8    different, or work is pending (diff, apply --dry-run --exit-code, pricing diff, db check, version --daemon)
130  interrupted""",
    "output": """\
On a terminal a table; piped, tab-separated rows without a header.
-o json and -o yaml are the API's own shape, money is strings and integers, times are UTC.
-o csv is for spreadsheets, -o name is one id a line. --query takes JMESPath:
  proxyctl users list --query 'items[].name'
Results go to standard output, everything else to standard error.""",
    "manifest": """\
version: proxyctl/v1
users:
  - name: ci-runners                 # the natural key; what a manifest does not name stays as it is
    team: platform                   # an absent field stays, null clears it
    routing_strategy: bedrock_only
    monthly_budget_usd: "200.00"     # or budget: {usd: "50", period: weekly}; null: no limit
    access_keys:
      - name: runner
        expires_at: 2027-01-01T00:00:00Z
        limit_concurrent_requests: 8
        bedrock_key: {from_env: BEDROCK_API_KEY, region: us-east-1}
model_mappings:
  claude-sonnet-4-5: us.anthropic.claude-sonnet-4-5-20250929-v1:0

apply reads, compares, shows what it will do, asks (or takes --yes), and does it; it is safe to run again.
New keys are shown once: they go to --keys-out FILE (mode 0600), or with --allow-print-secrets to standard output.
--prune deletes what the lists do not name: users only when there is a list of them, keys only of users with one.
Secrets come from the environment (from_env) or a file (from_file, from the working directory). They cannot be compared:
a Bedrock key is set when it is missing or when auth, region, route, profile, role or the end of its key id differ;
--reset-bedrock-keys sets it again. bedrock_key: null takes it away.
diff exits 8 when there is something to do, so does apply --dry-run --exit-code.
export writes a manifest, without secrets.""",
    "errors": """\
error: what happened, in one sentence
hint:  a command that can be pasted
With -o json it is one object on standard error:
  {"error": {"type", "message", "hint", "request_id", "exit_code"}}
Quote the request id when you ask for help: the daemon's log has the rest.""",
}


def register_commands(app: typer.Typer) -> None:
    @register(app, "help")
    def show_topic(
        cli: Cli,
        topic: Annotated[str, typer.Argument(help=", ".join(TOPICS), autocompletion=lambda: list(TOPICS))] = "",
    ) -> None:
        """Help on a topic. Without one, which there are."""
        if not topic:
            cli.tell(f"topics: {', '.join(TOPICS)}      every command has --help, proxyctl --help lists them")
            return
        if topic not in TOPICS:
            raise UsageError(f"no topic {topic!r}", hint=f"topics: {', '.join(TOPICS)}")
        typer.echo(TOPICS[topic])
