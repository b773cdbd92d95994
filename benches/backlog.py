"""How Sluice's broker reads long backlogs: its consume rate at 100 x the backlog and with 10,000 queues, against itself.

  benches/backlog.py [--rounds 3] [--small 200000] [--large 20000000] [--queues 10000]

The long backlog and the short one beside it are read cold: the store's files are dropped from the page cache
(POSIX_FADV_DONTNEED) before. As many messages in many queues are read from the page cache, and beside them the long
backlog from there, too. Needs about 800 bytes of disk a message, and as much memory for the page cache. Builds what
SLUICE and LOAD do not name.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile

from rocketmq import Sluice, binary


def drop_cache(folder: pathlib.Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--small", type=int, default=200_000)
    arguments.add_argument("--large", type=int, default=20_000_000)
    arguments.add_argument("--queues", type=int, default=10_000)
    arguments = arguments.parse_args()
    program, load = binary("SLUICE", "-p", "sluice-cli", "--no-default-features"), binary("LOAD", "-p", "sluice-client", "--example", "load")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        broker = Sluice(folder, program)

        def run(mode: str, *options: str) -> dict:
            command = [load, mode, "--namesrv", broker.namesrv, *options]
            return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

        try:
            for topic, messages, queues in [("small", arguments.small, 8), ("large", arguments.large, 8),
                                            ("wide", arguments.large, arguments.queues)]:
                run("produce", "--topic", topic, "--queues", str(queues), "--messages", str(messages), "--in-flight", "64",
                    "--batch", "100", "--bytes", "256")
                print(f"{messages:,} messages of 256 B in {queues:,} queues", flush=True)
            rates: dict[str, list[float]] = {}

            def read(topic: str, how: str, number: int) -> None:
                took = run("consume", "--topic", topic, "--group", f"{topic}-{how}-{number}", "--pull", "1024")
                rates.setdefault(f"{topic} {how}", []).append(took["messages_per_second"])
                print(f"round {number + 1}: {topic} {how}: {took['messages_per_second']:,.0f} messages/s", flush=True)

            for number in range(arguments.rounds):
                for topic in ["small", "large"]:
                    drop_cache(folder)
                    read(topic, "cold", number)
                for topic in ["large", "wide"]:
                    run("consume", "--topic", topic, "--group", f"{topic}-warms-{number}", "--pull", "1024")
                    read(topic, "warm", number)
        finally:
            broker.stop()
    median = {what: statistics.median(values) for what, values in rates.items()}
    print(f"\nbacklog of {arguments.small:,}, cold: {median['small cold']:,.0f} messages/s")
    print(f"backlog of {arguments.large:,}, cold: {median['large cold'] / median['small cold']:.2f} of it")
    print(f"backlog of {arguments.large:,}, from the page cache: {median['large warm']:,.0f} messages/s")
    print(f"in {arguments.queues:,} queues: {median['wide warm'] / median['large warm']:.2f} of it")


if __name__ == "__main__":
    main()
