#!/usr/bin/env bash
# Starts real servers from Maven Central and Debian for the examples, with something in them. Needs a JDK 17, Maven, python3 with venv,
# and for RocketMQ the sluice program (SLUICE, else the one on the path). RabbitMQ is installed by apt where it is missing.
#
#   examples/servers.sh start kafka rocketmq rabbitmq artemis     all, or some of them
#   examples/servers.sh stop
#
# Kafka listens on 127.0.0.1:19092 and has topic `flights`: the first 3,000 of January 2013, in 3 partitions, headers `origin` and
# `carrier`. RocketMQ's name server listens on 127.0.0.1:19876, and topic `orders` has 1,000 messages with key and tag.
# RabbitMQ listens on 127.0.0.1:15673, Artemis on 127.0.0.1:15674, and their queues `flights` have what Kafka's topic has. Their data and logs lie in
# ${SERVERS_DIR:-$TMPDIR/sluice-servers}, which `stop` takes away.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=${SERVERS_DIR:-${TMPDIR:-/tmp}/sluice-servers}

fill_kafka() {
  "$(interop/setup)" - <<'PY'
import csv, gzip, json
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
servers = {"bootstrap.servers": "127.0.0.1:19092"}
admin = AdminClient(servers)
admin.create_topics([NewTopic("flights", 3, 1)])["flights"].result(30)
producer, sent = Producer(servers), 0
with gzip.open("examples/data/flights-2013-01.csv.gz", "rt") as lines:
    for row in csv.DictReader(lines):
        producer.produce("flights", json.dumps(row), row["tailnum"], headers={"origin": row["origin"], "carrier": row["carrier"]})
        producer.poll(0)
        sent += 1
        if sent == 3000:
            break
assert producer.flush(30) == 0
print(f"kafka: topic flights has {sent:,} records")
PY
}

fill_rabbitmq() {
  "$(interop/setup)" - <<'PY'
import csv, gzip, json
import pika
channel = pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", 15673)).channel()
channel.queue_declare("flights", durable=True)
channel.confirm_delivery()
sent = 0
with gzip.open("examples/data/flights-2013-01.csv.gz", "rt") as lines:
    for row in csv.DictReader(lines):
        headers = {"origin": row["origin"], "carrier": row["carrier"]}
        channel.basic_publish("", "flights", json.dumps(row), pika.BasicProperties(message_id=f"f{sent}", delivery_mode=2, headers=headers))
        sent += 1
        if sent == 3000:
            break
channel.connection.close()
print(f"rabbitmq: queue flights has {sent:,} messages")
PY
}

fill_artemis() {
  "$(interop/setup)" - <<'PY'
import csv, gzip, itertools, json, sys
import proton
sys.path.insert(0, "interop/queues")
from artemis import send
def messages(rows):
    for number, row in enumerate(rows):
        yield proton.Message(id=f"f{number}", durable=True, properties={"origin": row["origin"], "carrier": row["carrier"]}, body=json.dumps(row).encode(), inferred=True)
with gzip.open("examples/data/flights-2013-01.csv.gz", "rt") as lines:
    send("amqp://127.0.0.1:15674", "flights", messages(itertools.islice(csv.DictReader(lines), 3000)))
print("artemis: queue flights has 3,000 messages")
PY
}

fill_rocketmq() {
  local sluice=${SLUICE:-sluice} i
  for ((i = 0; i < 1000; i++)); do printf '{"id": %d, "amount": %d.5}\n' "$i" $((i % 90)); done |
    "$sluice" topic send orders --namesrv 127.0.0.1:19876 --tag new
}

case "${1:-}" in
  start)
    shift
    for server in "$@"; do
      interop/peers start "$server" "$dir/$server"
      "fill_$server"
    done
    ;;
  stop)
    for server in kafka rocketmq rabbitmq artemis; do
      [ ! -f "$dir/$server/pids" ] || interop/peers stop "$dir/$server"
    done
    rm -rf "$dir"
    ;;
  *) sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
