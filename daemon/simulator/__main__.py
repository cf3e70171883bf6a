"""`python -m daemon.simulator --port N --log FILE`: the simulated provider as a process."""

import argparse
from pathlib import Path

from daemon.simulator.server import run

parser = argparse.ArgumentParser(
    prog="python -m daemon.simulator", description="A simulated Anthropic API on loopback."
)
parser.add_argument("--port", type=int, required=True)
parser.add_argument("--log", type=Path, default=None, help="append what was served to this file, one JSON a line")
arguments = parser.parse_args()
run(arguments.port, arguments.log)
