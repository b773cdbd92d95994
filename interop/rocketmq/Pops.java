import java.util.ArrayList;
import java.util.Collections;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import org.apache.rocketmq.client.consumer.AckCallback;
import org.apache.rocketmq.client.consumer.AckResult;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.MessageSelector;
import org.apache.rocketmq.client.consumer.PopCallback;
import org.apache.rocketmq.client.consumer.PopResult;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.impl.MQClientAPIImpl;
import org.apache.rocketmq.common.message.MessageDecoder;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageRequestMode;
import org.apache.rocketmq.remoting.protocol.RemotingCommand;
import org.apache.rocketmq.remoting.protocol.RequestCode;
import org.apache.rocketmq.remoting.protocol.ResponseCode;
import org.apache.rocketmq.remoting.protocol.header.AckMessageRequestHeader;
import org.apache.rocketmq.remoting.protocol.header.ChangeInvisibleTimeRequestHeader;
import org.apache.rocketmq.remoting.protocol.header.ExtraInfoUtil;
import org.apache.rocketmq.remoting.protocol.header.PeekMessageRequestHeader;
import org.apache.rocketmq.remoting.protocol.header.PollingInfoRequestHeader;
import org.apache.rocketmq.remoting.protocol.header.PopMessageRequestHeader;
import org.apache.rocketmq.remoting.protocol.heartbeat.MessageModel;
import org.apache.rocketmq.remoting.protocol.subscription.SubscriptionGroupConfig;

/** What clients from 5.0 on see of popping; part of {@link Probe}. */
final class Pops {
    static void define() {
        if ("ROCKETMQ".equals(System.getProperty("rocketmq.serialize.type"))) {
            // Binary headers have two bytes for the code, and those of pops are greater.
            return;
        }
        Probe.cases.put("pop-push", Pops::push);
        Probe.cases.put("pop-share", Pops::share);
        Probe.cases.put("pop-filter-tag", run -> filter(run, "TAG"));
        Probe.cases.put("pop-filter-sql", run -> filter(run, "SQL92"));
        Probe.cases.put("pop-retry", Pops::retry);
        Probe.cases.put("pop-again", Pops::again);
        Probe.cases.put("pop-dead-letter", Pops::deadLetter);
        Probe.cases.put("pop-batch-ack", Pops::batchAck);
        Probe.cases.put("pop-change-time", Pops::changeTime);
        Probe.cases.put("pop-order", Pops::order);
        Probe.cases.put("pop-errors", Pops::errors);
        Probe.cases.put("pop-assignment", Pops::assignment);
        Probe.cases.put("pop-peek", Pops::peek);
        Probe.cases.put("pop-polling-info", Pops::pollingInfo);
    }

    /** A push consumer that pops: the broker says so, and which queues. */
    static DefaultMQPushConsumer consumer(Probe.Run run, Probe.Sink sink) throws Exception {
        DefaultMQPushConsumer c = run.push(run.group, sink);
        c.setClientRebalance(false);
        return c;
    }

    static void popFrom(Probe.Run run) throws Exception {
        Probe.admin.setMessageRequestMode(Probe.brokerAddr, run.topic, run.group, MessageRequestMode.POP, 0, 5_000);
    }

    /** Whether the group has consumed all, as its offsets say. */
    static boolean consumed(Probe.Run run) throws Exception {
        return Probe.until(30_000, () -> Probe.admin.examineConsumeStats(run.group, run.topic).computeTotalDiff() == 0);
    }

    static void push(Probe.Run run) throws Exception {
        Probe.fill(run.topic, 0, 12);
        popFrom(run);
        Probe.Sink sink = new Probe.Sink();
        DefaultMQPushConsumer c = consumer(run, sink);
        c.subscribe(run.topic, "*");
        c.start();
        List<MessageExt> got = sink.await(12).drain();
        run.saw("got", Probe.bodies(got));
        run.saw("at", Probe.offsetsSorted(got));
        run.saw("properties", Probe.properties(got.get(0)).keySet());
        run.saw("of", got.stream().map(MessageExt::getTopic).collect(Collectors.toSet()) + " reconsumed " + got.get(0).getReconsumeTimes());
        run.saw("consumed", consumed(run));
        Probe.fill(run.topic, 12, 1);
        run.saw("then", Probe.bodies(sink.await(1).drain()));
    }

