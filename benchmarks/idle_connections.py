"""What idle connections cost a working one: `python -m benchmarks.idle_connections [--count N]`.

One connection with 64 streams, driven by h2load, beside none and beside N idle connections, in turn.
"""

import argparse
import resource
import statistics
import tempfile
from pathlib import Path
from typing import Final

from benchmarks import h2load
from benchmarks.bars.idle import idle_connections
from benchmarks.contenders import broker
from benchmarks.objects import expected_answer, framed, request_bytes

ROUNDS: Final = 5
REQUESTS: Final = 60_000
STREAMS: Final = 64
WORKERS: Final = 2
OWN_FILES: Final = 200


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.idle_connections", description=__doc__)
    parser.add_argument("--count", type=int, default=8_000, help="idle connections (default: 8,000)")
    count = parser.parse_args().count
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (count + OWN_FILES, hard))
    loads: dict[int, list[h2load.Load]] = {0: [], count: []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        body = folder / "body"
        body.write_bytes(framed(request_bytes()))
        answer_size = len(framed(expected_answer().SerializeToString()))
        with broker(folder, WORKERS) as server:
            for _ in range(ROUNDS):
                for number, found in loads.items():
                    with idle_connections(f"unix://{server.socket}", number):
                        found.append(h2load.run(server.socket, body, REQUESTS, STREAMS, answer_size))
    print("| idle connections | requests/s | p50 us | p99 us |\n| --- | --- | --- | --- |")
    for number, found in loads.items():
        rate = statistics.median(load.rate for load in found)
        p50, p99 = (statistics.median(load[at] for load in found) for at in (2, 3))
        print(f"| {number:,} | {rate:,.0f} | {p50:,.0f} | {p99:,.0f} |")


if __name__ == "__main__":
    main()
