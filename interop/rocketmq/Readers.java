import java.util.ArrayList;
import java.util.Collections;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.TreeMap;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.rocketmq.client.consumer.AckCallback;
import org.apache.rocketmq.client.consumer.AckResult;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.MessageSelector;
import org.apache.rocketmq.client.consumer.PopCallback;
import org.apache.rocketmq.client.consumer.PopResult;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.client.impl.MQClientAPIImpl;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.remoting.protocol.header.AckMessageRequestHeader;
import org.apache.rocketmq.remoting.protocol.header.ChangeInvisibleTimeRequestHeader;
import org.apache.rocketmq.remoting.protocol.header.ExtraInfoUtil;
import org.apache.rocketmq.remoting.protocol.header.PopMessageRequestHeader;

/** A group of a lane: what it sees, what of it fails how often, and its members, which come, leave and die. */
final class Readers {
    /** How long a pop holds a message, in ms. */
    static final long INVISIBLE = 4_000;
    final Differential.Lane lane;
    final String kind, name, filter;
    /** Whether it pops instead of pulls, and in the order of each queue. */
    final boolean pops, inOrder;
    /** How often a message comes again at most. */
    final int max;
    final List<Member> members = Collections.synchronizedList(new ArrayList<>());
    /** How often each was refused by a member that lived on, and what is over: consumed, or given up. */
    final Map<String, AtomicInteger> failures = new ConcurrentHashMap<>();
    final Map<String, String> popped = new ConcurrentHashMap<>();
    final Set<String> over = ConcurrentHashMap.newKeySet();

    Readers(Differential.Lane lane, String kind, Random random) {
        this.lane = lane;
        this.kind = kind;
        pops = kind.startsWith("pop");
        inOrder = kind.equals("pop-orderly");
        name = kind + lane.number;
        max = 1 + random.nextInt(2);
        int dice = random.nextInt(6);
        filter = dice < 4 ? "*" : dice == 4 || pops ? "A || C" : "n > 3 AND TAGS <> 'C'";
    }

    boolean wants(Differential.Sent s) {
        return filter.equals("*") || (filter.startsWith("n") ? s.n > 3 && !s.tag.equals("C") : !s.tag.equals("B"));
    }

    private Random of(String id) {
        return new Random(lane.seed ^ name.hashCode() * 31L ^ id.hashCode());
    }

    /** How often it refuses a message. */
    int fails(String id) {
        int dice = of(id).nextInt(100);
        if (pops) {
            // RocketMQ's broker has no dead letters of what is popped. In order, a queue waits for each that fails.
            return dice < (inOrder ? 90 : 75) ? 0 : how(id).equals("late") ? 2 : 1;
        }
        return dice < 75 ? 0 : dice < 93 ? 1 + dice % max : max + 1;
    }

    /** In which way it refuses it. */
    String how(String id) {
        Random random = of(id);
        random.nextInt(100);
        int dice = random.nextInt(6);
        if (pops) {
            return dice < 2 ? "silent" : dice < 4 ? "sooner" : "late";
        }
        return kind.equals("orderly") ? "suspended" : dice == 0 ? "as the broker says" : "after 1 s";
    }

    /** The members that come and go in a phase. */
    List<Callable<Void>> acts(int phase, Random random) {
        List<Callable<Void>> acts = new ArrayList<>();
        boolean more = random.nextInt(3) == 0, ends = random.nextInt(2) == 0;
        String how = random.nextBoolean() ? "close" : "cut";
        if (phase == 0 || more) {
            acts.add(this::start);
        }
        if (phase > 0 && ends) {
            acts.add(() -> {
                Member first = members.stream().filter(member -> !member.ended).findFirst().get();
                first.end(how);
                return null;
            });
            acts.add(() -> members.stream().allMatch(member -> member.ended) ? start() : null);
        }
        return acts;
    }

    Void start() throws Exception {
        Member member = new Member(members.size());
        members.add(member);
        Differential.tell("member", lane.number, name, member.number, "start", System.currentTimeMillis());
        member.start();
        return null;
    }

    /** Whether it has all that it is to have. */
    boolean isDone() {
        return lane.sent.values().stream().allMatch(s -> !s.visible || !wants(s) || over.contains(s.id));
    }

    /** Whether a message is refused now, which one more try may be told of. */
    private boolean refuses(String id, int times) {
        boolean fails = times < fails(id);
        if (!fails || times >= max && !pops) {
            over.add(id);
        }
        return fails;
    }

    private void came(int member, MessageExt m, long begun, String outcome) {
        Differential.tell("came", lane.number, name, member, Differential.body(m), m.getReconsumeTimes(), m.getQueueId(), begun, System.currentTimeMillis(), outcome);
    }