    /** Both members pop from all queues: each message goes to one of them. */
    static void share(Probe.Run run) throws Exception {
        Probe.fill(run.topic, 0, 4);
        popFrom(run);
        Probe.Sink one = new Probe.Sink(), two = new Probe.Sink();
        for (Probe.Sink sink : List.of(one, two)) {
            DefaultMQPushConsumer c = consumer(run, sink);
            c.setPopBatchNums(1);
            c.subscribe(run.topic, "*");
            c.start();
        }
        Probe.until(20_000, () -> one.got.size() + two.got.size() >= 4);
        Thread.sleep(1_000);
        for (int i = 4; i < 64; i += 4) {
            Probe.fill(run.topic, i, 4);
        }
        Probe.until(30_000, () -> one.got.size() + two.got.size() >= 64);
        Thread.sleep(500);
        List<MessageExt> all = one.drain();
        List<MessageExt> others = two.drain();
        run.saw("both got some", !all.isEmpty() && !others.isEmpty());
        all.addAll(others);
        run.saw("messages", all.size() + ", different ones " + all.stream().map(m -> new String(m.getBody())).distinct().count());
        run.saw("consumed", consumed(run));
    }

    static void filter(Probe.Run run, String kind) throws Exception {
        Probe.fill(run.topic, 0, 12, "a", "b", "c");
        popFrom(run);
        Probe.Sink sink = new Probe.Sink();
        DefaultMQPushConsumer c = consumer(run, sink);
        c.subscribe(run.topic, kind.equals("TAG") ? MessageSelector.byTag("a || c") : MessageSelector.bySql("n > 6 AND even = 'yes'"));
        c.start();
        int count = kind.equals("TAG") ? 8 : 2;
        run.saw("got", Probe.bodies(sink.await(count).drain()));
        run.saw("consumed", consumed(run));
    }

    /** The listener fails: the message comes again after 10 s, which is the least that the client asks for. */
    static void retry(Probe.Run run) throws Exception {
        Probe.fill(run.topic, 0, 1);
        popFrom(run);
        List<String> seen = Collections.synchronizedList(new ArrayList<>());
        List<Long> times = Collections.synchronizedList(new ArrayList<>());
        DefaultMQPushConsumer c = consumer(run, null);
        c.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            for (MessageExt m : messages) {
                times.add(System.nanoTime());
                seen.add(new String(m.getBody()) + " of " + m.getTopic() + " reconsumed " + m.getReconsumeTimes());
            }
            return seen.size() < 2 ? ConsumeConcurrentlyStatus.RECONSUME_LATER : ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        c.subscribe(run.topic, "*");
        c.start();
        Probe.until(60_000, () -> seen.size() >= 2);
        seen.forEach(run::saw);
        long millis = times.size() < 2 ? -1 : (times.get(1) - times.get(0)) / 1_000_000;
        run.saw("came again", millis >= 9_500 && millis < 20_000 ? "in time" : "after " + millis + " ms");
        run.saw("consumed", consumed(run));
    }

    // Beneath the push consumer.

    static MQClientAPIImpl api() {
        return Probe.sender.getDefaultMQProducerImpl().getMqClientFactory().getMQClientAPIImpl();
    }

    static PopMessageRequestHeader ask(Probe.Run run, int queue, int max, long invisible, long poll, boolean order) {
        PopMessageRequestHeader header = new PopMessageRequestHeader();
        header.setConsumerGroup(run.group);
        header.setTopic(run.topic);
        header.setQueueId(queue);
        header.setMaxMsgNums(max);
        header.setInvisibleTime(invisible);
        header.setPollTime(poll);
        header.setBornTime(System.currentTimeMillis());
        header.setInitMode(0);
        header.setExpType("TAG");
        header.setExp("*");
        header.setOrder(order);
        return header;
    }

