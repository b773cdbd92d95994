"""How late delayed messages come from Sluice's broker under load, and what they cost when a million others wait.

  benches/delay.py [--rounds 3] [--messages 50000] [--pending 1000 1000000] [--rate 5000]

Each message has a time of its own (TIMER_DELIVER_MS). Those that count are due evenly over 10 s, 10 s after they are
sent; the pending ones are due in an hour. Beside them plain messages of 1 KiB are sent at the rate. Builds what SLUICE and
LOAD do not name.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile

from rocketmq import Sluice, binary, cpu_seconds


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--messages", type=int, default=50_000)
    arguments.add_argument("--pending", type=int, nargs="+", default=[1_000, 1_000_000])
    arguments.add_argument("--rate", type=int, default=5_000, help="plain sends a second beside")
    arguments = arguments.parse_args()
    program, load = binary("SLUICE", "-p", "sluice-cli", "--no-default-features"), binary("LOAD", "-p", "sluice-client", "--example", "load")
    figures: dict[int, list[tuple[float, float, float]]] = {}
    for number in range(arguments.rounds):
        for pending in arguments.pending:
            with tempfile.TemporaryDirectory() as folder:
                broker = Sluice(pathlib.Path(folder), program)

                def command(mode: str, *options: str) -> list[str]:
                    return [load, mode, "--namesrv", broker.namesrv, "--queues", "8", *options]

                try:
                    # The pending ones go first, in a run that waits for one other message.
                    subprocess.run(command("delay", "--topic", "delayed", "--messages", "1", "--delay-ms", "100", "--pending", str(pending)),
                                   check=True, capture_output=True)
                    beside = subprocess.Popen(command("produce-rate", "--topic", "plain", "--rate", str(arguments.rate), "--seconds", "22"),
                                              stdout=subprocess.DEVNULL)
                    before = cpu_seconds(broker.pid)
                    run = subprocess.run(command("delay", "--topic", "delayed", "--messages", str(arguments.messages)), check=True,
                                         capture_output=True, text=True)
                    cpu = cpu_seconds(broker.pid) - before
                    told = json.loads(run.stdout)
                    beside.wait()
                finally:
                    broker.stop()
                assert told["early"] == 0, told
                assert told["messages"] == arguments.messages, told
                figures.setdefault(pending, []).append((told["p99_9_ms"], told["max_ms"], cpu))
                print(f"round {number + 1}: {pending:,} pending: 99.9 % within {told['p99_9_ms']:.0f} ms, all within {told['max_ms']:.0f} ms; "
                      f"broker {cpu:.2f} CPU s", flush=True)
    print(f"\nmedians of {arguments.rounds}, {arguments.messages:,} delayed messages, none early, beside {arguments.rate:,} sends a second")
    for pending, told in figures.items():
        late, most, cpu = (statistics.median(values) for values in zip(*told))
        print(f"{pending:>10,} pending: 99.9 % within {late:.0f} ms, all within {most:.0f} ms; broker {cpu:.2f} CPU s")


if __name__ == "__main__":
    main()
