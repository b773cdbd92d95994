"""How Sluice's broker reads long backlogs: its consume rate at 100 x the backlog and with 10,000 queues, against itself.

  benches/backlog.py [--rounds 3] [--small 200000] [--large 20000000] [--queues 10000] [--wide 5000000]

The long backlog and the short one beside it are read cold: the store's files are dropped from the page cache
(POSIX_FADV_DONTNEED) before. Many queues are read from the page cache, and beside them as many messages in 8. Needs
about 500 bytes of disk a message. Builds what SLUICE and LOAD do not name.
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
    arguments.add_argument("--wide", type=int, default=5_000_000, help="messages in that many queues")
    arguments = arguments.parse_args()
    program, load = binary("SLUICE", "-p", "sluice-cli", "--no-default-features"), binary("LOAD", "-p", "sluice-client", "--example", "load")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        broker = Sluice(folder, program)

        def run(mode: str, *options: str) -> dict:
            command = [load, mode, "--namesrv", broker.namesrv, *options]
            return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

        try:
            for topic, messages, queues in [("small", arguments.small, 8), ("large", arguments.large, 8), ("narrow", arguments.wide, 8), ("wide", arguments.wide, arguments.queues)]:
                run("produce", "--topic", topic, "--queues", str(queues), "--messages", str(messages), "--in-flight", "64",
                    "--batch", "100", "--bytes", "256")
                print(f"{messages:,} messages of 256 B in {queues:,} queues", flush=True)
            rates: dict[str, list[float]] = {}
            for number in range(arguments.rounds):
                for topic in ["narrow", "wide", "small", "large"]:
                    if topic in ("small", "large"):
                        drop_cache(folder)
                    elif number == 0:
                        # From the page cache.
                        run("consume", "--topic", topic, "--group", f"{topic}-first", "--pull", "1024")
                    read = run("consume", "--topic", topic, "--group", f"{topic}-{number}", "--pull", "1024")
                    rates.setdefault(topic, []).append(read["messages_per_second"])
                    print(f"round {number + 1}: {topic}: {rates[topic][-1]:,.0f} messages/s", flush=True)
        finally:
            broker.stop()
    median = {topic: statistics.median(values) for topic, values in rates.items()}
    print(f"\nbacklog of {arguments.small:,}: {median['small']:,.0f} messages/s")
    print(f"backlog of {arguments.large:,}: {median['large'] / median['small']:.2f} of it")
    print(f"{arguments.wide:,} in 8 queues, from the page cache: {median['narrow']:,.0f} messages/s")
    print(f"in {arguments.queues:,} queues: {median['wide'] / median['narrow']:.2f} of it")


if __name__ == "__main__":
    main()
