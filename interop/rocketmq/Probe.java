import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.text.SimpleDateFormat;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.Collections;
import java.util.Date;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;
import java.util.function.Predicate;
import java.util.stream.Collectors;
import org.apache.commons.cli.CommandLine;
import org.apache.commons.cli.Options;
import org.apache.commons.cli.PosixParser;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.MessageSelector;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.RequestCallback;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.TransactionListener;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.client.utils.MessageUtil;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageAccessor;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;
import org.apache.rocketmq.srvutil.ServerUtil;
import org.apache.rocketmq.tools.admin.DefaultMQAdminExt;
import org.apache.rocketmq.tools.command.SubCommand;

/**
 * What RocketMQ's own Java client sees: {@code Probe NAMESRV PREFIX [CAPABILITY...]} prints one line a capability,
 * its name, a tab and what was observed, with nothing in it that changes from run to run. The same source compiles
 * against 4.9 and 5.x. Topics and groups begin with PREFIX. What went wrong, in full, goes to stderr.
 */
public final class Probe {
    static String namesrv, prefix, broker, cluster, brokerAddr;
    static DefaultMQProducer sender;
    static DefaultMQAdminExt admin;
    static final PrintStream out = System.out;
    static final AtomicInteger instances = new AtomicInteger();
    static final Map<String, Case> cases = new LinkedHashMap<>();

    interface Case {
        void run(Run run) throws Exception;
    }

    interface Act {
        void run() throws Exception;
    }

    /** One capability's run: its topic and group, what it saw, and the clients to shut down after it. */
    static final class Run {
        final String name, topic, group;
        final List<String> seen = new ArrayList<>();
        final List<Runnable> closers = new ArrayList<>();

        Run(String name) {
            this.name = name;
            topic = prefix + name;
            group = prefix + "g-" + name;
        }

        void saw(String text) {
            seen.add(text);
        }

        void saw(String what, Object value) {
            seen.add(what + "=" + value);
        }

        /** Records what the act fails with, or that it did not fail. */
        void fails(String what, Act act) {
            try {
                act.run();
                saw(what, "no error");
            } catch (Exception e) {
                saw(what, problem(e));
            }
        }

        DefaultMQProducer producer() throws Exception {
            DefaultMQProducer p = new DefaultMQProducer(group + "-p");
            p.setNamesrvAddr(namesrv);
            p.setInstanceName(instance());
            p.setMaxMessageSize(16 << 20);
            p.setSendMsgTimeout(10_000);
            closers.add(p::shutdown);
            return p;
        }

        DefaultMQPullConsumer pull() throws Exception {
            DefaultMQPullConsumer c = new DefaultMQPullConsumer(group);
            c.setNamesrvAddr(namesrv);
            c.setInstanceName(instance());
            closers.add(c::shutdown);
            return c;
        }

        DefaultLitePullConsumer lite() throws Exception {
            DefaultLitePullConsumer c = new DefaultLitePullConsumer(group);
            c.setNamesrvAddr(namesrv);
            c.setInstanceName(instance());
            c.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
            closers.add(c::shutdown);
            return c;
        }

