"""Million rows a second and core of a predicate over text columns: DuckDB, beside what is read from stdin."""
import sys
import time

import duckdb
import pyarrow as pa

ROWS = 8192
NAMES = ["TAGS", "KEYS", "UNIQ_KEY", "region", "amount", "level", "user", "channel"]
# Those of filters/benches/rate.rs. A text that is no number is UNKNOWN to both.
NUMBER = 'TRY_CAST(amount AS BIGINT)'
PREDICATES = [
    f"{NUMBER} > 500",
    f"region = 'EU' AND {NUMBER} > 500",
    f"region IN ('EU', 'US', 'APAC') AND {NUMBER} BETWEEN 100 AND 800 AND level IS NOT NULL",
    f"starts_with(\"user\", 'u1') OR contains(\"user\", '77') OR ends_with(channel, 'web') OR {NUMBER} < 3",
    f"(region = 'EU' OR region = 'US' OR region = 'MEA') AND {NUMBER} > 50 AND {NUMBER} < 900 AND level <> 'low' "
    "AND (channel IN ('web', 'app', 'shop') OR channel IS NULL) AND \"user\" IS NOT NULL "
    "AND (TAGS = 'TagA' OR TAGS = 'TagB') AND contains(KEYS, '7')",
]


def message(row: int) -> tuple[str, ...]:
    mixed = row * 2654435761 % 4294967296 // 128
    return (
        ("TagA", "TagB", "TagC")[mixed % 3],
        f"order-{row}",
        f"7F000001{row:016X}00000000",
        ("EU", "US", "APAC", "MEA")[mixed // 3 % 4],
        str(mixed // 12 % 1000),
        ("low", "mid", "high")[mixed // 7 % 3],
        f"u{mixed % 100000}",
        ("web", "app", "shop", "phone")[mixed // 5 % 4],
    )


def main() -> None:
    batches = int(sys.argv[1])
    ours = [line.split(" ", 3) for line in sys.stdin if line.startswith("sluice ")]
    columns = zip(*(message(row) for row in range(batches * ROWS)))
    table = pa.table(dict(zip(NAMES, (pa.array(column) for column in columns))))
    connection = duckdb.connect()
    connection.execute("SET threads = 1")
    connection.execute("CREATE TABLE messages AS SELECT * FROM \"table\"")
    print(f"million rows a second on one core, {batches * ROWS:,} rows of text in memory")
    print(f"{'sluice':>10} {'duckdb':>10} {'ratio':>7}")
    for (_, rate, passed, text), predicate in zip(ours, PREDICATES, strict=True):
        best = float("inf")
        began = time.monotonic()
        while time.monotonic() - began < 2:
            start = time.monotonic()
            (found,) = connection.execute(f"SELECT count(*) FROM messages WHERE {predicate}").fetchone()
            best = min(best, time.monotonic() - start)
        assert found == int(passed), f"{found} and {passed}: {text}"
        duck = batches * ROWS / best / 1e6
        print(f"{float(rate):>10.1f} {duck:>10.1f} {float(rate) / duck:>7.2f} {text}", end="")


main()
