"""A real ActiveMQ Artemis by AMQP 1.0, with Qpid Proton as the client of others."""
import pathlib
import uuid

import proton
from proton.handlers import MessagingHandler
from proton.reactor import Container
from proton.utils import BlockingConnection

from common import Peer, bodies, lake, rows, run, told


class Sending(MessagingHandler):
    """Sends messages, and waits until all are accepted."""

    def __init__(self, url: str, queue: str, messages) -> None:
        super().__init__()
        self.url, self.queue, self.messages, self.open, self.is_over = url, queue, iter(messages), 0, False

    def on_start(self, event) -> None:
        self.connection = event.container.connect(self.url, sasl_enabled=True, allowed_mechs="ANONYMOUS")
        event.container.create_sender(self.connection, self.queue)

    def on_sendable(self, event) -> None:
        while event.sender.credit and not self.is_over:
            message = next(self.messages, None)
            if message is None:
                self.is_over = True
                break
            event.sender.send(message)
            self.open += 1
        self.end()

    def on_accepted(self, event) -> None:
        self.open -= 1
        self.end()

    def on_rejected(self, event) -> None:
        raise AssertionError(f"rejected: {event.delivery.remote.condition}")

    def end(self) -> None:
        if self.is_over and self.open == 0:
            self.connection.close()


def send(url: str, queue: str, messages) -> None:
    Container(Sending(url, queue, messages)).run()


class Artemis(Peer):
    kind = "artemis"

    def source(self, queue: str, more: str = "") -> str:
        return f"amqp10: {{url: '{self.url}', queue: {queue}, until: caught_up, {more}}}"

    def send(self, queue: str, messages) -> None:
        send(self.url, queue, messages)

    def fill(self, queue: str, messages: int) -> None:
        self.send(queue, (
            proton.Message(id=f"m{number}", durable=True, properties={"n": proton.int32(number % 97)}, body=body.encode(), inferred=True)
            for number, body in enumerate(bodies(messages))))

    def read(self, queue: str, count: int = 0) -> list[dict]:
        """All messages, so many at least, taken out, in an order of their own: durable ones may come later."""
        connection, seen = BlockingConnection(self.url, allowed_mechs="ANONYMOUS"), []
        receiver = connection.create_receiver(queue, credit=100)
        while True:
            try:
                seen.append(shown(receiver.receive(timeout=30 if len(seen) < count else 2)))
                receiver.accept()
            except proton.Timeout:
                connection.close()
                return sorted(seen, key=repr)


NAMES = ["id", "user_id", "address", "subject", "reply_to", "correlation_id", "content_type", "content_encoding", "creation_time", "group_id",
         "group_sequence", "reply_to_group_id", "durable", "priority", "properties", "annotations", "inferred", "body"]


def shown(message: proton.Message) -> dict:
    """What there is of a message, with the types of values."""
    def typed(value):
        if isinstance(value, memoryview):
            value = bytes(value)
        if isinstance(value, dict):
            return {typed(name): typed(inner) for name, inner in sorted(value.items(), key=lambda pair: str(pair[0]))}
        if isinstance(value, (list, tuple)) and not isinstance(value, proton.Described):
            return [typed(inner) for inner in value]
        return f"{type(value).__name__} {value!r}"

    return {name: typed(getattr(message, name)) for name in NAMES}


def odd() -> list[proton.Message]:
    values = {
        "text": "plain", "yes": True, "no": False, "nothing": None, "ubyte": proton.ubyte(200), "byte": proton.byte(-5), "ushort": proton.ushort(60_000),
        "short": proton.short(-300), "uint": proton.uint(2**31), "int": proton.int32(-7), "ulong": proton.ulong(2**63), "long": -2**40,
        "float": proton.float32(1.5), "double": 0.1, "char": proton.char("ä"), "when": proton.timestamp(1_700_000_000_123), "id": uuid.UUID(int=7),
        "symbol": proton.symbol("sym"), "bytes": b"\x00\x01", "decimal": proton.decimal64(5), "TAGS": "reserved", "rocketmq.KEYS": "k1 k2", "ü": "ü", "empty": ""}
    return [
        proton.Message(body=b"{}", inferred=True, id="id-1", subject="s", reply_to="r", correlation_id="c", content_type="application/json", priority=3,
                       durable=True, creation_time=1_700_000_000.123, group_id="g", group_sequence=3, reply_to_group_id="h", user_id=b"me"),
        proton.Message(body=b"", inferred=True),
        proton.Message(body=b"types", inferred=True, properties=values),
        proton.Message(body="a text of JMS", id=proton.ulong(7), correlation_id=uuid.UUID(int=8)),
        proton.Message(body=None),
        proton.Message(body=b"\x00\xff"),
        proton.Message(body={"a": [1, "two", {"b": True}]}),
        proton.Message(body=[proton.int32(1), "two"], inferred=True),
        proton.Message(body=proton.ulong(2**63)),
        proton.Message(body=b"x" * 400_000, inferred=True, annotations={proton.symbol("x-opt-more"): {"deep": [1]}}),
    ]


def round_trip(artemis: Artemis, folder: pathlib.Path) -> None:
    for queue in ["first", "second"]:
        artemis.send(queue, odd())
    expected = artemis.read("second", len(odd()))
    assert len(expected) == len(odd())
    run(folder, f"""
name: in
source:
  {artemis.source("first")}
sink:
  topic: {{name: between}}
delivery: at_least_once
---
name: out
source:
  topic: {{name: between, until: caught_up}}
sink:
  amqp10: {{url: '{artemis.url}', queue: second}}
delivery: at_least_once
""")
    seen = artemis.read("second", len(expected))
    assert len(seen) == len(expected)
    for one, other in zip(seen, expected):
        assert one == other, f"{one}\nis not\n{other}"
    assert artemis.read("first") == []
    print("artemis: messages with properties of all of AMQP's types and bodies of all kinds came back as they were", flush=True)


def refused(artemis: Artemis, folder: pathlib.Path) -> None:
    config = lake(artemis.source("orders-0"))
    for change, part in [(("queue: orders-0", "queue: nobody"), "nobody"), ((f":{artemis.port}", ":1"), "refused")]:
        text = told(folder, config.replace(*change) + "errors: {retry: 0s}\n")
        assert part in text, text
    inner = [True]
    for _ in range(400):
        inner = [inner]
    deep = proton.Message(body=b'{"id": 1}', inferred=True, annotations={proton.symbol("x-opt-deep"): inner})
    artemis.send("deep", [deep, proton.Message(body=b'{"id": 2}', inferred=True)])
    run(folder, lake(artemis.source("deep")) + "errors: {then: skip}\n")
    assert artemis.read("deep") == []
    assert rows(folder, "id") == [(2,)]
    print("artemis: a queue that is missing, a broker that is away and values that are nested without end are told", flush=True)
