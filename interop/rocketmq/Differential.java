import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.TreeSet;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.Collectors;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.TransactionListener;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.common.TopicConfig;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;
import org.apache.rocketmq.tools.admin.DefaultMQAdminExt;

/**
 * A random schedule, driven by RocketMQ's own client: {@code Differential NAMESRV SEED LANES WORK}. What is done hangs on the
 * seed alone and never on what a broker does. A lane is a topic with groups that read it in their ways ({@link Readers});
 * lanes go side by side through the phases of the schedule, and between two phases the broker is restarted: the program
 * prints RESTART and how, and goes on when a line comes in.
 *
 * <p>Prints what was seen, an event a line, its fields separated by tabs; times are ms since 1970-01-01 UTC:
 *
 * <pre>
 * lane     LANE QUEUES
 * group    LANE GROUP KIND MAX FILTER
 * plan     LANE GROUP MESSAGE FAILS HOW              each that the group is to see
 * sent     LANE MESSAGE KIND RESULT QUEUE DUE        DUE is 0 if it is to be seen at once
 * checked  LANE MESSAGE STATE
 * member   LANE GROUP NUMBER start|close|cut TIME
 * came     LANE GROUP NUMBER MESSAGE TIMES QUEUE BEGIN END OUTCOME
 * held     LANE GROUP MESSAGE                        what a member had in hand as it died; it may have sent it back
 * restart  HOW BEGIN READY
 * stored   LANE QUEUE OFFSET MESSAGE TIME            all that the topic holds in the end
 * dead     LANE GROUP MESSAGE TIMES PROPERTIES
 * lag      LANE GROUP TOPIC COUNT
 * key      LANE KEY MESSAGES
 * id       LANE MESSAGE FOUND
 * straddle ACKNOWLEDGED LOST                         sends while the broker was restarted
 * </pre>
 */
public final class Differential {
    static final int PHASES = 3;
    /** How long the end is waited for, in ms. */
    static final long SETTLE_MAX = 90_000;
    /** How long a consumer takes for a message, in ms. */
    static long work;
    static final PrintStream out = System.out;
    static final AtomicInteger instances = new AtomicInteger();
    static String namesrv, broker, brokerAddr;
    static DefaultMQAdminExt admin;

    public static void main(String[] args) throws Exception {
        namesrv = args[0];
        long seed = Long.parseLong(args[1]);
        int count = Integer.parseInt(args[2]);
        work = Long.parseLong(args[3]);
        System.setProperty("rocketmq.namesrv.addr", namesrv);
        Random random = new Random(seed);
        List<String> restarts = new ArrayList<>();
        for (int i = 1; i < PHASES; i++) {
            restarts.add(List.of("kill", "kill", "stop", "none").get(random.nextInt(4)));
        }
        Straddle straddle = new Straddle();
        List<Lane> lanes = new ArrayList<>();
        for (int i = 0; i < count; i++) {
            lanes.add(new Lane(i, new Random(seed * 1_000 + i)));
        }
        ExecutorService pool = Executors.newCachedThreadPool();
        all(pool, lanes, Lane::begin);
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        for (int i = 0; i < PHASES; i++) {
            int phase = i;
            all(pool, lanes, lane -> lane.phase(phase));
            if (i + 1 == PHASES) {
                break;
            }
            // What is sent one-way is on its way.
            Thread.sleep(300 + random.nextInt(1_200));
            if (!restarts.get(i).equals("none")) {
                long begun = System.currentTimeMillis();
                straddle.start();
                out.println("RESTART\t" + restarts.get(i));
                out.flush();
                in.readLine();
                straddle.untilSent();
                straddle.end();
                all(pool, lanes, Lane::awaitBroker);
                tell("restart", restarts.get(i), begun, System.currentTimeMillis());
            }
        }
        all(pool, lanes, Lane::settle);
        all(pool, lanes, Lane::conclude);
        straddle.conclude();
        out.flush();
        System.exit(0);
    }

    interface Act {
        void run(Lane lane) throws Exception;
    }

