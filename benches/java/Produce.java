// Sends messages with RocketMQ's own Java client from many threads, and prints what it reached as one line of JSON.
//
//   java -cp CLASSPATH benches/java/Produce.java NAMESRV TOPIC THREADS MESSAGES BYTES

import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.message.Message;

public class Produce {
    public static void main(String[] args) throws Exception {
        String topic = args[1];
        int threads = Integer.parseInt(args[2]);
        int messages = Integer.parseInt(args[3]);
        byte[] body = new byte[Integer.parseInt(args[4])];
        DefaultMQProducer producer = new DefaultMQProducer("bench");
        producer.setNamesrvAddr(args[0]);
        producer.setCompressMsgBodyOverHowmuch(Integer.MAX_VALUE);
        producer.start();
        // The first sends make the topic and warm the virtual machine.
        for (int i = 0; i < 2000; i++) {
            producer.send(new Message(topic, body));
        }
        AtomicInteger left = new AtomicInteger(messages);
        AtomicLong failed = new AtomicLong();
        CountDownLatch done = new CountDownLatch(threads);
        long begun = System.nanoTime();
        for (int i = 0; i < threads; i++) {
            new Thread(() -> {
                while (left.getAndDecrement() > 0) {
                    try {
                        if (producer.send(new Message(topic, body)).getSendStatus() != SendStatus.SEND_OK) {
                            failed.incrementAndGet();
                        }
                    } catch (Exception e) {
                        failed.incrementAndGet();
                    }
                }
                done.countDown();
            }).start();
        }
        done.await();
        double seconds = (System.nanoTime() - begun) / 1e9;
        producer.shutdown();
        System.out.printf("{\"messages\": %d, \"failed\": %d, \"seconds\": %.3f, \"messages_per_second\": %.0f}%n",
            messages, failed.get(), seconds, messages / seconds);
        System.exit(failed.get() == 0 ? 0 : 1);
    }
}