    static PopResult pop(PopMessageRequestHeader header) throws Exception {
        CompletableFuture<PopResult> popped = new CompletableFuture<>();
        api().popMessageAsync(Probe.broker, Probe.brokerAddr, header, header.getPollTime() + 10_000, new PopCallback() {
            @Override
            public void onSuccess(PopResult result) {
                popped.complete(result);
            }

            @Override
            public void onException(Throwable e) {
                popped.completeExceptionally(e);
            }
        });
        try {
            return popped.get(40, TimeUnit.SECONDS);
        } catch (java.util.concurrent.ExecutionException e) {
            throw (Exception) e.getCause();
        }
    }

    /** Messages until there are so many, or the time is over. */
    static List<MessageExt> popAll(Probe.Run run, int count, long invisible, long millis) throws Exception {
        List<MessageExt> got = new ArrayList<>();
        Probe.until(millis, () -> {
            PopResult result = pop(ask(run, -1, 32, invisible, 1_000, false));
            if (result.getMsgFoundList() != null) {
                got.addAll(result.getMsgFoundList());
            }
            return got.size() >= count;
        });
        return got;
    }

    static final class Acked implements AckCallback {
        final CompletableFuture<AckResult> done = new CompletableFuture<>();

        @Override
        public void onSuccess(AckResult result) {
            done.complete(result);
        }

        @Override
        public void onException(Throwable e) {
            done.completeExceptionally(e);
        }

        AckResult get() throws Exception {
            return done.get(20, TimeUnit.SECONDS);
        }
    }

    static Object ack(Probe.Run run, MessageExt m, String extraInfo) throws Exception {
        String[] parts = ExtraInfoUtil.split(extraInfo);
        AckMessageRequestHeader header = new AckMessageRequestHeader();
        header.setConsumerGroup(run.group);
        header.setTopic(ExtraInfoUtil.getRealTopic(parts, run.topic, run.group));
        header.setQueueId(ExtraInfoUtil.getQueueId(parts));
        header.setOffset(ExtraInfoUtil.getQueueOffset(parts));
        header.setExtraInfo(extraInfo);
        Acked acked = new Acked();
        api().ackMessageAsync(Probe.brokerAddr, 5_000, acked, header);
        return acked.get().getStatus();
    }

    static String extraInfo(MessageExt m) {
        return m.getProperty("POP_CK");
    }

    static String shown(List<MessageExt> messages) {
        return messages.stream().map(m -> new String(m.getBody()) + " of " + m.getTopic() + " reconsumed " + m.getReconsumeTimes()).sorted().collect(Collectors.toList()).toString();
    }

    /** A message that nobody acknowledges in time comes again: its consumer may be dead. */
    static void again(Probe.Run run) throws Exception {
        Probe.fill(run.topic, 0, 4);
        List<MessageExt> first = popAll(run, 4, 3_000, 20_000);
        run.saw("first", shown(first));
        for (MessageExt m : first) {
            if (!new String(m.getBody()).equals("m2")) {
                run.saw("acknowledged", ack(run, m, extraInfo(m)));
            }
        }
        List<MessageExt> second = popAll(run, 1, 60_000, 40_000);
        run.saw("again", shown(second));
        for (MessageExt m : first) {
            if (new String(m.getBody()).equals("m2")) {
                run.saw("stands where it stood", m.getMsgId().equals(second.get(0).getMsgId()) && m.getQueueId() == second.get(0).getQueueId());
                run.saw("too late", ack(run, m, extraInfo(m)));
            }
        }
        run.saw("in time", ack(run, second.get(0), extraInfo(second.get(0))));
        run.saw("twice", ack(run, second.get(0), extraInfo(second.get(0))));
        run.saw("consumed", consumed(run));
        run.saw("then", pop(ask(run, -1, 32, 60_000, 2_000, false)).getPopStatus());
    }