    /** Does it in all lanes side by side. */
    static void all(ExecutorService pool, List<Lane> lanes, Act act) throws Exception {
        List<Future<?>> done = lanes.stream().map(lane -> pool.submit(() -> {
            act.run(lane);
            return null;
        })).collect(Collectors.toList());
        for (Future<?> one : done) {
            one.get(SETTLE_MAX * 2, TimeUnit.MILLISECONDS);
        }
    }

    static synchronized void tell(Object... fields) {
        StringBuilder line = new StringBuilder();
        for (Object field : fields) {
            line.append(line.length() == 0 ? "" : "\t").append(field);
        }
        out.println(line);
    }

    static boolean until(long millis, Callable<Boolean> condition) throws Exception {
        for (long end = System.nanoTime() + millis * 1_000_000; System.nanoTime() < end; Thread.sleep(20)) {
            if (condition.call()) {
                return true;
            }
        }
        return condition.call();
    }

    static String instance() {
        return "i" + instances.incrementAndGet() + "-" + ProcessHandle.current().pid();
    }

    static String body(Message m) {
        return new String(m.getBody(), StandardCharsets.UTF_8);
    }

    /** The kind of an error and its code, never its text. */
    static String problem(Throwable e) {
        for (Throwable t = e; t != null; t = t.getCause()) {
            if (t instanceof MQBrokerException) {
                return "MQBrokerException " + ((MQBrokerException) t).getResponseCode();
            }
            if (t instanceof MQClientException && ((MQClientException) t).getResponseCode() > 0) {
                return "MQClientException " + ((MQClientException) t).getResponseCode();
            }
        }
        return e.getClass().getSimpleName();
    }

    static <P extends DefaultMQProducer> P started(P p) throws MQClientException {
        p.setNamesrvAddr(namesrv);
        p.setInstanceName(instance());
        p.setSendMsgTimeout(5_000);
        p.setPollNameServerInterval(1_000);
        p.setHeartbeatBrokerInterval(1_000);
        p.start();
        return p;
    }

    /** Sends until one comes through. */
    static void awaitSend(DefaultMQProducer p, String topic) throws Exception {
        SendResult[] sent = new SendResult[1];
        boolean came = until(60_000, () -> {
            try {
                sent[0] = p.send(new Message(topic, "warm".getBytes()));
                return true;
            } catch (Exception e) {
                return false;
            }
        });
        if (!came) {
            throw new IllegalStateException("no broker takes a message to " + topic);
        }
        broker = sent[0].getMessageQueue().getBrokerName();
    }

    static void connect() throws Exception {
        admin = new DefaultMQAdminExt(10_000);
        admin.setNamesrvAddr(namesrv);
        admin.setInstanceName(instance());
        admin.start();
        brokerAddr = admin.examineBrokerClusterInfo().getBrokerAddrTable().get(broker).getBrokerAddrs().get(0L);
    }

    static void makeTopic(String name, int queues) throws Exception {
        TopicConfig config = new TopicConfig(name);
        config.setReadQueueNums(queues);
        config.setWriteQueueNums(queues);
        admin.createAndUpdateTopicConfig(brokerAddr, config);
    }

    /** All that a topic holds, by queue; nothing if there is no such topic. */
    static List<MessageExt> read(String topic) throws Exception {
        DefaultMQPullConsumer c = new DefaultMQPullConsumer("reader-" + instance());
        c.setNamesrvAddr(namesrv);
        c.setInstanceName(instance());
        c.start();
        List<MessageExt> all = new ArrayList<>();
        try {
            for (MessageQueue q : new TreeSet<>(c.fetchSubscribeMessageQueues(topic))) {
                long end = c.maxOffset(q);
                for (long next = c.minOffset(q); next < end;) {
                    PullResult r = c.pull(q, "*", next, 32);
                    if (r.getMsgFoundList() != null) {
                        all.addAll(r.getMsgFoundList());
                    }
                    next = Math.max(r.getNextBeginOffset(), next + 1);
                }
            }
        } catch (MQClientException e) {
            // There is no such topic.
        } finally {
            c.shutdown();
        }
        return all;
    }

