import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentSkipListSet;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.rocketmq.acl.common.AclClientRPCHook;
import org.apache.rocketmq.acl.common.SessionCredentials;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.client.consumer.rebalance.AllocateMessageQueueAveragely;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.TransactionListener;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.common.TopicConfig;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;
import org.apache.rocketmq.remoting.RPCHook;
import org.apache.rocketmq.tools.admin.DefaultMQAdminExt;

/**
 * What accounts may do, as RocketMQ's own Java client sees it: {@code Access NAMESRV PREFIX all|admin} prints one line an
 * observation, its name, a tab and what was seen. With {@code admin} it looks as the administrator alone, of a broker
 * with or without accounts. The same source compiles against 4.9 and 5.x.
 */
public final class Access {
    static String namesrv, prefix;
    static final AtomicInteger instances = new AtomicInteger();

    interface Act {
        String run() throws Exception;
    }

    static RPCHook hook(String accessKey, String secretKey) {
        return accessKey == null ? null : new AclClientRPCHook(new SessionCredentials(accessKey, secretKey));
    }

    static String instance() {
        return "i" + instances.incrementAndGet();
    }

    /** The code of the response that ended it, or the kind of the exception. */
    static String failure(Throwable error) {
        int code = -1;
        for (Throwable e = error; e != null; e = e.getCause()) {
            if (e instanceof MQBrokerException) {
                code = ((MQBrokerException) e).getResponseCode();
            } else if (e instanceof MQClientException && code < 0) {
                code = ((MQClientException) e).getResponseCode();
            }
        }
        return code < 0 ? "FAILED " + error.getClass().getSimpleName() : "code " + code;
    }

    static void observe(String name, Act act) {
        String seen;
        try {
            seen = act.run();
        } catch (Throwable error) {
            error.printStackTrace();
            seen = failure(error);
        }
        System.out.println(name + "\t" + seen);
    }

    static DefaultMQProducer producer(RPCHook hook) throws Exception {
        DefaultMQProducer producer = new DefaultMQProducer(prefix + "producers", hook);
        producer.setNamesrvAddr(namesrv);
        producer.setInstanceName(instance());
        producer.setRetryTimesWhenSendFailed(0);
        producer.setSendMsgTimeout(5000);
        producer.start();
        return producer;
    }

    static String send(RPCHook hook, String topic) throws Exception {
        DefaultMQProducer producer = producer(hook);
        try {
            return producer.send(new Message(topic, "tag", "key", "body".getBytes())).getSendStatus().toString();
        } finally {
            producer.shutdown();
        }
    }

    static String pull(RPCHook hook, String topic, String group) throws Exception {
        DefaultMQPullConsumer consumer = new DefaultMQPullConsumer(group, hook);
        consumer.setNamesrvAddr(namesrv);
        consumer.setInstanceName(instance());
        consumer.start();
        try {
            Set<MessageQueue> queues = new TreeSet<>(consumer.fetchSubscribeMessageQueues(topic));
            PullResult result = consumer.pull(queues.iterator().next(), "*", 0, 32);
            return result.getPullStatus().toString();
        } finally {
            consumer.shutdown();
        }
    }

    static DefaultMQAdminExt admin(RPCHook hook) throws Exception {
        DefaultMQAdminExt admin = new DefaultMQAdminExt(hook, 5000);
        admin.setNamesrvAddr(namesrv);
        admin.setInstanceName(instance());
        admin.start();
        return admin;
    }

    static String create(RPCHook hook, String topic) throws Exception {
        DefaultMQAdminExt admin = admin(hook);
        try {
            String broker = admin.examineBrokerClusterInfo().getBrokerAddrTable().values().iterator().next().selectBrokerAddr();
            admin.createAndUpdateTopicConfig(broker, new TopicConfig(topic, 1, 1, 6));
            return "created";
        } finally {
            admin.shutdown();
        }
    }

    static void await(String what, java.util.function.BooleanSupplier so) throws Exception {
        long end = System.currentTimeMillis() + 40_000;
        while (!so.getAsBoolean()) {
            if (System.currentTimeMillis() > end) {
                throw new IllegalStateException("never: " + what);
            }
            Thread.sleep(20);
        }
    }

    static DefaultMQPushConsumer consumer(RPCHook hook, String group, String topic) throws Exception {
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(group, hook, new AllocateMessageQueueAveragely());
        consumer.setNamesrvAddr(namesrv);
        consumer.setInstanceName(instance());
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(topic, "*");
        return consumer;
    }

