"""A disk that is full, for real: a small file system under the store, then under the sink's folder. The run says
so and waits; once there is space it goes on, and every flight is there once. Needs the right to mount."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import duckdb

import flights

SLUICE = str(pathlib.Path(os.environ["SLUICE"]).resolve())
CONFIG = """
name: load
source:
  file: {path: flights.csv, format: csv, nulls: ["", NA], properties: [origin]}
sink:
  topic: {name: flights}
---
name: lake
source:
  topic: {name: flights, until: caught_up}
decode: {format: json}
sink:
  parquet: {path: lake/files, partition: [$.origin], rotate: {rows: 50000}}
"""
# Eight times January: three segments of the store, some MiB of Parquet.
TIMES = 8


def mount(folder: pathlib.Path, size: str, again: bool = False) -> None:
    options = f"{'remount,' if again else ''}size={size}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)


def await_text(path: pathlib.Path, text: str, process: subprocess.Popen, seconds: float) -> None:
    end = time.monotonic() + seconds
    while text not in path.read_text():
        assert process.poll() is None, f"it ended with {process.returncode}: {path.read_text()}"
        assert time.monotonic() < end, f"no {text!r} in {seconds} s: {path.read_text()}"
        time.sleep(0.05)


def check(full: str, small: str) -> None:
    """`full` is the folder whose disk is too small at first."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        lines = flights.january().decode().splitlines()
        (folder / "flights.csv").write_text("\n".join([lines[0]] + lines[1:] * TIMES) + "\n")
        (folder / "pipeline.yaml").write_text(CONFIG)
        disk = folder / full
        disk.mkdir()
        mount(disk, small)
        try:
            log = folder / "log"
            with open(log, "wb") as out:
                command = [SLUICE, "run", "pipeline.yaml", "--data-dir", "store/data"]
                process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=out)
            await_text(log, "No space left", process, 60)
            assert str(disk.name) in log.read_text(), f"the place is not named: {log.read_text()}"
            mount(disk, "1g", again=True)
            assert process.wait(timeout=120) == 0, log.read_text()
            rows = (len(lines) - 1) * TIMES
            stats = subprocess.run([SLUICE, "topic", "stats", "flights", "--data-dir", "store/data", "--json"],
                                   cwd=folder, check=True, capture_output=True, text=True)
            stored = json.loads(stats.stdout)["queues"][0]
            assert (stored["first"], stored["next"]) == (0, rows), stored
            files = f"read_parquet('{folder}/lake/files/**/*.parquet', hive_partitioning=true)"
            csv = f"read_csv('{folder}/flights.csv', nullstr=['NA', ''])"
            key = "month, day, dep_time, carrier, flight, origin, dest"
            for a, b in [(csv, files), (files, csv)]:
                query = f"SELECT count(*) FROM (SELECT {key} FROM {a} EXCEPT ALL SELECT {key} FROM {b})"
                assert duckdb.sql(query).fetchall()[0][0] == 0, f"rows differ: {query}"
            print(f"full disk under {full}: told, waited, went on; {rows:,} rows once")
        finally:
            subprocess.run(["umount", str(disk)], check=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as probe:
        if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", probe], capture_output=True).returncode != 0:
            print("full disk: left out, as this user may not mount a file system")
            sys.exit(0)
        subprocess.run(["umount", probe], check=True)
    check("store", "100m")
    check("lake", "1m")


if __name__ == "__main__":
    main()