    /** A message that nobody acknowledges, of a group that is to try twice. */
    static void deadLetter(Probe.Run run) throws Exception {
        Probe.fill(run.topic, 0, 1);
        SubscriptionGroupConfig settings = new SubscriptionGroupConfig();
        settings.setGroupName(run.group);
        settings.setRetryMaxTimes(1);
        Probe.admin.createAndUpdateSubscriptionGroupConfig(Probe.brokerAddr, settings);
        List<MessageExt> got = popAll(run, 4, 1_000, 15_000);
        List<Integer> times = got.stream().map(MessageExt::getReconsumeTimes).collect(Collectors.toList());
        run.saw("came", times.subList(0, Math.min(2, times.size())) + (times.size() > 2 ? " and again" : ""));
        String dead = "%DLQ%" + run.group;
        Probe.awaitRoute(dead);
        try {
            MessageExt m = Probe.only(run, dead);
            run.saw("dead letter", new String(m.getBody()) + " reconsumed " + m.getReconsumeTimes());
        } catch (Exception e) {
            run.saw("dead letter", "none");
        }
    }

    static void batchAck(Probe.Run run) throws Exception {
        Probe.fill(run.topic, 0, 8);
        List<MessageExt> got = popAll(run, 8, 60_000, 20_000);
        List<String> infos = got.stream().map(Pops::extraInfo).collect(Collectors.toList());
        Acked acked = new Acked();
        api().batchAckMessageAsync(Probe.brokerAddr, 5_000, acked, run.topic, run.group, infos);
        run.saw("acknowledged", got.size() + " " + acked.get().getStatus());
        run.saw("consumed", consumed(run));
    }

    static String change(Probe.Run run, MessageExt m, long invisible, List<String> changed) throws Exception {
        String[] parts = ExtraInfoUtil.split(extraInfo(m));
        ChangeInvisibleTimeRequestHeader header = new ChangeInvisibleTimeRequestHeader();
        header.setConsumerGroup(run.group);
        header.setTopic(ExtraInfoUtil.getRealTopic(parts, run.topic, run.group));
        header.setQueueId(ExtraInfoUtil.getQueueId(parts));
        header.setOffset(ExtraInfoUtil.getQueueOffset(parts));
        header.setExtraInfo(extraInfo(m));
        header.setInvisibleTime(invisible);
        Acked acked = new Acked();
        api().changeInvisibleTimeAsync(Probe.broker, Probe.brokerAddr, header, 5_000, acked);
        AckResult result = acked.get();
        changed.add(result.getExtraInfo());
        return result.getStatus().name();
    }

    /** One message comes sooner than it would have, and one later. */
    static void changeTime(Probe.Run run) throws Exception {
        Probe.fill(run.topic, 0, 2);
        List<MessageExt> got = popAll(run, 2, 8_000, 20_000);
        got.sort((a, b) -> new String(a.getBody()).compareTo(new String(b.getBody())));
        List<String> infos = new ArrayList<>();
        long begun = System.nanoTime();
        run.saw("sooner", change(run, got.get(0), 1_000, infos));
        run.saw("later", change(run, got.get(1), 60_000, infos));
        List<MessageExt> again = popAll(run, 1, 60_000, 20_000);
        long millis = (System.nanoTime() - begun) / 1_000_000;
        run.saw("again", shown(again));
        run.saw("came", millis >= 900 && millis < 7_500 ? "sooner" : "after " + millis + " ms");
        run.saw("as it was popped", change(run, got.get(1), 60_000, new ArrayList<>()).isEmpty());
        run.saw("by what the change gave", ack(run, got.get(1), infos.get(1)));
        run.saw("then", pop(ask(run, -1, 32, 60_000, 10_000, false)).getPopStatus());
    }

    /** In order: nothing more of a queue before the messages before are acknowledged. */
    static void order(Probe.Run run) throws Exception {
        Probe.fill(run.topic, 0, 4);
        for (int i = 0; i < 3; i++) {
            Probe.sender.send(Probe.message(run.topic, "", "o" + i), Probe.queue(run.topic, 1));
        }
        PopResult first = pop(ask(run, 1, 2, 60_000, 1_000, true));
        run.saw("first", shown(first.getMsgFoundList()));
        run.saw("more", pop(ask(run, 1, 2, 60_000, 1_000, true)).getPopStatus());
        for (MessageExt m : first.getMsgFoundList()) {
            run.saw("acknowledged", ack(run, m, extraInfo(m)));
        }
        PopResult second = pop(ask(run, 1, 2, 2_000, 5_000, true));
        run.saw("then", shown(second.getMsgFoundList()));
        List<MessageExt> again = new ArrayList<>();
        Probe.until(20_000, () -> {
            PopResult result = pop(ask(run, 1, 2, 60_000, 1_000, true));
            if (result.getMsgFoundList() != null) {
                again.addAll(result.getMsgFoundList());
            }
            return !again.isEmpty();
        });
        run.saw("again", shown(again));
    }