    /** Sends one after the other while the broker is restarted: what it acknowledged is there in the end. */
    static final class Straddle {
        final DefaultMQProducer producer = started(new DefaultMQProducer("p-straddle"));
        final List<String> acknowledged = new ArrayList<>();
        final AtomicInteger number = new AtomicInteger();
        volatile boolean goesOn;
        Thread thread;

        Straddle() throws Exception {
            awaitSend(producer, "warm");
            connect();
            makeTopic("straddle", 1);
            awaitSend(producer, "straddle");
        }

        void start() throws Exception {
            goesOn = true;
            thread = new Thread(() -> {
                while (goesOn) {
                    String text = "x" + number.incrementAndGet();
                    try {
                        producer.send(new Message("straddle", text.getBytes()), new MessageQueue("straddle", broker, 0), 1_000);
                        synchronized (acknowledged) {
                            acknowledged.add(text);
                        }
                        Thread.sleep(2);
                    } catch (Exception e) {
                        // The broker is on its way down or up.
                    }
                }
            });
            thread.start();
            Thread.sleep(200);
        }

        void untilSent() throws Exception {
            int before;
            synchronized (acknowledged) {
                before = acknowledged.size();
            }
            until(60_000, () -> {
                synchronized (acknowledged) {
                    return acknowledged.size() > before;
                }
            });
        }

        void end() throws Exception {
            goesOn = false;
            thread.join();
        }

        void conclude() throws Exception {
            TreeSet<String> there = read("straddle").stream().map(Differential::body).collect(Collectors.toCollection(TreeSet::new));
            tell("straddle", acknowledged.size(), acknowledged.stream().filter(text -> !there.contains(text)).count());
        }
    }

    /** A message of the schedule. */
    static final class Sent {
        final String id, kind, tag, key;
        final int n;
        /** When it is due, or 0; whether consumers are to see it. */
        volatile long due;
        volatile boolean visible, certain = true;
        /** What the producer says when it is asked, each time. */
        List<LocalTransactionState> answers = List.of();
        final AtomicInteger asked = new AtomicInteger();

        Sent(String id, String kind, String tag, String key, int n) {
            this.id = id;
            this.kind = kind;
            this.tag = tag;
            this.key = key;
            this.n = n;
        }
    }

    /** A topic, those who read it, and what is sent to it. */
    static final class Lane {
        final int number, queues;
        final String topic;
        final Random random;
        final Map<String, Sent> sent = new ConcurrentHashMap<>();
        final List<Readers> groups = new ArrayList<>();
        final Map<Integer, List<List<Callable<Void>>>> members = new HashMap<>();
        final long seed;
        TransactionMQProducer producer;
        int next;

        Lane(int number, Random random) {
            this.number = number;
            this.random = random;
            seed = random.nextLong();
            queues = 1 + random.nextInt(4);
            topic = "t" + number;
            List<String> kinds = new ArrayList<>(List.of("concurrent", "orderly", "pop", "pop-orderly"));
            Collections.shuffle(kinds, random);
            for (String kind : kinds.subList(0, 2 + random.nextInt(3))) {
                groups.add(new Readers(this, kind, random));
            }
        }

        void begin() throws Exception {
            tell("lane", number, queues);
            makeTopic(topic, queues);
            producer = new TransactionMQProducer("p" + number);
            producer.setTransactionListener(new TransactionListener() {
                @Override
                public LocalTransactionState executeLocalTransaction(Message m, Object arg) {
                    return (LocalTransactionState) arg;
                }

                @Override
                public LocalTransactionState checkLocalTransaction(MessageExt m) {
                    return answer(m);
                }
            });
            started(producer);
            awaitBroker();
            for (Readers group : groups) {
                tell("group", number, group.name, group.kind, group.max, group.filter);
            }
        }

        void awaitBroker() throws Exception {
            awaitSend(producer, "warm");
            until(30_000, () -> {
                try {
                    return producer.fetchPublishMessageQueues(topic).size() == queues;
                } catch (MQClientException e) {
                    return false;
                }
            });
        }