    /** A client that reads for the group. */
    final class Member {
        final int number;
        volatile boolean ended, dead;
        /** What it had in hand when it died. */
        final Set<String> held = ConcurrentHashMap.newKeySet();
        DefaultMQPushConsumer consumer;
        DefaultMQProducer client;
        Thread thread;

        Member(int number) {
            this.number = number;
        }

        void start() throws Exception {
            if (pops) {
                // Any client can ask the broker.
                client = Differential.started(new DefaultMQProducer("pops-" + name + "-" + number));
                thread = new Thread(this::pops);
                thread.start();
                return;
            }
            DefaultMQPushConsumer c = new DefaultMQPushConsumer(name);
            c.setNamesrvAddr(Differential.namesrv);
            c.setInstanceName(Differential.instance());
            c.setConsumeThreadMin(2);
            c.setConsumeThreadMax(2);
            c.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
            c.setMaxReconsumeTimes(max);
            c.setPollNameServerInterval(1_000);
            c.setHeartbeatBrokerInterval(1_000);
            c.setPersistConsumerOffsetInterval(1_000);
            c.setPullTimeDelayMillsWhenException(300);
            if (kind.equals("orderly")) {
                c.registerMessageListener((MessageListenerOrderly) (messages, context) -> {
                    context.setSuspendCurrentQueueTimeMillis(100);
                    return messages.stream().anyMatch(this::failsOn) ? ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT : ConsumeOrderlyStatus.SUCCESS;
                });
            } else {
                c.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
                    MessageExt first = messages.get(0);
                    boolean longer = first.getReconsumeTimes() == 0 && how(Differential.body(first)).equals("as the broker says");
                    context.setDelayLevelWhenNextConsume(longer ? 0 : 1);
                    return messages.stream().anyMatch(this::failsOn) ? ConsumeConcurrentlyStatus.RECONSUME_LATER : ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
                });
            }
            if (filter.startsWith("n")) {
                c.subscribe(lane.topic, MessageSelector.bySql(filter));
            } else {
                c.subscribe(lane.topic, filter);
            }
            consumer = c;
            c.start();
        }

        private boolean failsOn(MessageExt m) {
            if (dead) {
                if (held.add(Differential.body(m))) {
                    Differential.tell("held", lane.number, name, Differential.body(m));
                }
                return true;
            }
            long begun = System.currentTimeMillis();
            try {
                Thread.sleep(Differential.work);
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
            }
            boolean fails = refuses(Differential.body(m), m.getReconsumeTimes());
            came(number, m, begun, fails ? "failed" : "consumed");
            return fails;
        }

        /** Leaves in order, or as one does that is killed: its connections end and nothing comes of it any more. */
        void end(String how) throws Exception {
            if (ended) {
                return;
            }
            ended = true;
            Differential.tell("member", lane.number, name, number, how, System.currentTimeMillis());
            dead = how.equals("cut");
            if (pops) {
                if (!dead) {
                    thread.join(20_000);
                    client.shutdown();
                }
            } else if (dead) {
                consumer.getDefaultMQPushConsumerImpl().getmQClientFactory().getMQClientAPIImpl().getRemotingClient().shutdown();
            } else {
                consumer.shutdown();
            }
            Differential.tell("member", lane.number, name, number, "ended", System.currentTimeMillis());
        }

        private void pops() {
            while (!ended || dead) {
                try {
                    List<MessageExt> got = pop().getMsgFoundList();
                    if (got == null) {
                        continue;
                    }
                    if (dead) {
                        // It dies with these in hand.
                        got.forEach(m -> came(number, m, System.currentTimeMillis(), "dropped"));
                        client.shutdown();
                        return;
                    }
                    Set<Integer> stopped = new HashSet<>();
                    for (MessageExt m : got) {
                        // What stands behind one that failed comes again with it.
                        if (!stopped.contains(m.getQueueId()) && !answer(m) && inOrder) {
                            stopped.add(m.getQueueId());
                        }
                    }
                } catch (Exception e) {
                    // The broker is on its way down or up.
                    try {
                        Thread.sleep(200);
                    } catch (InterruptedException interrupted) {
                        return;
                    }
                }
            }
        }

        private MQClientAPIImpl api() {
            return client.getDefaultMQProducerImpl().getMqClientFactory().getMQClientAPIImpl();
        }

        private PopResult pop() throws Exception {
            PopMessageRequestHeader header = new PopMessageRequestHeader();
            header.setConsumerGroup(name);
            header.setTopic(lane.topic);
            header.setQueueId(-1);
            header.setMaxMsgNums(4);
            header.setInvisibleTime(INVISIBLE);
            header.setPollTime(1_000);
            header.setBornTime(System.currentTimeMillis());
            header.setInitMode(0);
            header.setExpType("TAG");
            header.setExp(filter);
            header.setOrder(inOrder);
            CompletableFuture<PopResult> done = new CompletableFuture<>();
            api().popMessageAsync(Differential.broker, Differential.brokerAddr, header, 5_000, new PopCallback() {
                @Override
                public void onSuccess(PopResult result) {
                    done.complete(result);
                }

                @Override
                public void onException(Throwable e) {
                    done.completeExceptionally(e);
                }
            });
            return done.get(10, TimeUnit.SECONDS);
        }

        /** Tells the broker what becomes of a message; gives whether it is consumed. */
        private boolean answer(MessageExt m) throws Exception {
            String id = Differential.body(m), info = m.getProperty("POP_CK");
            long begun = System.currentTimeMillis();
            AtomicInteger failed = failures.computeIfAbsent(id, key -> new AtomicInteger());
            boolean fails = failed.get() < fails(id);
            String before = popped.put(id, info);
            if (!fails) {
                came(number, m, begun, "consumed");
                ack(info);
                over.add(id);
                return true;
            }
            int time = failed.incrementAndGet();
            came(number, m, begun, "failed");
            if (how(id).equals("sooner")) {
                change(info, 1_000);
            } else if (how(id).equals("late") && time == 2) {
                // The first lease is over: it must not end the second.
                ack(before);
            }
            return false;
        }

        private void ack(String info) throws Exception {
            String[] parts = ExtraInfoUtil.split(info);
            AckMessageRequestHeader header = new AckMessageRequestHeader();
            header.setConsumerGroup(name);
            header.setTopic(ExtraInfoUtil.getRealTopic(parts, lane.topic, name));
            header.setQueueId(ExtraInfoUtil.getQueueId(parts));
            header.setOffset(ExtraInfoUtil.getQueueOffset(parts));
            header.setExtraInfo(info);
            Acked acked = new Acked();
            api().ackMessageAsync(Differential.brokerAddr, 5_000, acked, header);
            acked.done.get(10, TimeUnit.SECONDS);
        }

        private void change(String info, long invisible) throws Exception {
            String[] parts = ExtraInfoUtil.split(info);
            ChangeInvisibleTimeRequestHeader header = new ChangeInvisibleTimeRequestHeader();
            header.setConsumerGroup(name);
            header.setTopic(ExtraInfoUtil.getRealTopic(parts, lane.topic, name));
            header.setQueueId(ExtraInfoUtil.getQueueId(parts));
            header.setOffset(ExtraInfoUtil.getQueueOffset(parts));
            header.setExtraInfo(info);
            header.setInvisibleTime(invisible);
            Acked acked = new Acked();
            api().changeInvisibleTimeAsync(Differential.broker, Differential.brokerAddr, header, 5_000, acked);
            acked.done.get(10, TimeUnit.SECONDS);
        }
    }

    private static final class Acked implements AckCallback {
        final CompletableFuture<AckResult> done = new CompletableFuture<>();

        @Override
        public void onSuccess(AckResult result) {
            done.complete(result);
        }

        @Override
        public void onException(Throwable e) {
            done.completeExceptionally(e);
        }
    }

    /** All members leave. */
    void end() throws Exception {
        for (Member member : List.copyOf(members)) {
            member.end("close");
        }
    }

    /** How many messages are not consumed, as its offsets say; waits for none. */
    Map<String, Long> lag() throws Exception {
        Map<String, Long> lag = new TreeMap<>();
        Differential.until(20_000, () -> {
            for (String topic : pops ? List.of(lane.topic) : List.of(lane.topic, "%RETRY%" + name)) {
                try {
                    lag.put(topic.equals(lane.topic) ? "topic" : "retry topic", Differential.admin.examineConsumeStats(name, topic).computeTotalDiff());
                } catch (Exception e) {
                    return false;
                }
            }
            return lag.values().stream().allMatch(count -> count == 0);
        });
        return lag;
    }

    /** Its dead letters, and how far it is. */
    void conclude() throws Exception {
        for (MessageExt m : Differential.read("%DLQ%" + name)) {
            Set<String> names = new java.util.TreeSet<>(m.getProperties().keySet());
            Differential.tell("dead", lane.number, name, Differential.body(m), m.getReconsumeTimes(), String.join(" ", names));
        }
        Map<String, Long> lag = lag();
        lag.forEach((topic, count) -> Differential.tell("lag", lane.number, name, topic, count));
    }
}