    static void errors(Probe.Run run) throws Exception {
        Probe.fill(run.topic, 0, 4);
        run.fails("too many", () -> pop(ask(run, -1, 33, 60_000, 0, false)));
        run.fails("no such queue", () -> pop(ask(run, 99, 1, 60_000, 0, false)));
        run.fails("no such topic", () -> {
            PopMessageRequestHeader header = ask(run, -1, 1, 60_000, 0, false);
            header.setTopic(run.topic + "-none");
            pop(header);
        });
        run.fails("bad SQL", () -> {
            PopMessageRequestHeader header = ask(run, -1, 1, 60_000, 0, false);
            header.setExpType("SQL92");
            header.setExp("n >");
            pop(header);
        });
        List<MessageExt> got = popAll(run, 4, 60_000, 20_000);
        String info = extraInfo(got.get(0));
        run.saw("offset beyond the end", ack(run, got.get(0), info.substring(0, info.lastIndexOf(' ')) + " 999"));
        for (MessageExt m : got) {
            ack(run, m, extraInfo(m));
        }
        long begun = System.nanoTime();
        run.saw("nothing", pop(ask(run, -1, 32, 60_000, 2_000, false)).getPopStatus());
        long millis = (System.nanoTime() - begun) / 1_000_000;
        run.saw("held", millis >= 1_900 && millis < 5_000 ? "as long as asked for" : millis + " ms");
    }

    static void assignment(Probe.Run run) throws Exception {
        Probe.fill(run.topic, 0, 4);
        DefaultMQPushConsumer one = run.push(run.group, new Probe.Sink()), two = run.push(run.group, new Probe.Sink());
        for (DefaultMQPushConsumer c : List.of(one, two)) {
            c.subscribe(run.topic, "*");
            c.start();
        }
        Set<String> both = new HashSet<>(List.of(one.buildMQClientId(), two.buildMQClientId()));
        Probe.until(10_000, () -> new HashSet<>(Probe.admin.examineConsumerConnectionInfo(run.group).getConnectionSet().stream().map(x -> x.getClientId()).collect(Collectors.toList())).equals(both));
        for (int share : new int[] {-1, 0}) {
            if (share >= 0) {
                Probe.admin.setMessageRequestMode(Probe.brokerAddr, run.topic, run.group, MessageRequestMode.POP, share, 5_000);
            }
            for (String strategy : List.of("AVG", "AVG_BY_CIRCLE")) {
                TreeSet<Integer> queues = new TreeSet<>();
                TreeMap<String, Integer> modes = new TreeMap<>();
                for (String client : new TreeSet<>(both)) {
                    TreeSet<Integer> mine = new TreeSet<>();
                    api().queryAssignment(Probe.brokerAddr, run.topic, run.group, client, strategy, MessageModel.CLUSTERING, 5_000).forEach(a -> {
                        mine.add(a.getMessageQueue().getQueueId());
                        modes.merge(a.getMode().name(), 1, Integer::sum);
                    });
                    run.saw(strategy + (share < 0 ? " unset" : " popped"), mine);
                    queues.addAll(mine);
                }
                run.saw("all", queues + " " + modes);
            }
        }
        TreeSet<String> retried = new TreeSet<>();
        for (String client : both) {
            api().queryAssignment(Probe.brokerAddr, "%RETRY%" + run.group, run.group, client, "AVG", MessageModel.CLUSTERING, 5_000)
                .forEach(a -> retried.add(a.getMode().name()));
        }
        run.saw("the retry topic", retried);
    }

