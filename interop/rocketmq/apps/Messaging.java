import io.openmessaging.Message;
import io.openmessaging.MessagingAccessPoint;
import io.openmessaging.OMS;
import io.openmessaging.OMSBuiltinKeys;
import io.openmessaging.consumer.PullConsumer;
import io.openmessaging.consumer.PushConsumer;
import io.openmessaging.producer.Producer;
import java.util.TreeSet;
import java.util.concurrent.ConcurrentSkipListSet;

/** An OpenMessaging application: {@code Messaging NAMESRV} sends in three ways, and consumes by push and by pull. */
public final class Messaging {
    public static void main(String[] args) {
        try {
            run(args);
            System.exit(0);
        } catch (Throwable e) {
            // Threads of its clients would keep the process.
            e.printStackTrace();
            System.exit(1);
        }
    }

    static void run(String[] args) throws Exception {
        MessagingAccessPoint point = OMS.getMessagingAccessPoint("oms:rocketmq://" + args[0] + "/default:default");
        point.startup();
        Producer producer = point.createProducer();
        producer.startup();
        System.out.println("sent " + (producer.send(producer.createBytesMessage("oms", "sync".getBytes())).messageId().length() > 0));
        System.out.println("sent async " + (producer.sendAsync(producer.createBytesMessage("oms", "async".getBytes())).get(10_000).messageId().length() > 0));
        Message tagged = producer.createBytesMessage("oms", "oneway".getBytes());
        tagged.putUserHeaders("region", "EU");
        producer.sendOneway(tagged);

        ConcurrentSkipListSet<String> pushed = new ConcurrentSkipListSet<>();
        PushConsumer push = point.createPushConsumer(OMS.newKeyValue().put(OMSBuiltinKeys.CONSUMER_ID, "oms-push"));
        push.attachQueue("oms", (message, context) -> {
            String region = message.userHeaders().getString("region");
            pushed.add(new String(message.getBody(byte[].class)) + (region == null ? "" : " of " + region));
            context.ack();
        });
        push.startup();
        for (int i = 0; i < 400 && pushed.size() < 3; i++) {
            Thread.sleep(100);
        }
        System.out.println("pushed " + pushed);

        PullConsumer pull = point.createPullConsumer(OMS.newKeyValue().put(OMSBuiltinKeys.CONSUMER_ID, "oms-pull"));
        pull.attachQueue("oms");
        pull.startup();
        TreeSet<String> pulled = new TreeSet<>();
        for (int i = 0; i < 40 && pulled.size() < 3; i++) {
            Message message = pull.receive(OMS.newKeyValue().put(OMSBuiltinKeys.OPERATION_TIMEOUT, 1_000));
            if (message != null) {
                pulled.add(new String(message.getBody(byte[].class)));
                pull.ack(message.sysHeaders().getString(Message.BuiltinKeys.MESSAGE_ID));
            }
        }
        System.out.println("pulled " + pulled);
        pull.shutdown();
        push.shutdown();
        producer.shutdown();
        point.shutdown();
    }
}