        DefaultMQPushConsumer push(String group, Sink sink) throws Exception {
            DefaultMQPushConsumer c = new DefaultMQPushConsumer(group);
            c.setNamesrvAddr(namesrv);
            c.setInstanceName(instance());
            c.setConsumeThreadMin(2);
            c.setConsumeThreadMax(2);
            c.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
            // A rebalance makes the subscription's version newer; 5.x gives its heartbeat up while another is under way, and
            // every broker then refuses its pulls ("not latest") until the next one, by default 30 s later.
            c.setHeartbeatBrokerInterval(1_000);
            if (sink != null) {
                c.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
                    messages.forEach(sink::add);
                    return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
                });
            }
            closers.add(c::shutdown);
            return c;
        }
    }

    /** What a listener was given, with the time it came. */
    static final class Sink {
        final ConcurrentLinkedQueue<MessageExt> got = new ConcurrentLinkedQueue<>();
        volatile long last;

        void add(MessageExt message) {
            last = System.nanoTime();
            got.add(message);
        }

        /** Waits for this many, then a little for what should not come. */
        Sink await(int count) throws Exception {
            until(30_000, () -> got.size() >= count);
            Thread.sleep(400);
            return this;
        }

        List<MessageExt> drain() {
            List<MessageExt> all = new ArrayList<>();
            for (MessageExt m; (m = got.poll()) != null;) {
                all.add(m);
            }
            return all;
        }
    }

    public static void main(String[] args) throws Exception {
        namesrv = args[0];
        prefix = args[1];
        System.setProperty("rocketmq.namesrv.addr", namesrv);
        define();
        List<String> wanted = args.length > 2 ? Arrays.asList(args).subList(2, args.length) : new ArrayList<>(cases.keySet());
        if (wanted.equals(List.of("list"))) {
            cases.keySet().forEach(out::println);
            return;
        }
        boot();
        ExecutorService pool = Executors.newFixedThreadPool(6);
        Map<String, Future<String>> results = new LinkedHashMap<>();
        for (String name : wanted) {
            results.put(name, pool.submit(() -> observe(name)));
        }
        for (Map.Entry<String, Future<String>> result : results.entrySet()) {
            String seen;
            try {
                seen = result.getValue().get(90, TimeUnit.SECONDS);
            } catch (TimeoutException e) {
                seen = "no end within 90 s";
            }
            out.println(result.getKey() + "\t" + seen);
            out.flush();
        }
        System.exit(0);
    }

    /** Makes the shared clients and learns the broker's names, from the first message sent. */
    static void boot() throws Exception {
        sender = new DefaultMQProducer(prefix + "sender");
        sender.setNamesrvAddr(namesrv);
        sender.setInstanceName(instance());
        sender.setSendMsgTimeout(10_000);
        sender.start();
        admin = new DefaultMQAdminExt(10_000);
        admin.setNamesrvAddr(namesrv);
        admin.setInstanceName(instance());
        admin.start();
        SendResult first = null;
        for (int i = 0; first == null; i++) {
            try {
                first = sender.send(new Message(prefix + "boot", "boot".getBytes()));
            } catch (Exception e) {
                if (i == 20) {
                    throw e;
                }
                Thread.sleep(500);
            }
        }
        broker = first.getMessageQueue().getBrokerName();
        awaitRoute(prefix + "boot");
        var data = admin.examineTopicRouteInfo(prefix + "boot").getBrokerDatas().get(0);
        cluster = data.getCluster();
        brokerAddr = data.getBrokerAddrs().get(0L);
    }

    static String observe(String name) {
        Run run = new Run(name);
        try {
            Case it = cases.get(name);
            if (it == null) {
                return "no such capability";
            }
            it.run(run);
        } catch (Throwable e) {
            System.err.println("== " + name);
            e.printStackTrace();
            run.saw("FAILED " + problem(e));
        }
        Collections.reverse(run.closers);
        for (Runnable closer : run.closers) {
            try {
                closer.run();
            } catch (Throwable e) {
                System.err.println("== " + name + ", on shutdown");
                e.printStackTrace();
            }
        }
        return canonical(String.join("; ", run.seen));
    }

    static String canonical(String text) {
        return text.replace(prefix, "").replace(brokerAddr, "<addr>").replace(broker, "<broker>").replace(cluster, "<cluster>")
            .replaceAll("\\s+", " ").trim();
    }

    /** The kind of an error and the code that the client gives, never its text. */
    static String problem(Throwable e) {
        for (Throwable t = e; t != null; t = t.getCause()) {
            if (t instanceof MQBrokerException) {
                return "MQBrokerException " + ((MQBrokerException) t).getResponseCode();
            }
            if (t instanceof MQClientException && ((MQClientException) t).getResponseCode() > 0) {
                return "MQClientException " + ((MQClientException) t).getResponseCode();
            }
        }
        Throwable root = e;
        while (root.getCause() != null) {
            root = root.getCause();
        }
        return root.getClass().getSimpleName();
    }

    static String instance() {
        return "i" + instances.incrementAndGet() + "-" + ProcessHandle.current().pid();
    }

    static boolean until(long millis, Callable<Boolean> condition) throws Exception {
        for (long end = System.nanoTime() + millis * 1_000_000; System.nanoTime() < end; Thread.sleep(20)) {
            if (condition.call()) {
                return true;
            }
        }
        return condition.call();
    }

    static void awaitRoute(String topic) throws Exception {
        until(10_000, () -> {
            try {
                return !admin.examineTopicRouteInfo(topic).getQueueDatas().isEmpty();
            } catch (MQClientException e) {
                return false;
            }
        });
    }

    static MessageQueue queue(String topic, int id) {
        return new MessageQueue(topic, broker, id);
    }

    static Message message(String topic, String tag, String body) {
        return new Message(topic, tag, body.getBytes(StandardCharsets.UTF_8));
    }

    /** Sends bodies m0.. to the four queues in turn, tagged by the list in turn; the topic is made by the first. */
    static void fill(String topic, int from, int count, String... tags) throws Exception {
        for (int i = from; i < from + count; i++) {
            Message m = message(topic, tags.length == 0 ? "" : tags[i % tags.length], "m" + i);
            m.putUserProperty("n", "" + i);
            m.putUserProperty("even", i % 2 == 0 ? "yes" : "no");
            sender.send(m, queue(topic, i % 4));
        }
        awaitRoute(topic);
    }

    static String bodies(Collection<MessageExt> messages) {
        return messages.stream().map(m -> new String(m.getBody(), StandardCharsets.UTF_8)).sorted((a, b) -> a.length() != b.length() ? a.length() - b.length() : a.compareTo(b))
            .collect(Collectors.joining(","));
    }

    /** The offsets of each queue in the order they came. */
    static String offsets(Collection<MessageExt> messages) {
        TreeMap<Integer, List<Long>> by = new TreeMap<>();
        messages.forEach(m -> by.computeIfAbsent(m.getQueueId(), q -> new ArrayList<>()).add(m.getQueueOffset()));
        return by.toString();
    }

    static String offsetsSorted(Collection<MessageExt> messages) {
        TreeMap<Integer, TreeSet<Long>> by = new TreeMap<>();
        messages.forEach(m -> by.computeIfAbsent(m.getQueueId(), q -> new TreeSet<>()).add(m.getQueueOffset()));
        return by.toString();
    }

    static String pulled(PullResult r) {
        return r.getPullStatus() + " next=" + r.getNextBeginOffset() + " min=" + r.getMinOffset() + " max=" + r.getMaxOffset() + " bodies=["
            + (r.getMsgFoundList() == null ? "" : r.getMsgFoundList().stream().map(m -> new String(m.getBody())).collect(Collectors.joining(","))) + "]";
    }

    static List<MessageExt> poll(DefaultLitePullConsumer lite, int count) throws Exception {
        List<MessageExt> got = new ArrayList<>();
        until(30_000, () -> got.addAll(lite.poll(200)) | got.size() >= count && got.size() >= count);
        got.addAll(lite.poll(400));
        return got;
    }

    /** The one message of a topic that only that one was sent to. */
    static MessageExt only(Run run, String topic) throws Exception {
        DefaultMQPullConsumer c = run.pull();
        c.start();
        MessageExt[] found = new MessageExt[1];
        until(10_000, () -> {
            for (MessageQueue q : c.fetchSubscribeMessageQueues(topic)) {
                PullResult r = c.pull(q, "*", 0, 32);
                if (r.getMsgFoundList() != null) {
                    found[0] = r.getMsgFoundList().get(0);
                    return true;
                }
            }
            return false;
        });
        return found[0];
    }

    static Map<String, String> properties(MessageExt m) {
        TreeMap<String, String> all = new TreeMap<>(m.getProperties());
        all.computeIfPresent("UNIQ_KEY", (k, v) -> v.length() + " characters");
        return all;
    }

    static Set<Integer> assigned(DefaultMQPushConsumer c, String topic) {
        return c.getDefaultMQPushConsumerImpl().getRebalanceImpl().getProcessQueueTable().keySet().stream()
            .filter(q -> q.getTopic().equals(topic)).map(MessageQueue::getQueueId).collect(Collectors.toCollection(TreeSet::new));
    }

    static final Object adminLock = new Object();

    /** What an mqadmin command prints, the lines that count. */
    static String mqadmin(String command, Predicate<String> keep, String... args) throws Exception {
        SubCommand sub = (SubCommand) Class.forName("org.apache.rocketmq.tools.command." + command).getDeclaredConstructor().newInstance();
        Options options = sub.buildCommandlineOptions(ServerUtil.buildCommandlineOptions(new Options()));
        CommandLine line = new PosixParser().parse(options, args);
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        synchronized (adminLock) {
            System.setOut(new PrintStream(bytes, true));
            try {
                sub.execute(line, options, null);
            } finally {
                System.setOut(out);
            }
        }
        return bytes.toString().lines().filter(keep).map(String::trim).filter(l -> !l.isEmpty())
            .map(l -> l.replaceAll("\\d{4}-\\d\\d-\\d\\d[ #]\\d\\d:\\d\\d:\\d\\d(,\\d+)?", "<time>").replaceAll("\\s+", " "))
            .collect(Collectors.joining(" / "));
    }

    static void define() {
        cases.put("send-sync", Probe::sendSync);
        cases.put("send-async", Probe::sendAsync);
        cases.put("send-oneway", Probe::sendOneway);
        cases.put("send-batch", Probe::sendBatch);
        cases.put("send-select-queue", Probe::sendSelectQueue);
        cases.put("send-bad-queue", Probe::sendBadQueue);
        cases.put("topic-auto-create", Probe::topicAutoCreate);
        cases.put("topic-unknown-send", Probe::topicUnknownSend);
        cases.put("body-compressed", Probe::bodyCompressed);
        cases.put("body-limit", Probe::bodyLimit);
        cases.put("properties", Probe::propertiesRoundTrip);
        cases.put("properties-limit", Probe::propertiesLimit);
        cases.put("pull", Probe::pullPlain);
        cases.put("pull-errors", Probe::pullErrors);
        cases.put("lite-pull-assign", Probe::liteAssign);
        cases.put("lite-pull-subscribe", Probe::liteSubscribe);
        cases.put("push-concurrent", Probe::pushConcurrent);
        cases.put("push-broadcast", Probe::pushBroadcast);
        cases.put("filter-tag", Probe::filterTag);
        cases.put("filter-sql-push", Probe::filterSqlPush);
        cases.put("filter-sql-lite-pull", Probe::filterSqlLite);
        cases.put("filter-sql-invalid", Probe::filterSqlInvalid);
        cases.put("rebalance", Probe::rebalance);
        cases.put("offsets-resume", Probe::offsetsResume);
        cases.put("offsets-commit", Probe::offsetsCommit);
        cases.put("offsets-query", Probe::offsetsQuery);
        cases.put("consume-from", Probe::consumeFrom);
        cases.put("subscription-change", Probe::subscriptionChange);
        cases.put("consumer-list", Probe::consumerList);
        cases.put("long-poll-push", Probe::longPollPush);
        cases.put("long-poll-pull", Probe::longPollPull);
        cases.put("view-by-offset-id", Probe::viewByOffsetId);
        cases.put("admin-update-topic", Probe::adminUpdateTopic);
        cases.put("admin-topic-route", Probe::adminTopicRoute);
        cases.put("admin-topic-list", Probe::adminTopicList);
        cases.put("admin-topic-status", Probe::adminTopicStatus);
        cases.put("admin-cluster-list", Probe::adminClusterList);
        cases.put("admin-consumer-progress", Probe::adminConsumerProgress);
        cases.put("admin-update-group", Probe::adminUpdateGroup);
        cases.put("extra-query-by-key", Probe::queryByKey);
        cases.put("extra-orderly", Probe::orderly);
        cases.put("extra-retry", Probe::retry);
        cases.put("extra-retry-interrupted", Probe::retryInterrupted);
        cases.put("extra-dead-letter", Probe::deadLetter);
        cases.put("extra-delay-level", Probe::delayLevel);
        cases.put("extra-delay-time", Probe::delayTime);
        cases.put("extra-transaction", Probe::transaction);
        cases.put("extra-trace", Probe::trace);
        cases.put("extra-request-reply", Probe::requestReply);
        cases.put("extra-admin-connections", Probe::adminConnections);
        cases.put("extra-admin-reset-offset", Probe::adminResetOffset);
        cases.put("extra-admin-delete-topic", Probe::adminDeleteTopic);
        try {
            Class.forName("Pops").getDeclaredMethod("define").invoke(null);
        } catch (ClassNotFoundException e) {
            // Clients before 5.0 do not pop.
        } catch (ReflectiveOperationException e) {
            throw new IllegalStateException(e);
        }
    }

    // Sends.

    static void describe(Run run, List<SendResult> results) {
        TreeMap<Integer, TreeSet<Long>> by = new TreeMap<>();
        TreeMap<String, Integer> statuses = new TreeMap<>();
        Set<String> ids = new HashSet<>();
        boolean sameIds = true;
        for (SendResult r : results) {
            by.computeIfAbsent(r.getMessageQueue().getQueueId(), q -> new TreeSet<>()).add(r.getQueueOffset());
            statuses.merge(r.getSendStatus().name(), 1, Integer::sum);
            ids.add(r.getOffsetMsgId());
            sameIds &= r.getMsgId().equals(r.getTransactionId());
        }
        run.saw("statuses", statuses);
        run.saw("offsets", by);
        run.saw("offset ids", ids.size());
        run.saw("transaction id is the message id", sameIds);
        run.saw("region", results.get(0).getRegionId());
        run.saw("trace", results.get(0).isTraceOn());
    }

    static void sendSync(Run run) throws Exception {
        DefaultMQProducer p = run.producer();
        p.start();
        List<SendResult> results = new ArrayList<>();
        for (int i = 0; i < 8; i++) {
            results.add(p.send(message(run.topic, "t", "m" + i)));
        }
        describe(run, results);
    }

    static void sendAsync(Run run) throws Exception {
        DefaultMQProducer p = run.producer();
        p.start();
        p.send(message(run.topic, "t", "first"), queue(run.topic, 0));
        List<SendResult> results = Collections.synchronizedList(new ArrayList<>());
        List<String> errors = Collections.synchronizedList(new ArrayList<>());
        CountDownLatch done = new CountDownLatch(8);
        for (int i = 0; i < 8; i++) {
            p.send(message(run.topic, "t", "m" + i), queue(run.topic, i % 4), new SendCallback() {
                @Override
                public void onSuccess(SendResult r) {
                    results.add(r);
                    done.countDown();
                }

                @Override
                public void onException(Throwable e) {
                    errors.add(problem(e));
                    done.countDown();
                }
            });
        }
        run.saw("all called back", done.await(15, TimeUnit.SECONDS));
        run.saw("errors", errors);
        describe(run, results);
    }

    static void sendOneway(Run run) throws Exception {
        DefaultMQProducer p = run.producer();
        p.start();
        p.sendOneway(message(run.topic, "t", "m0"));
        awaitRoute(run.topic);
        for (int i = 1; i < 8; i++) {
            p.sendOneway(message(run.topic, "t", "m" + i), queue(run.topic, i % 4));
        }
        AtomicLong sum = new AtomicLong();
        until(10_000, () -> {
            sum.set(0);
            for (int q = 0; q < 4; q++) {
                sum.addAndGet(admin.maxOffset(queue(run.topic, q)));
            }
            return sum.get() >= 8;
        });
        run.saw("stored", sum.get());
    }

    static void sendBatch(Run run) throws Exception {
        DefaultMQProducer p = run.producer();
        p.start();
        p.send(message(run.topic, "t", "first"), queue(run.topic, 1));
        List<Message> batch = new ArrayList<>();
        for (int i = 0; i < 10; i++) {
            Message m = message(run.topic, i % 2 == 0 ? "even" : "odd", "m" + i);
            m.setKeys("k" + i);
            m.putUserProperty("n", "" + i);
            batch.add(m);
        }
        SendResult r = p.send(batch, queue(run.topic, 1));
        run.saw("status", r.getSendStatus());
        run.saw("queue", r.getMessageQueue().getQueueId());
        run.saw("offset", r.getQueueOffset());
        run.saw("message ids", r.getMsgId().split(",").length);
        run.saw("offset ids", r.getOffsetMsgId().split(",").length);
        awaitRoute(run.topic);
        DefaultMQPullConsumer c = run.pull();
        c.start();
        PullResult all = c.pull(queue(run.topic, 1), "*", 1, 32);
        run.saw("all", pulled(all));
        run.saw("last", properties(all.getMsgFoundList().get(9)));
        run.saw("odd", pulled(c.pull(queue(run.topic, 1), "odd", 0, 32)));
    }

    static void sendSelectQueue(Run run) throws Exception {
        fill(run.topic, 0, 4);
        DefaultMQProducer p = run.producer();
        p.start();
        for (int key : new int[] {2, 7, 2}) {
            SendResult r = p.send(message(run.topic, "t", "m"), (queues, m, arg) -> queues.get((Integer) arg % queues.size()), key);
            run.saw("key " + key, "queue " + r.getMessageQueue().getQueueId() + " offset " + r.getQueueOffset());
        }
    }

    static void sendBadQueue(Run run) throws Exception {
        fill(run.topic, 0, 4);
        run.fails("queue 4 of 4", () -> sender.send(message(run.topic, "t", "m"), queue(run.topic, 4)));
        run.fails("queue 99", () -> sender.send(message(run.topic, "t", "m"), queue(run.topic, 99)));
    }

    static void topicAutoCreate(Run run) throws Exception {
        DefaultMQProducer p = run.producer();
        p.setDefaultTopicQueueNums(4);
        p.start();
        p.send(message(run.topic, "t", "m"));
        DefaultMQProducer wide = new DefaultMQProducer(run.group + "-wide");
        wide.setNamesrvAddr(namesrv);
        wide.setInstanceName(instance());
        wide.setDefaultTopicQueueNums(16);
        run.closers.add(wide::shutdown);
        wide.start();
        wide.send(message(run.topic + "-wide", "t", "m"));
        for (String topic : List.of(run.topic, run.topic + "-wide")) {
            awaitRoute(topic);
            var route = admin.examineTopicRouteInfo(topic);
            var data = route.getQueueDatas().get(0);
            run.saw(topic, "read " + data.getReadQueueNums() + " write " + data.getWriteQueueNums() + " perm " + data.getPerm() + " flag " + data.getTopicSysFlag()
                + " brokers " + route.getBrokerDatas().size() + " addresses " + route.getBrokerDatas().get(0).getBrokerAddrs().keySet() + " order " + route.getOrderTopicConf());
        }
    }

    static void topicUnknownSend(Run run) throws Exception {
        DefaultMQProducer p = run.producer();
        p.setCreateTopicKey(prefix + "no-template");
        p.start();
        run.fails("by route", () -> p.send(message(run.topic, "t", "m")));
        sender.fetchPublishMessageQueues(prefix + "boot");
        p.send(message(prefix + "boot", "t", "m"));
        run.fails("by queue", () -> p.send(message(run.topic, "t", "m"), queue(run.topic, 0)));
        run.fails("queues of", () -> p.fetchPublishMessageQueues(run.topic));
    }

    static void bodyCompressed(Run run) throws Exception {
        DefaultMQProducer p = run.producer();
        p.start();
        byte[] body = "abcdefgh".repeat(2048).getBytes();
        p.send(new Message(run.topic, "t", body), queue(run.topic, 0));
        awaitRoute(run.topic);
        MessageExt m = only(run, run.topic);
        run.saw("body intact", Arrays.equals(body, m.getBody()));
        run.saw("sysflag", m.getSysFlag());
        run.saw("stored in less", m.getStoreSize() < 1000);
    }

    static void bodyLimit(Run run) throws Exception {
        DefaultMQProducer p = run.producer();
        p.setRetryTimesWhenSendFailed(0);
        p.setCompressMsgBodyOverHowmuch(Integer.MAX_VALUE);
        p.start();
        byte[] body = new byte[4 << 20];
        new Random(1).nextBytes(body);
        p.send(new Message(run.topic, "t", "small".getBytes()), queue(run.topic, 1));
        run.saw("4 MiB", p.send(new Message(run.topic, "t", body), queue(run.topic, 0)).getSendStatus());
        run.fails("one byte more", () -> p.send(new Message(run.topic, "t", Arrays.copyOf(body, body.length + 1)), queue(run.topic, 0)));
        DefaultMQPullConsumer c = run.pull();
        c.start();
        PullResult r = c.pull(queue(run.topic, 0), "*", 0, 32);
        run.saw("pulled", r.getPullStatus() + " of " + r.getMaxOffset());
        run.saw("body intact", Arrays.equals(body, r.getMsgFoundList().get(0).getBody()));
    }

    static void propertiesRoundTrip(Run run) throws Exception {
        Message m = message(run.topic, "tag-A", "body");
        m.setKeys(List.of("key1", "key2"));
        m.putUserProperty("colour", "grün");
        m.setFlag(77);
        m.setBuyerId("buyer");
        sender.send(m, queue(run.topic, 3));
        awaitRoute(run.topic);
        MessageExt got = only(run, run.topic);
        run.saw("properties", properties(got));
        run.saw("flag", got.getFlag());
        run.saw("sysflag", got.getSysFlag());
        run.saw("queue", got.getQueueId() + "@" + got.getQueueOffset());
        run.saw("reconsumed", got.getReconsumeTimes());
        run.saw("crc", got.getBodyCRC());
        run.saw("prepared", got.getPreparedTransactionOffset());
        run.saw("born here", got.getBornHostString());
        run.saw("born before stored", got.getBornTimestamp() <= got.getStoreTimestamp());
        run.saw("store host", got.getStoreHost().toString().replace("/", ""));
    }

    static void propertiesLimit(Run run) throws Exception {
        fill(run.topic, 0, 4);
        for (int size : new int[] {32_000, 33_000}) {
            run.fails(size + " bytes", () -> {
                Message m = message(run.topic, "t", "m");
                m.putUserProperty("long", "x".repeat(size));
                sender.send(m, queue(run.topic, 0));
            });
        }
    }

    // Pulls.

    static void pullPlain(Run run) throws Exception {
        for (int i = 0; i < 5; i++) {
            sender.send(message(run.topic, i == 4 ? "B" : "A", "m" + i), queue(run.topic, 2));
        }
        awaitRoute(run.topic);
        DefaultMQPullConsumer c = run.pull();
        c.start();
        run.saw("queues", c.fetchSubscribeMessageQueues(run.topic).stream().map(MessageQueue::getQueueId).sorted().collect(Collectors.toList()));
        MessageQueue q = queue(run.topic, 2);
        run.saw("from 0", pulled(c.pull(q, "*", 0, 32)));
        run.saw("two from 1", pulled(c.pull(q, "*", 1, 2)));
        run.saw("B", pulled(c.pull(q, "B", 0, 32)));
        run.saw("C", pulled(c.pull(q, "C", 0, 32)));
        run.saw("at the end", pulled(c.pull(q, "*", 5, 32)));
        run.saw("past the end", pulled(c.pull(q, "*", 9, 32)));
        run.saw("empty queue at 0", pulled(c.pull(queue(run.topic, 0), "*", 0, 32)));
        run.saw("empty queue at 3", pulled(c.pull(queue(run.topic, 0), "*", 3, 32)));
    }

    static void pullErrors(Run run) throws Exception {
        fill(run.topic, 0, 4);
        DefaultMQPullConsumer c = run.pull();
        c.start();
        c.fetchSubscribeMessageQueues(run.topic);
        c.pull(queue(run.topic, 0), "*", 0, 32);
        run.fails("unknown topic", () -> c.pull(queue(run.topic + "-none", 0), "*", 0, 32));
        run.fails("queue 4 of 4", () -> c.pull(queue(run.topic, 4), "*", 0, 32));
        run.fails("queues of an unknown topic", () -> c.fetchSubscribeMessageQueues(run.topic + "-none"));
        run.fails("maximum of an unknown topic", () -> run.saw("it", c.maxOffset(queue(run.topic + "-none", 0))));
        run.fails("maximum of queue 4 of 4", () -> run.saw("it", c.maxOffset(queue(run.topic, 4))));
    }

    static void liteAssign(Run run) throws Exception {
        fill(run.topic, 0, 20);
        DefaultLitePullConsumer c = run.lite();
        c.setAutoCommit(false);
        c.start();
        Collection<MessageQueue> queues = c.fetchMessageQueues(run.topic);
        c.assign(queues);
        for (MessageQueue q : queues) {
            c.seekToBegin(q);
        }
        run.saw("offsets", offsets(poll(c, 20)));
        c.seek(queue(run.topic, 1), 3);
        run.saw("after a seek", offsets(poll(c, 2)));
        run.saw("offset for the past", c.offsetForTimestamp(queue(run.topic, 1), 1L));
        run.saw("committed", c.committed(queue(run.topic, 1)));
        c.commitSync();
        run.saw("committed then", until(8_000, () -> c.committed(queue(run.topic, 1)) == 5));
    }

    static void liteSubscribe(Run run) throws Exception {
        fill(run.topic, 0, 20);
        DefaultLitePullConsumer c = run.lite();
        c.subscribe(run.topic, "*");
        c.start();
        run.saw("offsets", offsets(poll(c, 20)));
        fill(run.topic, 20, 4);
        run.saw("later", bodies(poll(c, 4)));
    }

    // Pushes and filters.

    static void pushConcurrent(Run run) throws Exception {
        fill(run.topic, 0, 20);
        Sink sink = new Sink();
        DefaultMQPushConsumer c = run.push(run.group, sink);
        c.subscribe(run.topic, "*");
        c.start();
        List<MessageExt> first = sink.await(20).drain();
        run.saw("bodies", bodies(first));
        run.saw("offsets", offsetsSorted(first));
        run.saw("properties", properties(first.get(0)).keySet());
        fill(run.topic, 20, 4);
        run.saw("later", bodies(sink.await(4).drain()));
    }

    static void pushBroadcast(Run run) throws Exception {
        fill(run.topic, 0, 8);
        List<Sink> sinks = List.of(new Sink(), new Sink());
        for (Sink sink : sinks) {
            DefaultMQPushConsumer c = run.push(run.group, sink);
            broadcasting(c);
            c.subscribe(run.topic, "*");
            c.start();
        }
        for (Sink sink : sinks) {
            run.saw("a member", bodies(sink.await(8).drain()));
        }
        fill(run.topic, 8, 4);
        for (Sink sink : sinks) {
            run.saw("then", bodies(sink.await(4).drain()));
        }
    }

    /** The model's class has another package in 5.x. */
    @SuppressWarnings({"unchecked", "rawtypes"})
    static void broadcasting(DefaultMQPushConsumer c) throws Exception {
        var setter = Arrays.stream(DefaultMQPushConsumer.class.getMethods()).filter(m -> m.getName().equals("setMessageModel")).findFirst().orElseThrow();
        setter.invoke(c, Enum.valueOf((Class<Enum>) setter.getParameterTypes()[0], "BROADCASTING"));
    }

    static void filterTag(Run run) throws Exception {
        fill(run.topic, 0, 12, "A", "B", "C");
        sender.send(message(run.topic, "Aa", "same hash as BB"), queue(run.topic, 0));
        Sink sink = new Sink(), hash = new Sink();
        DefaultMQPushConsumer c = run.push(run.group, sink);
        c.subscribe(run.topic, "A || B");
        c.start();
        DefaultMQPushConsumer d = run.push(run.group + "-hash", hash);
        d.subscribe(run.topic, "BB || C");
        d.start();
        run.saw("A || B", bodies(sink.await(8).drain()));
        run.saw("BB || C", bodies(hash.await(4).drain()));
    }

    static final String SQL = "n > 3 AND even = 'yes' OR TAGS IN ('special') AND missing IS NULL";

    static void filterSqlPush(Run run) throws Exception {
        fill(run.topic, 0, 12);
        sender.send(message(run.topic, "special", "s"), queue(run.topic, 0));
        Sink sink = new Sink();
        DefaultMQPushConsumer c = run.push(run.group, sink);
        c.subscribe(run.topic, MessageSelector.bySql(SQL));
        c.start();
        run.saw("before", bodies(sink.await(5).drain()));
        fill(run.topic, 12, 4);
        run.saw("while waiting", bodies(sink.await(2).drain()));
    }

    static void filterSqlLite(Run run) throws Exception {
        fill(run.topic, 0, 12);
        sender.send(message(run.topic, "special", "s"), queue(run.topic, 0));
        DefaultLitePullConsumer c = run.lite();
        c.subscribe(run.topic, MessageSelector.bySql(SQL));
        c.start();
        run.saw("before", bodies(poll(c, 5)));
        fill(run.topic, 12, 4);
        run.saw("while waiting", bodies(poll(c, 2)));
    }

    static void filterSqlInvalid(Run run) throws Exception {
        fill(run.topic, 0, 4);
        for (String sql : List.of("n >", "n > 'x' AND", "n BETWEEN 3")) {
            DefaultMQPushConsumer c = run.push(run.group, new Sink());
            c.subscribe(run.topic, MessageSelector.bySql(sql));
            run.fails(sql, c::start);
        }
        DefaultLitePullConsumer lite = run.lite();
        lite.subscribe(run.topic, MessageSelector.bySql("n >"));
        run.fails("lite pull", lite::start);
    }

    // Groups and offsets.

    static void rebalance(Run run) throws Exception {
        fill(run.topic, 0, 4);
        Sink one = new Sink(), two = new Sink();
        DefaultMQPushConsumer a = run.push(run.group, one), b = run.push(run.group, two);
        a.subscribe(run.topic, "*");
        b.subscribe(run.topic, "*");
        a.start();
        run.saw("alone", until(10_000, () -> assigned(a, run.topic).size() == 4));
        one.await(4);
        one.got.clear();
        b.start();
        run.saw("split within 10 s", until(10_000, () -> assigned(a, run.topic).size() == 2 && assigned(b, run.topic).size() == 2));
        TreeSet<Integer> both = new TreeSet<>(assigned(a, run.topic));
        both.addAll(assigned(b, run.topic));
        run.saw("together", both);
        fill(run.topic, 4, 8);
        until(30_000, () -> distinct(4, one, two).size() >= 8);
        Thread.sleep(300);
        // A queue that changes hands may be read again from its last commit: what counts is that all came, to each of the two.
        run.saw("shared", bodies(distinct(4, one, two).values()) + (two.got.isEmpty() || one.got.isEmpty() ? " by one" : " by both"));
        one.drain();
        two.drain();
        b.shutdown();
        run.saw("alone again within 10 s", until(10_000, () -> assigned(a, run.topic).size() == 4));
        fill(run.topic, 12, 8);
        until(30_000, () -> distinct(12, one, two).size() >= 8);
        run.saw("then", bodies(distinct(12, one, two).values()));
    }

    /** What came of the messages with this number and later, each once. */
    static TreeMap<String, MessageExt> distinct(int from, Sink... sinks) {
        TreeMap<String, MessageExt> all = new TreeMap<>();
        for (Sink sink : sinks) {
            sink.got.stream().filter(m -> Integer.parseInt(m.getProperty("n")) >= from).forEach(m -> all.put(new String(m.getBody()), m));
        }
        return all;
    }

    static void offsetsResume(Run run) throws Exception {
        fill(run.topic, 0, 12);
        Sink sink = new Sink();
        DefaultMQPushConsumer c = run.push(run.group, sink);
        c.subscribe(run.topic, "*");
        c.start();
        run.saw("first", bodies(sink.await(12).drain()));
        c.shutdown();
        fill(run.topic, 12, 8);
        DefaultMQPushConsumer d = run.push(run.group, sink);
        d.subscribe(run.topic, "*");
        d.start();
        run.saw("then", bodies(sink.await(8).drain()));
    }

    static void offsetsCommit(Run run) throws Exception {
        fill(run.topic, 0, 8);
        DefaultMQPullConsumer c = run.pull();
        c.start();
        c.fetchSubscribeMessageQueues(run.topic);
        MessageQueue q = queue(run.topic, 1), other = queue(run.topic, 2);
        run.saw("unknown", c.fetchConsumeOffset(q, true));
        run.fails("commit by a group that never pulled", () -> admin.updateConsumeOffset(brokerAddr, run.group + "-none", q, 1));
        c.pull(q, "*", 0, 32); // makes the group known
        run.fails("commit past the end", () -> admin.updateConsumeOffset(brokerAddr, run.group, other, 9));
        run.fails("commit of an unknown topic", () -> admin.updateConsumeOffset(brokerAddr, run.group, queue(run.topic + "-none", 0), 1));
        c.updateConsumeOffset(q, 2);
        c.getOffsetStore().persistAll(Set.of(q));
        DefaultMQPullConsumer d = run.pull();
        d.start();
        d.fetchSubscribeMessageQueues(run.topic);
        run.saw("of a second client", until(15_000, () -> d.fetchConsumeOffset(q, true) == 2));
        run.saw("another queue", c.fetchConsumeOffset(other, true));
    }

    static void offsetsQuery(Run run) throws Exception {
        MessageQueue q = queue(run.topic, 0);
        long before = System.currentTimeMillis();
        Thread.sleep(20);
        for (int i = 0; i < 3; i++) {
            sender.send(message(run.topic, "t", "m" + i), q);
        }
        Thread.sleep(50);
        long between = System.currentTimeMillis();
        Thread.sleep(50);
        for (int i = 3; i < 5; i++) {
            sender.send(message(run.topic, "t", "m" + i), q);
        }
        awaitRoute(run.topic);
        DefaultMQPullConsumer c = run.pull();
        c.start();
        c.fetchSubscribeMessageQueues(run.topic);
        until(5_000, () -> c.maxOffset(q) == 5);
        run.saw("min", c.minOffset(q));
        run.saw("max", c.maxOffset(q));
        run.saw("before all", c.searchOffset(q, before));
        run.saw("between", c.searchOffset(q, between));
        run.saw("at 0", c.searchOffset(q, 0));
        run.saw("in an hour", c.searchOffset(q, between + 3_600_000));
        run.saw("empty queue, min", c.minOffset(queue(run.topic, 1)));
        run.saw("empty queue, max", c.maxOffset(queue(run.topic, 1)));
        run.saw("empty queue, between", c.searchOffset(queue(run.topic, 1), between));
        long earliest = c.earliestMsgStoreTime(q);
        run.saw("earliest stored", earliest >= before && earliest <= between);
        run.saw("empty queue, earliest", c.earliestMsgStoreTime(queue(run.topic, 1)));
    }

    static void consumeFrom(Run run) throws Exception {
        fill(run.topic, 0, 4);
        Thread.sleep(1_100);
        String time = new SimpleDateFormat("yyyyMMddHHmmss").format(new Date());
        Thread.sleep(1_100);
        fill(run.topic, 4, 4);
        Map<ConsumeFromWhere, Sink> sinks = new LinkedHashMap<>();
        for (ConsumeFromWhere where : List.of(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET, ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET, ConsumeFromWhere.CONSUME_FROM_TIMESTAMP)) {
            Sink sink = new Sink();
            sinks.put(where, sink);
            DefaultMQPushConsumer c = run.push(run.group + "-" + where.ordinal(), sink);
            c.setConsumeFromWhere(where);
            c.setConsumeTimestamp(time);
            c.subscribe(run.topic, "*");
            c.start();
        }
        Thread.sleep(2_000);
        fill(run.topic, 8, 4);
        for (Map.Entry<ConsumeFromWhere, Sink> e : sinks.entrySet()) {
            run.saw(e.getKey().name(), bodies(e.getValue().await(12).drain()));
        }
    }

    static void subscriptionChange(Run run) throws Exception {
        fill(run.topic, 0, 8, "A", "B");
        Sink sink = new Sink();
        DefaultMQPushConsumer c = run.push(run.group, sink);
        c.subscribe(run.topic, "A");
        c.start();
        run.saw("A", bodies(sink.await(4).drain()));
        Thread.sleep(1_000);
        c.shutdown();
        fill(run.topic, 8, 8, "A", "B");
        DefaultMQPushConsumer d = run.push(run.group, sink);
        d.subscribe(run.topic, "B");
        d.start();
        run.saw("then B", bodies(sink.await(4).drain()));
        d.subscribe(run.topic, "A || B");
        Thread.sleep(500);
        fill(run.topic, 16, 4, "A", "B");
        run.saw("then both", bodies(sink.await(4).drain()));
    }

    static void consumerList(Run run) throws Exception {
        fill(run.topic, 0, 4);
        run.fails("connections of an unknown group", () -> admin.examineConsumerConnectionInfo(run.group + "-none"));
        Sink sink = new Sink();
        List<DefaultMQPushConsumer> members = new ArrayList<>();
        for (int i = 0; i < 2; i++) {
            DefaultMQPushConsumer c = run.push(run.group, sink);
            c.subscribe(run.topic, "A || B");
            c.start();
            members.add(c);
        }
        var factory = members.get(0).getDefaultMQPushConsumerImpl().getmQClientFactory();
        Set<String> ids = new TreeSet<>();
        for (DefaultMQPushConsumer c : members) {
            ids.add(c.getDefaultMQPushConsumerImpl().getmQClientFactory().getClientId());
        }
        run.saw("both listed", until(5_000, () -> ids.equals(new TreeSet<>(factory.findConsumerIdList(run.topic, run.group)))));
        run.saw("unknown group", factory.findConsumerIdList(run.topic, run.group + "-none"));
        var connection = admin.examineConsumerConnectionInfo(run.group);
        run.saw("connections", connection.getConnectionSet().size());
        run.saw("type", connection.getConsumeType() + " " + connection.getMessageModel() + " " + connection.getConsumeFromWhere());
        run.saw("subscriptions", new TreeMap<>(connection.getSubscriptionTable()).entrySet().stream()
            .map(e -> e.getKey() + ":" + e.getValue().getSubString() + ":" + e.getValue().getExpressionType() + ":" + new TreeSet<>(e.getValue().getTagsSet())).collect(Collectors.toList()));
        members.get(1).shutdown();
        run.saw("one leaves", until(5_000, () -> factory.findConsumerIdList(run.topic, run.group).size() == 1));
    }

    static void longPollPush(Run run) throws Exception {
        fill(run.topic, 0, 4, "A");
        Sink sink = new Sink();
        DefaultMQPushConsumer c = run.push(run.group, sink);
        c.subscribe(run.topic, "A");
        c.start();
        sink.await(4).drain();
        Thread.sleep(1_000);
        sender.send(message(run.topic, "B", "no"), queue(run.topic, 1));
        Thread.sleep(500);
        long sent = System.nanoTime();
        sender.send(message(run.topic, "A", "yes"), queue(run.topic, 1));
        boolean came = until(20_000, () -> !sink.got.isEmpty());
        run.saw(came && sink.last - sent < 1_000_000_000L ? "woken" : came ? "late" : "never");
        run.saw("by", bodies(sink.drain()));
    }

    static void longPollPull(Run run) throws Exception {
        fill(run.topic, 0, 4);
        DefaultMQPullConsumer c = run.pull();
        c.start();
        c.fetchSubscribeMessageQueues(run.topic);
        MessageQueue q = queue(run.topic, 1);
        Thread late = new Thread(() -> {
            try {
                Thread.sleep(1_500);
                sender.send(message(run.topic, "t", "late"), q);
            } catch (Exception e) {
                e.printStackTrace();
            }
        });
        long start = System.nanoTime();
        late.start();
        PullResult r = c.pullBlockIfNotFound(q, "*", 1, 32);
        long millis = (System.nanoTime() - start) / 1_000_000;
        run.saw(pulled(r));
        run.saw(millis >= 1_400 && millis < 2_500 ? "woken" : "after " + millis + " ms");
        late.join();
        DefaultMQPullConsumer d = run.pull();
        d.setBrokerSuspendMaxTimeMillis(1_000);
        d.setConsumerTimeoutMillisWhenSuspend(15_000);
        d.start();
        d.fetchSubscribeMessageQueues(run.topic);
        start = System.nanoTime();
        r = d.pullBlockIfNotFound(q, "*", 2, 32);
        millis = (System.nanoTime() - start) / 1_000_000;
        run.saw("nothing comes", pulled(r) + (millis >= 900 && millis < 9_000 ? " when the time is over" : " after " + millis + " ms"));
    }

    static void viewByOffsetId(Run run) throws Exception {
        fill(run.topic, 0, 4);
        SendResult sent = sender.send(message(run.topic, "t", "this"), queue(run.topic, 1));
        MessageExt m = sender.viewMessage(run.topic, sent.getOffsetMsgId());
        run.saw("found", new String(m.getBody()) + " at " + m.getQueueId() + "@" + m.getQueueOffset() + " of " + m.getTopic());
        String id = sent.getOffsetMsgId();
        String past = id.substring(0, 16) + "00000000FFFFFFF0";
        run.fails("past the end", () -> sender.viewMessage(run.topic, past));
    }

    static void queryByKey(Run run) throws Exception {
        fill(run.topic, 0, 4);
        long begin = System.currentTimeMillis() - 60_000;
        String unique = null;
        for (int i = 0; i < 3; i++) {
            Message m = message(run.topic, "t", "k" + i);
            m.setKeys("same own" + i);
            unique = sender.send(m, queue(run.topic, i)).getMsgId();
        }
        String id = unique;
        for (String key : List.of("same", "own1")) {
            List<MessageExt> found = new ArrayList<>();
            until(10_000, () -> {
                found.clear();
                try {
                    found.addAll(sender.queryMessage(run.topic, key, 32, begin, begin + 600_000).getMessageList());
                } catch (MQClientException e) {
                    return false;
                }
                return found.size() == (key.equals("same") ? 3 : 1);
            });
            run.saw(key, bodies(found));
        }
        run.saw("by unique id", new String(sender.viewMessage(run.topic, id).getBody()));
        run.fails("unknown key", () -> sender.queryMessage(run.topic, "no such", 32, begin, begin + 600_000));
    }

    // mqadmin.

    static void adminUpdateTopic(Run run) throws Exception {
        Predicate<String> words = l -> l.contains("success");
        run.saw("create", mqadmin("topic.UpdateTopicSubCommand", words, "-c", cluster, "-t", run.topic, "-r", "3", "-w", "2"));
        awaitRoute(run.topic);
        for (String perm : List.of("", "4")) {
            if (!perm.isEmpty()) {
                run.saw("update", mqadmin("topic.UpdateTopicSubCommand", words, "-b", brokerAddr, "-t", run.topic, "-r", "8", "-w", "8", "-p", perm));
                until(45_000, () -> admin.examineTopicRouteInfo(run.topic).getQueueDatas().get(0).getPerm() == 4);
            }
            var data = admin.examineTopicRouteInfo(run.topic).getQueueDatas().get(0);
            run.saw("route", "read " + data.getReadQueueNums() + " write " + data.getWriteQueueNums() + " perm " + data.getPerm());
        }
        run.fails("an illegal name", () -> run.saw("said", mqadmin("topic.UpdateTopicSubCommand", words, "-b", brokerAddr, "-t", "a b")));
    }

    static void adminTopicRoute(Run run) throws Exception {
        fill(run.topic, 0, 4);
        run.saw(mqadmin("topic.TopicRouteSubCommand", l -> true, "-t", run.topic).replace(" / ", "").replace(" ", "").replaceAll("\"enableActingMaster\":false,?|\"zoneName\":null,?", "").replace(",}", "}"));
        run.fails("an unknown topic", () -> run.saw("said", mqadmin("topic.TopicRouteSubCommand", l -> true, "-t", run.topic + "-none")));
    }

    static void adminTopicList(Run run) throws Exception {
        fill(run.topic, 0, 4);
        Sink sink = new Sink();
        DefaultMQPushConsumer c = run.push(run.group, sink);
        c.subscribe(run.topic, "*");
        c.start();
        sink.await(4);
        c.shutdown();
        run.saw(mqadmin("topic.TopicListSubCommand", l -> l.contains(prefix) && l.contains(run.name) || l.matches("TBW102|OFFSET_MOVED_EVENT|SELF_TEST_TOPIC|SCHEDULE_TOPIC_XXXX|RMQ_SYS_TRANS_HALF_TOPIC|BenchmarkTest"))
            .lines().flatMap(l -> Arrays.stream(l.split(" / "))).sorted().collect(Collectors.joining(",")));
        run.saw("by cluster", mqadmin("topic.TopicListSubCommand", l -> l.contains(prefix) && l.contains(run.name), "-c").lines().flatMap(l -> Arrays.stream(l.split(" / "))).sorted().collect(Collectors.joining(",")));
    }

    static void adminTopicStatus(Run run) throws Exception {
        fill(run.topic, 0, 6);
        run.saw(mqadmin("topic.TopicStatusSubCommand", l -> true, "-t", run.topic).replaceAll("TPS: [0-9.]+", "TPS: <n>"));
        run.fails("an unknown topic", () -> run.saw("said", mqadmin("topic.TopicStatusSubCommand", l -> true, "-t", run.topic + "-none")));
    }

    static void adminClusterList(Run run) throws Exception {
        String text = mqadmin("cluster.ClusterListSubCommand", l -> true);
        List<String> rows = new ArrayList<>();
        for (String row : text.split(" / ")) {
            String[] words = row.trim().split(" +");
            rows.add(row.startsWith("#") ? row : Arrays.stream(words).limit(4).collect(Collectors.joining(" ")));
        }
        run.saw(String.join(" / ", rows));
    }

    static void adminConsumerProgress(Run run) throws Exception {
        fill(run.topic, 0, 6);
        Sink sink = new Sink();
        DefaultMQPushConsumer c = run.push(run.group, sink);
        c.subscribe(run.topic, "*");
        c.start();
        sink.await(6);
        c.shutdown();
        fill(run.topic, 6, 3);
        Predicate<String> own = l -> l.startsWith("#") || l.contains(run.topic) || l.contains("Diff Total");
        run.saw(mqadmin("consumer.ConsumerProgressSubCommand", own, "-g", run.group));
        run.saw("all groups", mqadmin("consumer.ConsumerProgressSubCommand", l -> l.contains(run.group)).replaceAll("V\\d_\\d+_\\d+\\w*", "<version>"));
        run.fails("an unknown group", () -> run.saw("said", mqadmin("consumer.ConsumerProgressSubCommand", own, "-g", run.group + "-none")));
    }

    static void adminUpdateGroup(Run run) throws Exception {
        run.saw("create", mqadmin("consumer.UpdateSubGroupSubCommand", l -> l.contains("success"), "-c", cluster, "-g", run.group, "-s", "false", "-q", "2", "-r", "5"));
        fill(run.topic, 0, 4);
        DefaultMQPullConsumer c = run.pull();
        c.start();
        c.fetchSubscribeMessageQueues(run.topic);
        run.fails("a pull by a group that may not", () -> c.pull(queue(run.topic, 0), "*", 0, 32));
        run.saw("update", mqadmin("consumer.UpdateSubGroupSubCommand", l -> l.contains("success"), "-b", brokerAddr, "-g", run.group, "-s", "true"));
        run.saw("a pull then", pulled(c.pull(queue(run.topic, 0), "*", 0, 32)));
    }

    static void adminConnections(Run run) throws Exception {
        fill(run.topic, 0, 4);
        Sink sink = new Sink();
        DefaultMQPushConsumer c = run.push(run.group, sink);
        c.subscribe(run.topic, "A");
        c.start();
        DefaultMQProducer p = run.producer();
        p.start();
        p.send(message(run.topic, "A", "m"));
        sink.await(1);
        String connections = mqadmin("connection.ConsumerConnectionSubCommand", l -> !l.contains("@"), "-g", run.group);
        run.saw("consumer", Arrays.stream(connections.split(" / ")).sorted().collect(Collectors.joining(" / ")));
        until(10_000, () -> {
            try {
                return admin.examineProducerConnectionInfo(run.group + "-p", run.topic) != null;
            } catch (MQBrokerException e) {
                return false;
            }
        });
        run.saw("producers", admin.examineProducerConnectionInfo(run.group + "-p", run.topic).getConnectionSet().size());
        run.fails("unknown producers", () -> admin.examineProducerConnectionInfo(run.group + "-none", run.topic));
        run.saw("running info", admin.getConsumerRunningInfo(run.group, c.getDefaultMQPushConsumerImpl().getmQClientFactory().getClientId(), false)
            .getMqTable().keySet().stream().filter(q -> q.getTopic().equals(run.topic)).count());
    }

    static void adminResetOffset(Run run) throws Exception {
        fill(run.topic, 0, 8);
        Sink sink = new Sink();
        DefaultMQPushConsumer c = run.push(run.group, sink);
        c.subscribe(run.topic, "*");
        c.start();
        run.saw("first", bodies(sink.await(8).drain()));
        c.shutdown();
        run.saw("reset", new TreeMap<>(admin.resetOffsetByTimestamp(run.topic, run.group, 0, true)).entrySet().stream()
            .map(e -> e.getKey().getQueueId() + ":" + e.getValue()).collect(Collectors.toList()));
        DefaultMQPushConsumer d = run.push(run.group, sink);
        d.subscribe(run.topic, "*");
        d.start();
        until(20_000, () -> sink.got.size() >= 8);
        run.saw("again", bodies(sink.await(8).drain()));
    }

    static void adminDeleteTopic(Run run) throws Exception {
        fill(run.topic, 0, 4);
        run.saw(mqadmin("topic.DeleteTopicSubCommand", l -> l.contains("success"), "-c", cluster, "-t", run.topic));
        run.saw("gone", until(5_000, () -> {
            try {
                admin.examineTopicRouteInfo(run.topic);
                return false;
            } catch (MQClientException e) {
                return e.getResponseCode() == 17;
            }
        }));
        fill(run.topic, 4, 4);
        run.saw("made anew, max", admin.maxOffset(queue(run.topic, 0)));
    }

    // Beyond produce, consume and filter.

    static void orderly(Run run) throws Exception {
        fill(run.topic, 0, 16);
        Sink one = new Sink(), two = new Sink();
        List<DefaultMQPushConsumer> members = new ArrayList<>();
        for (Sink sink : List.of(one, two)) {
            DefaultMQPushConsumer c = run.push(run.group, null);
            c.registerMessageListener((MessageListenerOrderly) (messages, context) -> {
                messages.forEach(sink::add);
                return ConsumeOrderlyStatus.SUCCESS;
            });
            c.subscribe(run.topic, "*");
            members.add(c);
        }
        members.get(0).start();
        run.saw("in order", offsets(one.await(16).drain()));
        members.get(0).shutdown();
        fill(run.topic, 16, 8);
        members.get(1).start();
        run.saw("the next member", offsets(two.await(8).drain()));
    }

    static void retry(Run run) throws Exception {
        fill(run.topic, 0, 1);
        joinOnce(run);
        List<String> seen = Collections.synchronizedList(new ArrayList<>());
        DefaultMQPushConsumer c = run.push(run.group, null);
        c.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            context.setDelayLevelWhenNextConsume(1);
            for (MessageExt m : messages) {
                seen.add(new String(m.getBody()) + " of " + m.getTopic() + " reconsumed " + m.getReconsumeTimes() + " with "
                    + m.getProperties().keySet().stream().filter(k -> k.matches("RETRY_TOPIC|ORIGIN_MESSAGE_ID|DELAY|REAL_TOPIC|REAL_QID")).sorted().collect(Collectors.toList()));
            }
            return seen.size() < 3 ? ConsumeConcurrentlyStatus.RECONSUME_LATER : ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        c.subscribe(run.topic, "*");
        c.start();
        until(45_000, () -> seen.size() >= 3);
        Thread.sleep(500);
        seen.forEach(run::saw);
    }

    /**
     * A consumer that is shut down interrupts its threads. What fails on one of them, whose listener keeps the interrupt as it
     * should, comes to the next member; but not from clients from 5.1 to 5.5.0 (the newest), which find out by a lock that can be interrupted
     * whether they still hold the message, take the interrupt for a no, and commit its offset without having sent it back.
     */
    static void retryInterrupted(Run run) throws Exception {
        fill(run.topic, 0, 1);
        joinOnce(run);
        CountDownLatch begun = new CountDownLatch(1);
        DefaultMQPushConsumer c = run.push(run.group, null);
        // So long it waits before it interrupts, and once more before it commits offsets.
        c.setAwaitTerminationMillisWhenShutdown(1_000);
        c.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            context.setDelayLevelWhenNextConsume(1);
            begun.countDown();
            try {
                Thread.sleep(60_000);
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
            }
            return ConsumeConcurrentlyStatus.RECONSUME_LATER;
        });
        c.subscribe(run.topic, "*");
        c.start();
        run.saw("begun", begun.await(30, TimeUnit.SECONDS));
        c.shutdown();
        Sink sink = new Sink();
        DefaultMQPushConsumer next = run.push(run.group, sink);
        next.subscribe(run.topic, "*");
        next.start();
        fill(run.topic, 4, 1);
        run.saw("the next comes", until(30_000, () -> came(sink, "m4")));
        // Sent back it comes after 1 s, or after 10 s if that failed and it was sent as a message of its own.
        run.saw("what failed comes again", until(14_000, () -> came(sink, "m0")));
    }

    static boolean came(Sink sink, String body) {
        return sink.got.stream().anyMatch(m -> new String(m.getBody()).equals(body));
    }

    /** Has the group's retry topic made, so that the next member finds its route at once. */
    static void joinOnce(Run run) throws Exception {
        DefaultMQPushConsumer c = run.push(run.group, new Sink());
        c.subscribe(prefix + "boot", "none");
        c.start();
        awaitRoute("%RETRY%" + run.group);
        c.shutdown();
    }

    static void deadLetter(Run run) throws Exception {
        fill(run.topic, 0, 1);
        DefaultMQPushConsumer c = run.push(run.group, null);
        c.setMaxReconsumeTimes(0);
        c.registerMessageListener((MessageListenerConcurrently) (messages, context) -> ConsumeConcurrentlyStatus.RECONSUME_LATER);
        c.subscribe(run.topic, "*");
        c.start();
        String dead = "%DLQ%" + run.group;
        awaitRoute(dead);
        Run reader = new Run(run.name + "-reader");
        run.closers.addAll(reader.closers);
        MessageExt m = only(reader, dead);
        reader.closers.forEach(Runnable::run);
        Map<String, String> all = properties(m);
        all.computeIfPresent("ORIGIN_MESSAGE_ID", (k, v) -> v.length() + " characters");
        run.saw(new String(m.getBody()) + " of " + m.getTopic() + " reconsumed " + m.getReconsumeTimes() + " with " + all);
    }

    static void delayLevel(Run run) throws Exception {
        fill(run.topic, 0, 4);
        Sink sink = new Sink();
        DefaultMQPushConsumer c = run.push(run.group, sink);
        c.subscribe(run.topic, "*");
        c.start();
        sink.await(4).drain();
        Message m = message(run.topic, "t", "later");
        m.setDelayTimeLevel(2);
        long sent = System.nanoTime();
        run.saw("sent", sender.send(m, queue(run.topic, 1)).getSendStatus());
        boolean came = until(20_000, () -> !sink.got.isEmpty());
        long millis = (sink.last - sent) / 1_000_000;
        run.saw("came", came && millis >= 4_500 && millis < 7_500 ? "in time" : came ? "after " + millis + " ms" : "never");
        MessageExt got = sink.got.peek();
        run.saw("properties", properties(got).keySet() + " at queue " + got.getQueueId());
    }

    /** By the properties that 5.x sets, which any client can; what the broker adds to find its way is left out. */
    static void delayTime(Run run) throws Exception {
        fill(run.topic, 0, 4);
        Sink sink = new Sink();
        DefaultMQPushConsumer c = run.push(run.group, sink);
        c.subscribe(run.topic, "*");
        c.start();
        sink.await(4).drain();
        for (String[] asked : new String[][] {{"TIMER_DELAY_MS", "2500"}, {"TIMER_DELAY_SEC", "4"}, {"TIMER_DELIVER_MS", "" + (System.currentTimeMillis() - 1)}}) {
            Message m = message(run.topic, "t", asked[0]);
            MessageAccessor.putProperty(m, asked[0], asked[1]);
            long sent = System.nanoTime();
            run.saw(asked[0] + " sent", sender.send(m, queue(run.topic, 1)).getSendStatus());
            boolean came = until(20_000, () -> !sink.got.isEmpty());
            long millis = (sink.last - sent) / 1_000_000, wanted = asked[0].equals("TIMER_DELIVER_MS") ? 0 : asked[0].equals("TIMER_DELAY_SEC") ? 4_000 : 2_500;
            // RocketMQ's broker cuts the time to the second, and may be early by so much.
            run.saw("came", came && millis >= wanted - 1_000 && millis < wanted + 2_500 ? "in time" : came ? "after " + millis + " ms" : "never");
            MessageExt got = sink.drain().get(0);
            Set<String> names = new TreeSet<>(properties(got).keySet());
            names.removeAll(List.of("TIMER_OUT_MS", "TIMER_ENQUEUE_MS", "TIMER_DEQUEUE_MS", "TIMER_ROLL_TIMES"));
            run.saw("properties", names + " at queue " + got.getQueueId());
        }
        Message far = message(run.topic, "t", "far");
        MessageAccessor.putProperty(far, "TIMER_DELAY_SEC", "" + 4 * 24 * 3600);
        run.fails("beyond three days", () -> sender.send(far, queue(run.topic, 1)));
        Message bad = message(run.topic, "t", "bad");
        MessageAccessor.putProperty(bad, "TIMER_DELAY_MS", "soon");
        run.fails("no number", () -> sender.send(bad, queue(run.topic, 1)));
        Message gone = message(run.topic, "t", "gone");
        MessageAccessor.putProperty(gone, "TIMER_DELAY_MS", "4000");
        SendResult sent = sender.send(gone, queue(run.topic, 1));
        try {
            Object handle = SendResult.class.getMethod("getRecallHandle").invoke(sent);
            Object id = DefaultMQProducer.class.getMethod("recallMessage", String.class, String.class).invoke(sender, run.topic, handle);
            run.saw("taken back", sent.getMsgId().equals(id));
            Thread.sleep(6_500);
            run.saw("came then", bodies(sink.drain()));
        } catch (NoSuchMethodException e) {
            run.saw("taken back", "not by this client");
        }
    }

    static void transaction(Run run) throws Exception {
        fill(run.topic, 0, 4);
        TransactionMQProducer p = new TransactionMQProducer(run.group + "-p");
        p.setNamesrvAddr(namesrv);
        p.setInstanceName(instance());
        p.setTransactionListener(new TransactionListener() {
            @Override
            public LocalTransactionState executeLocalTransaction(Message m, Object arg) {
                return (LocalTransactionState) arg;
            }

            @Override
            public LocalTransactionState checkLocalTransaction(MessageExt m) {
                return LocalTransactionState.UNKNOW;
            }
        });
        run.closers.add(p::shutdown);
        p.start();
        Sink sink = new Sink();
        DefaultMQPushConsumer c = run.push(run.group, sink);
        c.subscribe(run.topic, "*");
        c.start();
        sink.await(4).drain();
        for (LocalTransactionState state : LocalTransactionState.values()) {
            run.saw(state.name(), p.sendMessageInTransaction(message(run.topic, "t", state.name()), state).getSendStatus());
        }
        Thread.sleep(1_000);
        List<MessageExt> seen = sink.await(1).drain();
        run.saw("seen", bodies(seen));
        run.saw("properties", properties(seen.get(0)).keySet());
    }

    /** What the client writes of a message's life, by the message's id. */
    static void trace(Run run) throws Exception {
        fill(run.topic, 0, 4);
        DefaultMQProducer p = new DefaultMQProducer(run.group + "-p", null, true, null);
        p.setNamesrvAddr(namesrv);
        p.setInstanceName(instance());
        run.closers.add(p::shutdown);
        p.start();
        long begin = System.currentTimeMillis() - 60_000;
        SendResult sent = p.send(message(run.topic, "t", "traced"));
        List<MessageExt> found = new ArrayList<>();
        until(20_000, () -> {
            try {
                found.addAll(sender.queryMessage("RMQ_SYS_TRACE_TOPIC", sent.getMsgId(), 32, begin, begin + 600_000).getMessageList());
            } catch (MQClientException e) {
                return false;
            }
            return !found.isEmpty();
        });
        run.saw("traces", found.stream().map(m -> new String(m.getBody()).split("\u0001")[0]).collect(Collectors.toList()));
        run.saw("topic", found.isEmpty() ? "none" : found.get(0).getTopic());
    }

    static void requestReply(Run run) throws Exception {
        fill(run.topic, 0, 4);
        DefaultMQProducer p = run.producer();
        p.start();
        DefaultMQPushConsumer c = run.push(run.group, null);
        c.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            for (MessageExt m : messages) {
                if (m.getProperty("CORRELATION_ID") != null) {
                    try {
                        sender.send(MessageUtil.createReplyMessage(m, ("re: " + new String(m.getBody())).getBytes()), 3_000);
                    } catch (Exception e) {
                        e.printStackTrace();
                    }
                }
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        c.subscribe(run.topic, "*");
        c.start();
        Thread.sleep(1_000);
        // By a callback and to a queue: the other ways of 5.3.3 return as soon as the question is sent.
        CompletableFuture<String> reply = new CompletableFuture<>();
        p.request(message(run.topic, "t", "question"), queue(run.topic, 0), new RequestCallback() {
            @Override
            public void onSuccess(Message m) {
                reply.complete(m == null ? "no reply" : new String(m.getBody()));
            }

            @Override
            public void onException(Throwable e) {
                reply.complete(problem(e));
            }
        }, 12_000);
        run.saw(reply.get(20, TimeUnit.SECONDS));
    }
}
