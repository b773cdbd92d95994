"""SQL over a topic: rows a second of a filtered scan by `sluice query --serve`, against DuckDB on the same rows as Parquet; and the
bytes that come over the wire with the condition in the statement and without.

    python3 benches/query.py                      5,000,000 messages
    python3 benches/query.py --rows 200000 --rounds 1

Needs SLUICE, a release build with `query`. Medians of the rounds; the sides take turns.
"""
import argparse
import json
import os
import pathlib
import signal
import socket
import statistics
import subprocess
import tempfile
import threading
import time

import adbc_driver_flightsql.dbapi as adbc
import duckdb

SLUICE = str(pathlib.Path(os.environ["SLUICE"]).resolve())
PIPELINES = """
name: makes
source: {{generate: {{rows: {rows}, seed: 7}}}}
sink: {{topic: {{name: made, queues: 4}}}}
---
name: keeps
source: {{topic: {{name: made, until: caught_up}}}}
decode: {{format: json}}
sink: {{parquet: {{path: ./kept}}}}
"""


class Relay:
    """Passes one connection's bytes on, and counts those that come back."""

    def __init__(self, addr: str):
        host, port = addr.rsplit(":", 1)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.addr = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.bytes = 0
        self.target = (host, int(port))
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            near, _ = self.listener.accept()
            far = socket.create_connection(self.target)
            threading.Thread(target=self.copy, args=(near, far, False), daemon=True).start()
            threading.Thread(target=self.copy, args=(far, near, True), daemon=True).start()

    def copy(self, source: socket.socket, target: socket.socket, counts: bool) -> None:
        try:
            while data := source.recv(1 << 18):
                self.bytes += len(data) if counts else 0
                target.sendall(data)
        except OSError:
            pass


def fetch(addr: str, sql: str) -> int:
    with adbc.connect(f"grpc://{addr}", autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetch_arrow_table().num_rows


def timed(work) -> tuple[float, int]:
    started = time.perf_counter()
    rows = work()
    return time.perf_counter() - started, rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        (folder / "p.yaml").write_text(PIPELINES.format(rows=arguments.rows))
        subprocess.run([SLUICE, "run", "p.yaml"], cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        command = [SLUICE, "query", "--serve", "127.0.0.1:0", "--json", "--pipelines", "p.yaml"]
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as server:
            addr = json.loads(server.stdout.readline())["flight"]
            lake = f"read_parquet('{folder}/kept/*.parquet')"
            first, _ = timed(lambda: fetch(addr, "select id from made limit 1"))
            print(f"{arguments.rows:,} messages; the types of the topic's fields take {first:.1f} s, once")
            sides = {
                "topic, a property": lambda: fetch(addr, "select id, name, value from made where _properties['group'] = 'a'"),
                "topic, a field of the body": lambda: fetch(addr, 'select id, name, value from made where "group" = \'a\''),
                "pipeline, a column": lambda: fetch(addr, 'select id, name, value from keeps where "group" = \'a\''),
                "DuckDB over the Parquet": lambda: duckdb.sql(f"SELECT id, name, value FROM {lake} WHERE \"group\" = 'a'").to_arrow_table().num_rows,
            }
            took, answer = {side: [] for side in sides}, set()
            for _ in range(arguments.rounds):
                for side, work in sides.items():
                    seconds, rows = timed(work)
                    took[side].append(seconds)
                    answer.add(rows)
            assert len(answer) == 1, f"the sides gave {answer} rows"
            print(f"{answer.pop():,} rows of a filtered scan:")
            for side, seconds in took.items():
                median = statistics.median(seconds)
                print(f"  {side:28} {median:7.2f} s  {arguments.rows / median / 1e6:7.2f} million rows/s")
            for what, sql in (
                ("the condition in the statement", "select id, name, value from made where _properties['group'] = 'a'"),
                ("all rows, to be filtered there", "select id, name, value, _properties['group'] as g from made"),
            ):
                relay = Relay(addr)
                fetch(relay.addr, sql)
                print(f"  over the wire, {what}: {relay.bytes / 1e6:.1f} MB")
            server.send_signal(signal.SIGTERM)


if __name__ == "__main__":
    main()