    /** All that a consumer and a producer do with each other: retries, order, transactions, large bodies. */
    static void flows(String who, RPCHook hook, String topic, String groups) {
        observe(who + ": a message comes again when it was refused", () -> {
            Map<String, Integer> times = new ConcurrentHashMap<>();
            DefaultMQPushConsumer consumer = consumer(hook, groups + "retry", topic);
            consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
                context.setDelayLevelWhenNextConsume(1);
                for (MessageExt message : messages) {
                    if ("retry".equals(message.getTags())) {
                        times.merge(message.getMsgId() == null ? "?" : "retry", 1, Integer::sum);
                    }
                }
                boolean again = times.getOrDefault("retry", 0) == 1;
                return again ? ConsumeConcurrentlyStatus.RECONSUME_LATER : ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            });
            consumer.start();
            DefaultMQProducer producer = producer(hook);
            try {
                producer.send(new Message(topic, "retry", "body".getBytes()));
                await("the second time", () -> times.getOrDefault("retry", 0) >= 2);
                return "twice";
            } finally {
                producer.shutdown();
                consumer.shutdown();
            }
        });
        observe(who + ": in order", () -> {
            List<String> seen = Collections.synchronizedList(new ArrayList<>());
            DefaultMQPushConsumer consumer = consumer(hook, groups + "order", topic);
            consumer.registerMessageListener((MessageListenerOrderly) (messages, context) -> {
                messages.stream().filter(m -> "order".equals(m.getTags())).forEach(m -> seen.add(new String(m.getBody())));
                return ConsumeOrderlyStatus.SUCCESS;
            });
            consumer.start();
            DefaultMQProducer producer = producer(hook);
            try {
                for (int i = 0; i < 5; i++) {
                    byte[] body = String.valueOf(i).getBytes();
                    producer.send(new Message(topic, "order", body), (queues, message, arg) -> queues.get(0), null);
                }
                await("all five", () -> seen.size() >= 5);
                return seen.toString();
            } finally {
                producer.shutdown();
                consumer.shutdown();
            }
        });
        observe(who + ": a transaction", () -> {
            Set<String> seen = new ConcurrentSkipListSet<>();
            DefaultMQPushConsumer consumer = consumer(hook, groups + "transaction", topic);
            consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
                messages.stream().filter(m -> "half".equals(m.getTags())).forEach(m -> seen.add(new String(m.getBody())));
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            });
            consumer.start();
            TransactionMQProducer producer = new TransactionMQProducer(prefix + "transactions", hook);
            producer.setNamesrvAddr(namesrv);
            producer.setInstanceName(instance());
            producer.setTransactionListener(new TransactionListener() {
                @Override
                public LocalTransactionState executeLocalTransaction(Message message, Object arg) {
                    return (LocalTransactionState) arg;
                }

                @Override
                public LocalTransactionState checkLocalTransaction(MessageExt message) {
                    return LocalTransactionState.UNKNOW;
                }
            });
            producer.start();
            try {
                producer.sendMessageInTransaction(new Message(topic, "half", "no".getBytes()), LocalTransactionState.ROLLBACK_MESSAGE);
                producer.sendMessageInTransaction(new Message(topic, "half", "yes".getBytes()), LocalTransactionState.COMMIT_MESSAGE);
                await("the committed one", () -> !seen.isEmpty());
                return seen.toString();
            } finally {
                producer.shutdown();
                consumer.shutdown();
            }
        });
        observe(who + ": a large message", () -> {
            DefaultMQProducer producer = producer(hook);
            producer.setCompressMsgBodyOverHowmuch(Integer.MAX_VALUE);
            producer.setMaxMessageSize(4 << 20);
            Set<Integer> sizes = new ConcurrentSkipListSet<>();
            DefaultMQPushConsumer consumer = consumer(hook, groups + "large", topic);
            consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
                messages.stream().filter(m -> "large".equals(m.getTags())).forEach(m -> sizes.add(m.getBody().length));
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            });
            consumer.start();
            try {
                producer.send(new Message(topic, "large", new byte[3_000_000]));
                await("it comes", () -> !sizes.isEmpty());
                return sizes.toString();
            } finally {
                producer.shutdown();
                consumer.shutdown();
            }
        });
    }

    public static void main(String[] arguments) throws Exception {
        namesrv = arguments[0];
        prefix = arguments[1];
        boolean all = "all".equals(arguments[2]);
        RPCHook boss = hook("bossaccount", "boss-secret");
        observe("admin: makes a topic", () -> create(boss, "orders"));
        observe("admin: makes another", () -> create(boss, "events"));
        observe("admin: makes a third", () -> create(boss, "secrets"));
        // Name servers hear of topics a moment later.
        DefaultMQAdminExt admin = admin(boss);
        await("the routes", () -> {
            try {
                return admin.examineTopicRouteInfo("orders") != null && admin.examineTopicRouteInfo("events") != null
                    && admin.examineTopicRouteInfo("secrets") != null;
            } catch (Exception error) {
                return false;
            }
        });
        admin.shutdown();
        observe("admin: sends", () -> send(boss, "secrets"));
        observe("admin: sends to events", () -> send(boss, "events"));
        observe("admin: pulls", () -> pull(boss, "secrets", prefix + "boss"));
        if (!all) {
            flows("admin", boss, "orders", prefix);
            System.exit(0);
        }
        RPCHook app = hook("appaccount", "app-secret");
        observe("app: sends where it may", () -> send(app, "orders"));
        observe("app: sends where it may only read", () -> send(app, "events"));
        observe("app: sends where it may nothing", () -> send(app, "secrets"));
        observe("app: pulls where it may", () -> pull(app, "events", prefix + "readers"));
        observe("app: pulls where it may nothing", () -> pull(app, "secrets", prefix + "readers"));
        observe("app: pulls as a group that it may not be in", () -> pull(app, "events", "closed"));
        observe("app: makes a topic", () -> create(app, prefix + "mine"));
        flows("app", app, "orders", prefix);
        for (String[] who : new String[][] {
            {"a wrong secret", "appaccount", "another-secret"}, {"an unknown account", "nobodyatall", "app-secret"}, {"no account", null, null}}) {
            RPCHook hook = hook(who[1], who[2]);
            observe(who[0] + ": sends", () -> send(hook, "orders"));
            observe(who[0] + ": pulls", () -> pull(hook, "events", prefix + "readers"));
        }
        System.exit(0);
    }
}
