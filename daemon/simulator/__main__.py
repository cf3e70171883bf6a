"""`python -m daemon.simulator --port N --log FILE --provider NAME`: a simulated provider as a process."""

import argparse
from pathlib import Path

from daemon.simulator.server import PROVIDERS, run

parser = argparse.ArgumentParser(
    prog="python -m daemon.simulator", description="A simulated Anthropic API or Amazon Bedrock on loopback."
)
parser.add_argument("--port", type=int, required=True)
parser.add_argument("--log", type=Path, default=None, help="append what was served to this file, one JSON a line")
parser.add_argument("--provider", choices=sorted(PROVIDERS), default="anthropic")
arguments = parser.parse_args()
run(arguments.port, arguments.log, arguments.provider)
