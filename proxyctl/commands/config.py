"""`proxyctl config`: profiles, and where each setting comes from."""

from typing import Annotated

import typer

from proxyctl import complete, profiles
from proxyctl.command import new_group, register
from proxyctl.context import Cli
from proxyctl.errors import NotFoundError, UsageError
from proxyctl.output import FORMATS, column

group = new_group("Profiles in config.toml, and where each setting comes from. Nothing secret is kept there.")

Key = Annotated[
    str, typer.Argument(help=f"{', '.join(profiles.BUILT_IN)}.", autocompletion=lambda: list(profiles.BUILT_IN))
]


@register(group, "list")
def list_settings(cli: Cli) -> None:
    """Each setting of this run, with its source."""
    found = {"profile": cli.profile} | {key: cli.setting(key) for key in profiles.BUILT_IN}
    items = [{"setting": key, "value": setting.value, "source": setting.source} for key, setting in found.items()]
    columns = [column("setting"), column("value"), column("source")]
    cli.printer.rows({"items": items, "next_cursor": None}, columns, name="setting")


@register(group, "get")
def get_setting(cli: Cli, key: Key) -> None:
    """The value that counts in this run."""
    setting = cli.setting(profiles.checked_key(key))
    if setting.value is None:
        raise NotFoundError(f"{key} is not set", hint=f"proxyctl config set {key} …")
    typer.echo(setting.value)


@register(group, "set", can_rehearse=False)
def set_setting(cli: Cli, key: Key, value: Annotated[str, typer.Argument(help="The new value.")]) -> None:
    """Set a setting of a profile. --profile names it, else it is the one in use; a new one is made.

    Example: proxyctl config set server https://gateway.example.com --profile work
    """
    name = _named(cli)
    path = profiles.save(profile=name, key=profiles.checked_key(key), value=_checked(key, value))
    cli.tell(f"Set {key} of profile {name} in {path}.")


@register(group, "unset", can_rehearse=False)
def unset_setting(cli: Cli, key: Key) -> None:
    """Take a setting out of a profile. The built-in value counts again."""
    name = _named(cli)
    if profiles.checked_key(key) not in cli.profiles.of(name):
        cli.tell(f"Profile {name} has no {key}, nothing to do.")
        return
    profiles.save(profile=name, key=key)
    cli.tell(f"Took {key} out of profile {name}.")


@register(group, "path")
def show_path(cli: Cli) -> None:
    """Where config.toml is; it need not exist."""
    typer.echo(profiles.config_path())


@register(group, "profiles")
def list_profiles(cli: Cli) -> None:
    """All profiles, and which one is in use."""
    items = [
        {"profile": name, "in_use": name == cli.profile.value, **settings}
        for name, settings in sorted({profiles.DEFAULT_PROFILE: {}, **cli.profiles.profiles}.items())
    ]
    columns = [column("profile"), column("in use"), column("server"), column("output")]
    cli.printer.rows({"items": items, "next_cursor": None}, columns, name="profile")


@register(group, "use", can_rehearse=False)
def use_profile(
    cli: Cli, name: Annotated[str, typer.Argument(help="Its name.", autocompletion=complete.profiles)]
) -> None:
    """Use a profile from now on. --profile and PROXY_PROFILE go over it."""
    if profiles.checked_name(name) not in cli.profiles.profiles and name != profiles.DEFAULT_PROFILE:
        known = ", ".join(cli.profiles.profiles) or "none"
        hint = f"proxyctl config set server URL --profile {name}"
        raise NotFoundError(f"there is no profile {name!r} (there are: {known})", hint=hint)
    profiles.save(use=name)
    cli.tell(f"Profile {name} is in use.")


def _named(cli: Cli) -> str:
    """The profile to write to: it may be new."""
    return profiles.checked_name(cli.options.profile) if cli.options.profile is not None else str(cli.profile.value)


def _checked(key: str, value: str) -> str:
    if key == "server":
        from proxyctl.client import checked_server

        return checked_server(value, allow_http=True)
    if key == "output" and value not in FORMATS:
        raise UsageError(f"output {value!r}: expected {', '.join(FORMATS)}")
    if key == "timeout" and not (value.replace(".", "", 1).isdecimal() and value.isascii() and float(value) > 0):
        raise UsageError(f"timeout {value!r}: expected seconds")
    return value
