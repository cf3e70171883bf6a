"""The README's table of settings, made from the settings themselves: `python -m tests.packaging.settings_table`."""

from daemon.settings import Settings, variable_of

BEGIN, END = "<!-- settings -->\n", "<!-- end of settings -->\n"


def table() -> str:
    """The table in Markdown."""
    rows = ["| variable | default | what |\n|---|---|---|\n"]
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None or field.default == "" else f"`{field.default}`"
        rows.append(f"| `{variable_of(name)}` | {default} | {field.description} |\n")
    return "".join(rows)


if __name__ == "__main__":
    print(table(), end="")
