"""`sluice run`, plain CSV -> topic -> Parquet, against DuckDB's COPY of the same rows from the same file: wall
time and peak memory of the whole process, and of the query alone. Same codec, same number of cores."""
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "interop"))
import flights

SLUICE = str(pathlib.Path(os.environ["SLUICE"]).resolve())
ROUNDS = int(os.environ.get("ROUNDS", "5"))
CONFIG = f"""
name: load
source:
  file: {{path: flights.csv, format: csv, nulls: ["", NA], properties: [origin, dep_delay], keys: [tailnum], tag: carrier}}
sink:
  topic: {{name: flights}}
---
name: late
source:
  topic: {{name: flights, until: caught_up}}
where: "{flights.WHERE}"
decode: {{format: json}}
sink:
  parquet: {{path: lake, codec: zstd(3)}}
"""
DUCKDB = f"""
import duckdb, sys, time
began = time.monotonic()
connection = duckdb.connect()
connection.execute("SET threads = {os.cpu_count()}")
connection.execute("COPY (SELECT * FROM read_csv('flights.csv', nullstr=['NA', '']) WHERE {flights.WHERE}) TO 'duck.parquet' (FORMAT parquet, COMPRESSION zstd)")
print(time.monotonic() - began)
"""


def timed(command: list[str], folder: pathlib.Path) -> tuple[float, float, str]:
    """Wall time in s, peak memory in MiB, and output of one process."""
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - began
    assert status == 0, f"{command[0]} failed: {out}"
    return wall, usage.ru_maxrss / 1024, out


def main() -> None:
    data = flights.full(sys.executable)
    ours, duck = [], []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            os.symlink(data, folder / "flights.csv")
            (folder / "pipeline.yaml").write_text(CONFIG)
            wall, memory, out = timed([SLUICE, "run", "pipeline.yaml", "--json"], folder)
            summary = json.loads(out)
            ours.append((wall, memory, summary["elapsed_ms"] / 1000))
            wall, memory, out = timed([sys.executable, "-c", DUCKDB], folder)
            duck.append((wall, memory, float(out)))
            import duckdb
            count = lambda path: duckdb.execute(f"SELECT count(*) FROM read_parquet('{folder}/{path}')").fetchone()[0]
            written = summary["pipelines"][1]["fates"]["written"]
            assert count("lake/*.parquet") == count("duck.parquet") == written > 0
    print(f"{ROUNDS} rounds in turns, medians; {written:,} of 336,776 rows pass the filter")
    print(f"{'':28}{'process':>10}{'run alone':>12}{'peak memory':>14}")
    medians = []
    for name, rounds in [("sluice run (stores all rows)", ours), ("DuckDB COPY", duck)]:
        wall, memory, alone = (statistics.median(column) for column in zip(*rounds))
        medians.append((wall, alone))
        print(f"{name:28}{wall:>8.2f} s{alone:>10.2f} s{memory:>10.0f} MiB")
    print(f"{'ratio (aim: at most 4)':28}{medians[0][0] / medians[1][0]:>8.2f} x{medians[0][1] / medians[1][1]:>10.2f} x")


if __name__ == "__main__":
    main()
