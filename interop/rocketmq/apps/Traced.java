import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.rebalance.AllocateMessageQueueAveragely;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/** A shop and its billing, both of which trace: {@code Traced NAMESRV} prints what became of each message, and its id. */
public final class Traced {
    public static void main(String[] args) throws Exception {
        System.setProperty("rocketmq.namesrv.addr", args[0]);
        DefaultMQProducer producer = new DefaultMQProducer("shop", null, true, null);
        producer.start();
        List<String> names = List.of("fine", "retried", "dead");
        List<String> ids = new ArrayList<>();
        for (String name : names) {
            Message m = new Message("orders", "made", name, ("{\"order\": \"" + name + "\"}").getBytes());
            ids.add(producer.send(m).getMsgId());
        }
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer("billing", null, new AllocateMessageQueueAveragely(), true, null);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.setMaxReconsumeTimes(1);
        consumer.subscribe("orders", "*");
        ConcurrentHashMap<String, AtomicInteger> came = new ConcurrentHashMap<>();
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            context.setDelayLevelWhenNextConsume(1);
            MessageExt m = messages.get(0);
            int times = came.computeIfAbsent(m.getKeys(), key -> new AtomicInteger()).incrementAndGet();
            boolean fails = m.getKeys().equals("dead") || m.getKeys().equals("retried") && times == 1;
            return fails ? ConsumeConcurrentlyStatus.RECONSUME_LATER : ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        for (int i = 0; i < 600 && came.values().stream().mapToInt(AtomicInteger::get).sum() < 5; i++) {
            Thread.sleep(100);
        }
        Thread.sleep(1_000);
        // What they traced goes out with them.
        consumer.shutdown();
        producer.shutdown();
        for (int i = 0; i < names.size(); i++) {
            System.out.println(names.get(i) + " " + ids.get(i));
        }
        System.exit(0);
    }
}
