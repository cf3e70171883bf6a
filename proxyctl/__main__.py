"""`python -m proxyctl`."""

from proxyctl.main import run

run()
