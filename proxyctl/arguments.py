"""Arguments that many commands take, with what a shell offers for them."""

from typing import Annotated

import typer

from proxyctl import complete

UserArgument = Annotated[
    str, typer.Argument(help="Name, id, or the beginning of an id.", autocompletion=complete.users)
]
KeyArgument = Annotated[
    str,
    typer.Argument(help="USER/NAME, id, key prefix, or a name only one key has.", autocompletion=complete.keys),
]
