"""The README's example, read back by DuckDB and pyarrow: the same rows as the filter's answer over the CSV."""
import os
import pathlib
import subprocess
import tempfile

import duckdb
import pyarrow.dataset

import flights

SLUICE = str(pathlib.Path(os.environ["SLUICE"]).resolve())


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        (scratch / "examples").symlink_to(flights.ROOT / "examples")
        run = subprocess.run([SLUICE, "run", "examples/flights.yaml"], cwd=scratch, check=True, text=True, capture_output=True)
        print(run.stdout, end="")
        lake = scratch / "lake" / "late_flights"
        csv = f"read_csv('{flights.JANUARY}', nullstr=['NA', ''])"
        connection = duckdb.connect()
        connection.execute("SET TimeZone = 'UTC'")
        names = [row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {csv}").fetchall()]
        ours_names = [row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM read_parquet('{lake}/**/*.parquet', hive_partitioning=true)").fetchall()]
        assert sorted(names) == sorted(ours_names), (names, ours_names)
        # time_hour is text in the bodies, and a time for DuckDB's CSV reader.
        columns = ", ".join(n for n in names if n != "time_hour")
        hour = "strptime(time_hour, '%Y-%m-%dT%H:%M:%SZ')"
        expected = f"SELECT {columns}, CAST(time_hour AS TIMESTAMP) AS h FROM {csv} WHERE {flights.WHERE}"
        ours = f"SELECT {columns}, {hour} AS h FROM read_parquet('{lake}/**/*.parquet', hive_partitioning=true)"
        missing = connection.execute(f"SELECT count(*) FROM ({expected} EXCEPT ALL {ours})").fetchone()[0]
        extra = connection.execute(f"SELECT count(*) FROM ({ours} EXCEPT ALL {expected})").fetchone()[0]
        rows = connection.execute(f"SELECT count(*) FROM ({ours})").fetchone()[0]
        assert rows > 0 and missing == 0 and extra == 0, f"{rows} rows, {missing} missing, {extra} extra"
        dataset = pyarrow.dataset.dataset(lake, format="parquet", partitioning="hive", ignore_prefixes=["_"])
        assert dataset.count_rows() == rows, dataset.count_rows()
        origins = set(dataset.to_table(columns=["origin"])["origin"].to_pylist())
        assert origins == {"EWR", "JFK"}, origins
        again = subprocess.run([SLUICE, "run", "examples/flights.yaml"], cwd=scratch, check=True, text=True, capture_output=True)
        assert again.stdout.count("0 new rows") == 2, again.stdout
        print(f"read back: {rows} rows by DuckDB {duckdb.__version__} and pyarrow {pyarrow.__version__}, none missing, none extra")


if __name__ == "__main__":
    main()
