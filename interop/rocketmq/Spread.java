import java.nio.charset.StandardCharsets;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentSkipListMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/**
 * {@code Spread NAMESRV TOPIC SEND READ}: sends so many messages, every tenth of them long, then reads so many as a group; prints
 * how many went to and came from each broker as {@code sent BROKER COUNT} and {@code read BROKER COUNT}, and
 * {@code bodies COUNT} of different ones.
 */
public final class Spread {
    public static void main(String[] args) throws Exception {
        String namesrv = args[0], topic = args[1];
        int send = Integer.parseInt(args[2]), read = Integer.parseInt(args[3]);
        Map<String, Integer> sent = new TreeMap<>();
        DefaultMQProducer producer = new DefaultMQProducer("spread-producers");
        producer.setNamesrvAddr(namesrv);
        producer.setSendMsgTimeout(30_000);
        producer.start();
        for (int i = 0; i < send; i++) {
            // From 4 KiB on the client compresses a body.
            String body = "java " + i + (i % 10 == 0 ? " region=EU".repeat(1000) : "");
            Message message = new Message(topic, body.getBytes(StandardCharsets.UTF_8));
            sent.merge(producer.send(message).getMessageQueue().getBrokerName(), 1, Integer::sum);
        }
        producer.shutdown();

        Map<String, Integer> got = new ConcurrentSkipListMap<>();
        Set<String> bodies = ConcurrentHashMap.newKeySet();
        CountDownLatch left = new CountDownLatch(read);
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer("spread-java");
        consumer.setNamesrvAddr(namesrv);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(topic, "*");
        // An offset counts once its listener has returned, which is after the latch: without it the last ones stay uncommitted.
        consumer.setAwaitTerminationMillisWhenShutdown(10_000);
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            for (MessageExt message : messages) {
                got.merge(message.getBrokerName(), 1, Integer::sum);
                bodies.add(new String(message.getBody(), StandardCharsets.UTF_8));
                left.countDown();
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        boolean all = left.await(120, TimeUnit.SECONDS);
        consumer.shutdown();
        sent.forEach((broker, count) -> System.out.println("sent " + broker + " " + count));
        got.forEach((broker, count) -> System.out.println("read " + broker + " " + count));
        System.out.println("bodies " + bodies.size());
        System.exit(all ? 0 : 1);
    }
}
