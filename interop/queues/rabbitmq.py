"""A real RabbitMQ, with pika as the client of others."""
import datetime
import decimal
import pathlib

import pika

from common import Peer, bodies, lake, rows, run, told, until


class RabbitMQ(Peer):
    kind, ports = "rabbitmq", 3

    def source(self, queue: str, more: str = "") -> str:
        return f"amqp091: {{url: '{self.url}', queue: {queue}, until: caught_up, {more}}}"

    def channel(self) -> pika.adapters.blocking_connection.BlockingChannel:
        return pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", self.port, heartbeat=0)).channel()

    def make(self, queue: str) -> None:
        channel = self.channel()
        channel.queue_declare(queue, durable=True)
        channel.connection.close()

    def ready(self, queue: str) -> int:
        channel = self.channel()
        count = channel.queue_declare(queue, passive=True).method.message_count
        channel.connection.close()
        return count

    def fill(self, queue: str, messages: int) -> None:
        self.make(queue)
        # Committed, they are on its disk: a broker that is killed keeps them.
        channel = self.channel()
        channel.tx_select()
        for number, body in enumerate(bodies(messages)):
            properties = pika.BasicProperties(message_id=f"m{number}", delivery_mode=2, headers={"n": number % 97})
            channel.basic_publish("", queue, body, properties)
        channel.tx_commit()
        channel.connection.close()
        until(f"{messages} messages in {queue}", lambda: self.ready(queue) == messages)

    def read(self, queue: str) -> list[tuple]:
        """All messages, taken out."""
        channel, seen = self.channel(), []
        while True:
            method, properties, body = channel.basic_get(queue, auto_ack=True)
            if method is None:
                channel.connection.close()
                return seen
            seen.append((body, {name: value for name, value in vars(properties).items() if value is not None}))


ODD = [
    (b"{}", dict(content_type="application/json", message_id="id-1", timestamp=1_700_000_000, priority=3, delivery_mode=2, correlation_id="c",
                 reply_to="r", expiration="600000", type="t", app_id="a", user_id="guest")),
    (b"", {}),
    (b"\x00\xff", dict(headers={})),
    (b"types", dict(headers={
        "text": "plain", "number": 7, "big": 2**40, "negative": -5, "yes": True, "nothing": None, "list": [1, "two", [True]],
        "table": {"a": {"b": ["c"]}}, "price": decimal.Decimal("12.34"), "when": datetime.datetime(2024, 1, 2, 3, 4, 5),
        "bytes": b"\x00\x01", "TAGS": "reserved", "": "no name", "rocketmq.KEYS": "k1 k2", "ü": "ü"})),
    (b"x" * 400_000, dict(delivery_mode=1, content_encoding="gzip")),
]


def round_trip(rabbit: RabbitMQ, folder: pathlib.Path) -> None:
    rabbit.make("first")
    channel = rabbit.channel()
    channel.exchange_declare("events", "topic")
    channel.queue_declare("second", durable=True)
    channel.queue_bind("second", "events", "first")
    for queue in ["first", "second"]:
        for body, properties in ODD:
            channel.basic_publish("", queue, body, pika.BasicProperties(**properties))
    channel.connection.close()
    until("all in the queues", lambda: rabbit.ready("second") == len(ODD))
    expected = rabbit.read("second")
    run(folder, f"""
name: in
source:
  {rabbit.source("first")}
sink:
  topic: {{name: between}}
delivery: at_least_once
---
name: out
source:
  topic: {{name: between, until: caught_up}}
sink:
  amqp091: {{url: '{rabbit.url}', exchange: events}}
delivery: at_least_once
""")
    seen = rabbit.read("second")
    assert len(seen) == len(ODD) and seen == expected, f"{seen}\nis not\n{expected}"
    assert rabbit.ready("first") == 0
    print("rabbitmq: messages with headers of all of pika's types, odd properties and binary bodies came back as they were", flush=True)


def refused(rabbit: RabbitMQ, folder: pathlib.Path) -> None:
    config = lake(rabbit.source("orders-0"))
    for change, part in [
        (("queue: orders-0", "queue: nobody"), "no queue 'nobody'"),
        (("queue: orders-0", 'queue: orders-0, user: me, password: "${NONE:x}"'), "ACCESS_REFUSED"),
        ((f":{rabbit.port}", f":{rabbit.port}/elsewhere"), "elsewhere"),
        ((f":{rabbit.port}", ":1"), "refused"),
    ]:
        text = told(folder, config.replace(*change) + "errors: {retry: 0s}\n")
        assert part in text, text
    # Lists in one another, as a client that means no good sends them.
    rabbit.make("deep")
    channel = rabbit.channel()
    inner = [True]
    for _ in range(400):
        inner = [inner]
    channel.basic_publish("", "deep", b'{"id": 1}', pika.BasicProperties(headers={"deep": inner}))
    channel.basic_publish("", "deep", b'{"id": 2}')
    channel.connection.close()
    until("both in the queue", lambda: rabbit.ready("deep") == 2)
    run(folder, lake(rabbit.source("deep")) + "errors: {then: skip}\n")
    assert rabbit.ready("deep") == 0
    assert rows(folder, "id") == [(2,)]
    print("rabbitmq: a queue that is missing, a login that is refused, a broker that is away and headers that are nested without end are told", flush=True)
