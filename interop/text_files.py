"""NDJSON and CSV files of sink `file`, read by DuckDB and pyarrow: the same rows as the CSV that they come from."""
import os
import pathlib
import subprocess
import tempfile

import duckdb
import pyarrow
import pyarrow.csv
import pyarrow.json

import flights

SLUICE = str(pathlib.Path(os.environ["SLUICE"]).resolve())
FORMATS = [("ndjson", "none"), ("ndjson", "gzip"), ("ndjson", "zstd"), ("csv", "none"), ("csv", "gzip"), ("csv", "zstd")]
ENDS = {"none": "", "gzip": ".gz", "zstd": ".zst"}


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        # Small files, and so many of them open that compressed ones go on in a new frame.
        documents = [
            f"""name: {kind}-{compression}
source:
  file: {{path: "{flights.JANUARY}", format: csv, nulls: ["", NA]}}
decode: {{format: json, schema: {{mode: infer, freeze_after_rows: 5000}}}}
sink:
  file: {{path: "{kind}-{compression}", format: {kind}, compression: {compression}, partition: [$.origin], open_partitions: 1, rotate: {{rows: 10000}}}}
"""
            for kind, compression in FORMATS
        ]
        (scratch / "pipelines.yaml").write_text("---\n".join(documents))
        subprocess.run([SLUICE, "run", "pipelines.yaml"], cwd=scratch, check=True, capture_output=True)
        connection = duckdb.connect()
        csv = f"read_csv('{flights.JANUARY}', nullstr=['NA', ''], all_varchar=true)"
        names = [row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {csv}").fetchall()]
        for kind, compression in FORMATS:
            lake = scratch / f"{kind}-{compression}"
            audit = subprocess.run([SLUICE, "audit", str(lake)], text=True, capture_output=True)
            assert audit.returncode == 0, audit.stdout + audit.stderr
            files = sorted(lake.glob(f"origin=*/*.{kind}{ENDS[compression]}"))
            assert len(files) >= 6, files
            glob = f"'{lake}/origin=*/*.{kind}{ENDS[compression]}', hive_partitioning=true"
            read = f"read_json({glob}, format='newline_delimited')" if kind == "ndjson" else f"read_csv({glob})"
            # What is a time or a number for one reader is text for the other.
            same = [n for n in names if n != "time_hour"]
            ours = ", ".join(f"CAST({n} AS VARCHAR) AS {n}" for n in same)
            theirs = ", ".join(same)
            missing = connection.execute(f"SELECT count(*) FROM (SELECT {theirs} FROM {csv} EXCEPT ALL SELECT {ours} FROM {read})").fetchone()[0]
            extra = connection.execute(f"SELECT count(*) FROM (SELECT {ours} FROM {read} EXCEPT ALL SELECT {theirs} FROM {csv})").fetchone()[0]
            rows = connection.execute(f"SELECT count(*) FROM {read}").fetchone()[0]
            assert rows > 20000 and missing == 0 and extra == 0, f"{kind} {compression}: {rows} rows, {missing} missing, {extra} extra"
            reader = pyarrow.json.read_json if kind == "ndjson" else pyarrow.csv.read_csv
            counted = 0
            for file in files:
                with pyarrow.input_stream(str(file), compression=None if compression == "none" else compression) as stream:
                    counted += reader(stream).num_rows
            assert counted == rows, f"{kind} {compression}: pyarrow has {counted} rows, DuckDB {rows}"
        print(f"text files: {rows} rows of {len(FORMATS)} kinds by DuckDB {duckdb.__version__} and pyarrow {pyarrow.__version__}, none missing, none extra")


if __name__ == "__main__":
    main()