        LocalTransactionState answer(MessageExt m) {
            Sent s = sent.get(body(m));
            if (s == null) {
                return LocalTransactionState.UNKNOW;
            }
            int time = s.asked.getAndIncrement();
            LocalTransactionState state = s.answers.isEmpty() ? LocalTransactionState.UNKNOW : s.answers.get(Math.min(time, s.answers.size() - 1));
            tell("checked", number, s.id, state);
            if (state != LocalTransactionState.UNKNOW) {
                s.visible = state == LocalTransactionState.COMMIT_MESSAGE;
                s.certain = true;
            }
            return state;
        }

        /** Sends and pauses; members of groups come and go between them. */
        void phase(int phase) throws Exception {
            List<Callable<Void>> acts = new ArrayList<>();
            int count = 8 + random.nextInt(8);
            for (int i = 0; i < count; i++) {
                acts.add(() -> {
                    sendOne();
                    return null;
                });
                if (random.nextInt(4) == 0) {
                    int pause = random.nextInt(300);
                    acts.add(() -> {
                        Thread.sleep(pause);
                        return null;
                    });
                }
            }
            for (Readers group : groups) {
                int at = random.nextInt(phase == 0 ? 4 : acts.size());
                for (Callable<Void> act : group.acts(phase, random)) {
                    acts.add(Math.min(at++, acts.size()), act);
                }
            }
            // Random numbers of sends are drawn one after the other, whatever members do.
            for (Callable<Void> act : acts) {
                act.call();
            }
        }

        void sendOne() throws Exception {
            int dice = random.nextInt(100);
            String tag = List.of("A", "B", "C").get(random.nextInt(3));
            int n = random.nextInt(10), queue = random.nextInt(queues), key = random.nextInt(3), delay = 300 + random.nextInt(4_700);
            if (dice < 8) {
                List<Message> batch = new ArrayList<>();
                for (int i = 0; i < 3; i++) {
                    batch.add(message(plan("batch", tag, key, n), true));
                }
                String result = tried(() -> producer.send(batch, queue(queue)).getSendStatus().name());
                batch.forEach(m -> told(body(m), result, queue));
            } else if (dice < 20) {
                Sent s = plan("plain", tag, key, n);
                told(s.id, tried(() -> {
                    CompletableFuture<String> done = new CompletableFuture<>();
                    producer.send(message(s, true), queue(queue), new SendCallback() {
                        @Override
                        public void onSuccess(SendResult result) {
                            done.complete(result.getSendStatus().name());
                        }

                        @Override
                        public void onException(Throwable e) {
                            done.complete(problem(e));
                        }
                    });
                    return done.get(20, TimeUnit.SECONDS);
                }), queue);
            } else if (dice < 28) {
                Sent s = plan("oneway", tag, key, n);
                told(s.id, tried(() -> {
                    producer.sendOneway(message(s, true), queue(queue));
                    return "one-way";
                }), queue);
                // The next one comes behind it.
                Thread.sleep(30);
            } else if (dice < 48) {
                // All of a key go to one queue.
                Sent s = plan("ordered", tag, key, n);
                told(s.id, tried(() -> producer.send(message(s, true), (all, m, arg) -> all.get((Integer) arg % all.size()), key).getSendStatus().name()), key % queues);
            } else if (dice < 60) {
                int level = 1 + random.nextInt(2);
                Sent s = plan("level", tag, key, n);
                Message m = message(s, true);
                m.setDelayTimeLevel(level);
                s.due = System.currentTimeMillis() + (level == 1 ? 1_000 : 5_000);
                told(s.id, tried(() -> producer.send(m, queue(queue)).getSendStatus().name()), queue);
            } else if (dice < 74) {
                boolean until = random.nextBoolean(), recalled = random.nextInt(4) == 0;
                Sent s = plan(recalled ? "recalled" : "time", tag, key, n);
                Message m = message(s, !recalled);
                // One that is taken back must not be due before.
                int wait = recalled ? 5_000 : delay;
                s.due = System.currentTimeMillis() + wait;
                if (until) {
                    m.setDeliverTimeMs(s.due);
                } else {
                    m.setDelayTimeMs(wait);
                }
                told(s.id, tried(() -> {
                    SendResult result = producer.send(m, queue(queue));
                    return result.getSendStatus() + (recalled ? ", taken back " + result.getMsgId().equals(producer.recallMessage(topic, result.getRecallHandle())) : "");
                }), queue);
            } else {
                LocalTransactionState commit = LocalTransactionState.COMMIT_MESSAGE, rollback = LocalTransactionState.ROLLBACK_MESSAGE, unknown = LocalTransactionState.UNKNOW;
                int how = random.nextInt(6);
                Sent s = plan("transaction " + List.of("commit", "rollback", "asked: commit", "asked: rollback", "asked twice: commit", "commit").get(how), tag, key, n);
                s.visible = how == 0 || how == 5;
                s.certain = s.visible || how == 1;
                s.answers = List.of(List.<LocalTransactionState>of(), List.<LocalTransactionState>of(), List.of(commit), List.of(rollback), List.of(unknown, commit), List.<LocalTransactionState>of()).get(how);
                Message m = message(s, s.visible);
                told(s.id, tried(() -> producer.sendMessageInTransaction(m, s.visible ? commit : how == 1 ? rollback : unknown).getSendStatus().name()), -1);
            }
        }