    /** What no client asks for but tools of one's own: the messages that a pop would bring. */
    static String peeked(Probe.Run run, String topic, int queue, int max) throws Exception {
        PeekMessageRequestHeader header = new PeekMessageRequestHeader();
        header.setConsumerGroup(run.group);
        header.setTopic(topic);
        header.setQueueId(queue);
        header.setMaxMsgNums(max);
        RemotingCommand answer = api().getRemotingClient().invokeSync(Probe.brokerAddr, RemotingCommand.createRequestCommand(RequestCode.PEEK_MESSAGE, header), 5_000);
        List<MessageExt> got = answer.getBody() == null ? List.of() : MessageDecoder.decodes(java.nio.ByteBuffer.wrap(answer.getBody()));
        boolean looked = answer.getCode() == ResponseCode.SUCCESS || answer.getCode() == ResponseCode.PULL_NOT_FOUND;
        return "code " + answer.getCode() + (looked ? " rest " + answer.getExtFields().get("restNum") + " " + Probe.bodies(got) : "");
    }

    static void peek(Probe.Run run) throws Exception {
        run.saw("a topic that is not there", peeked(run, run.topic + "-none", -1, 32));
        Probe.fill(run.topic, 0, 8);
        run.saw("all", peeked(run, run.topic, -1, 32));
        run.saw("again", peeked(run, run.topic, -1, 32));
        run.saw("of a queue", peeked(run, run.topic, 1, 32));
        run.saw("one of a queue", peeked(run, run.topic, 1, 1));
        run.saw("no such queue", peeked(run, run.topic, 9, 32));
        List<MessageExt> got = pop(ask(run, 2, 32, 60_000, 2_000, false)).getMsgFoundList();
        run.saw("popped", Probe.bodies(got));
        run.saw("then", peeked(run, run.topic, -1, 32));
        run.saw("of the popped queue", peeked(run, run.topic, 2, 32));
        for (MessageExt m : got) {
            ack(run, m, extraInfo(m));
        }
        for (MessageExt m : popAll(run, 6, 60_000, 20_000)) {
            ack(run, m, extraInfo(m));
        }
        run.saw("in the end", peeked(run, run.topic, -1, 32));
    }

    static String polling(Probe.Run run, String topic, int queue) throws Exception {
        PollingInfoRequestHeader header = new PollingInfoRequestHeader();
        header.setConsumerGroup(run.group);
        header.setTopic(topic);
        header.setQueueId(queue);
        RemotingCommand answer = api().getRemotingClient().invokeSync(Probe.brokerAddr, RemotingCommand.createRequestCommand(RequestCode.POLLING_INFO, header), 5_000);
        return answer.getCode() == 0 ? answer.getExtFields().get("pollingNum") : "code " + answer.getCode();
    }

    /** How many pops wait, of which two ask for all queues and one for one. */
    static void pollingInfo(Probe.Run run) throws Exception {
        run.saw("a topic that is not there", polling(run, run.topic + "-none", -1));
        Probe.fill(run.topic, 0, 4);
        for (MessageExt m : popAll(run, 4, 60_000, 20_000)) {
            ack(run, m, extraInfo(m));
        }
        run.saw("none", polling(run, run.topic, -1));
        List<Thread> waiting = new ArrayList<>();
        for (int queue : new int[] {-1, -1, 1}) {
            Thread thread = new Thread(() -> {
                try {
                    pop(ask(run, queue, 32, 60_000, 6_000, false));
                } catch (Exception e) {
                    e.printStackTrace();
                }
            });
            thread.start();
            waiting.add(thread);
        }
        Probe.until(5_000, () -> polling(run, run.topic, -1).equals("2") && polling(run, run.topic, 1).equals("1"));
        run.saw("at all queues", polling(run, run.topic, -1));
        run.saw("at one", polling(run, run.topic, 1));
        run.saw("at another", polling(run, run.topic, 2));
        run.saw("no such queue", polling(run, run.topic, 9));
        for (Thread thread : waiting) {
            thread.join();
        }
        Probe.until(15_000, () -> polling(run, run.topic, -1).equals("0"));
        run.saw("in the end", polling(run, run.topic, -1));
    }
}
