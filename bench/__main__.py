"""`make bench`: the daemon beside nginx, on loopback, in interleaved rounds. Bounded, and it stops by itself."""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from pathlib import Path

from bench.load import Figures, closed_loop, open_loop, paced_streams
from bench.systems import running_systems

RESULTS = Path(__file__).parent / "results"


async def measure(quick: bool) -> dict[str, dict[str, list[float]]]:
    """Each figure of each system, one value a round."""
    rounds, seconds = (1, 2.0) if quick else (3, 3.0)
    streams, events = (100, 20) if quick else (500, 50)
    figures: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory(prefix="proxyctl-bench-") as directory:
        async with running_systems(Path(directory), events=events, interval_ms=100) as systems:
            for number in range(rounds):
                for system in systems:
                    sys.stderr.write(f"round {number + 1} of {rounds}: {system.name}\n")
                    here = figures.setdefault(system.name, {})

                    def note(name: str, value: float, here: dict[str, list[float]] = here) -> None:
                        here.setdefault(name, []).append(value)

                    for label, size in (("1 KB", 1_000), ("60 KB", 60_000)):
                        done: Figures = await closed_loop(system, size=size, seconds=seconds, clients=16)
                        if done.cpu_seconds:
                            note(f"requests per CPU-second, {label}", done.requests / done.cpu_seconds)
                    latency = await open_loop(system, size=60_000, rate=100, seconds=seconds)
                    note("p50 ms at 100 rps, 60 KB", statistics.median(latency.milliseconds))
                    note("p99 ms at 100 rps, 60 KB", statistics.quantiles(latency.milliseconds, n=100)[98])
                    paced = await paced_streams(system, streams=streams)
                    if paced.cpu_seconds:
                        note(f"CPU µs per event, {streams} streams", paced.cpu_seconds * 1e6 / paced.events)
                    note(f"streams finished of {streams}", paced.finished)
                    note(f"first byte p99 ms, {streams} streams", statistics.quantiles(paced.milliseconds, n=100)[98])
                    if system.pid is not None:
                        note(f"resident MB after {streams} streams", system.resident_bytes() / 1e6)
                        note("start to listening, ms", system.start_seconds * 1000)
    return figures


def table(figures: dict[str, dict[str, list[float]]]) -> str:
    """A Markdown table: median (min to max), and the ratio to nginx of the same run."""
    systems = list(figures)
    names = list(dict.fromkeys(name for values in figures.values() for name in values))
    lines = [f"| figure | {' | '.join(systems)} | daemon / nginx |", "|---" * (len(systems) + 2) + "|"]
    for name in names:
        cells, medians = [], {}
        for system in systems:
            values = figures[system].get(name)
            if not values:
                cells.append("")
                continue
            medians[system] = statistics.median(values)
            cells.append(f"{medians[system]:,.1f} ({min(values):,.1f} to {max(values):,.1f})")
        ratio = f"{medians['daemon'] / medians['nginx']:.2f}" if medians.get("nginx") and medians.get("daemon") else ""
        lines.append(f"| {name} | {' | '.join(cells)} | {ratio} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round, for a first look")
    figures = asyncio.run(measure(parser.parse_args().quick))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "latest.json").write_text(json.dumps(figures, indent=1))
    (RESULTS / "latest.md").write_text(table(figures))
    sys.stdout.write(table(figures))


main()