        Sent plan(String kind, String tag, int key, int n) {
            Sent s = new Sent("m" + number + "-" + next++, kind, tag, "s" + key, n);
            sent.put(s.id, s);
            return s;
        }

        Message message(Sent s, boolean visible) {
            Message m = new Message(topic, s.tag, s.id.getBytes(StandardCharsets.UTF_8));
            m.setKeys(List.of("k" + s.id, s.key));
            m.putUserProperty("n", "" + s.n);
            s.visible = visible;
            for (Readers group : groups) {
                if (group.wants(s)) {
                    tell("plan", number, group.name, s.id, group.fails(s.id), group.how(s.id));
                }
            }
            return m;
        }

        String tried(Callable<String> send) {
            try {
                return send.call();
            } catch (Exception e) {
                return problem(e);
            }
        }

        void told(String id, String result, int queue) {
            Sent s = sent.get(id);
            tell("sent", number, id, s.kind, result, queue, s.due);
        }

        MessageQueue queue(int id) {
            return new MessageQueue(topic, broker, id);
        }

        /** Waits until all have what they are to have, and then for what should not come. */
        void settle() throws Exception {
            long begun = System.currentTimeMillis();
            until(SETTLE_MAX, () -> {
                boolean due = sent.values().stream().allMatch(s -> s.certain && System.currentTimeMillis() > s.due + 1_500);
                return due && groups.stream().allMatch(Readers::isDone);
            });
            tell("settled", number, System.currentTimeMillis() - begun);
            Thread.sleep(1_000);
            // A member that leaves sooner has not committed that it is past what it does not want.
            for (Readers group : groups) {
                group.lag();
            }
        }

        /** What is left: offsets, dead letters, what is found by key and id. */
        void conclude() throws Exception {
            for (Readers group : groups) {
                group.end();
            }
            for (MessageExt m : read(topic)) {
                tell("stored", number, m.getQueueId(), m.getQueueOffset(), body(m), m.getStoreTimestamp());
            }
            for (Readers group : groups) {
                group.conclude();
            }
            long now = System.currentTimeMillis();
            Map<String, TreeSet<String>> keys = new LinkedHashMap<>();
            for (int i = 0; i < 3; i++) {
                String key = "s" + i;
                keys.put(key, sent.values().stream().filter(s -> s.visible && s.key.equals(key)).map(s -> s.id).collect(Collectors.toCollection(TreeSet::new)));
            }
            for (Map.Entry<String, TreeSet<String>> entry : keys.entrySet()) {
                TreeSet<String> found = new TreeSet<>();
                until(10_000, () -> {
                    found.clear();
                    try {
                        admin.queryMessage(topic, entry.getKey(), 64, now - 600_000, now + 600_000).getMessageList().forEach(m -> found.add(body(m)));
                    } catch (MQClientException e) {
                        // Nothing was found.
                    }
                    return found.containsAll(entry.getValue());
                });
                tell("key", number, entry.getKey(), String.join(" ", found));
            }
            producer.shutdown();
        }
    }
}
