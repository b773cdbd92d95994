import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import java.lang.reflect.Field;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.FutureTask;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.apache.commons.cli.CommandLine;
import org.apache.commons.cli.DefaultParser;
import org.apache.commons.cli.Options;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.TopicConfig;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.tools.admin.DefaultMQAdminExt;
import org.apache.rocketmq.tools.command.MQAdminStartup;
import org.apache.rocketmq.tools.command.SubCommand;

/**
 * Runs commands of mqadmin against one cluster: {@code Admin NAMESRV FOLDER}, with a command a line on standard input: its
 * name and arguments with tabs between, in which {broker} and the like are filled in. Prints one line for each: its name, a
 * tab and how it ended, with nothing that changes from run to run. What it printed, in full, goes to stderr. The command
 * {@code list} alone prints the names of all.
 */
public final class Admin {
    static final PrintStream OUT = System.out, ERR = System.err;
    static final Pattern CODE = Pattern.compile("CODE: (\\d+)");

    static Map<String, SubCommand> commands() throws Exception {
        MQAdminStartup.initCommand();
        Field field = MQAdminStartup.class.getDeclaredField("SUB_COMMANDS");
        field.setAccessible(true);
        Map<String, SubCommand> found = new TreeMap<>();
        for (Object command : (List<?>) field.get(null)) {
            found.put(((SubCommand) command).commandName(), (SubCommand) command);
        }
        return found;
    }

    /** How a command ended, by what it threw or printed. */
    static String ended(Throwable thrown, String text) {
        // What became of a message in other groups is what it prints, not how it ended.
        text = text.lines().filter(line -> !line.startsWith("MessageTrack")).collect(java.util.stream.Collectors.joining("\n"));
        StringBuilder all = new StringBuilder(text);
        for (Throwable e = thrown; e != null; e = e.getCause()) {
            all.append('\n').append(e);
        }
        Matcher code = CODE.matcher(all);
        if (code.find()) {
            return "code " + code.group(1);
        }
        if (thrown != null || text.contains("Exception")) {
            Matcher name = Pattern.compile("(\\w+(Exception|Error))\\b").matcher(all);
            return "failed" + (name.find() ? " " + name.group(1) : "");
        }
        return text.trim().isEmpty() ? "done, silent" : "done";
    }

    static String run(SubCommand command, String[] arguments) throws Exception {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        PrintStream captured = new PrintStream(bytes, true, "UTF-8");
        Options options = command.buildCommandlineOptions(new Options());
        options.addOption("h", "help", false, "").addOption("n", "namesrvAddr", true, "");
        FutureTask<Void> task = new FutureTask<>(() -> {
            CommandLine line = new DefaultParser().parse(options, arguments);
            command.execute(line, options, null);
            return null;
        });
        Thread thread = new Thread(task);
        thread.setDaemon(true);
        System.setOut(captured);
        System.setErr(captured);
        Throwable thrown = null;
        try {
            thread.start();
            task.get(15, TimeUnit.SECONDS);
        } catch (TimeoutException e) {
            thread.interrupt();
            return "runs on";
        } catch (ExecutionException e) {
            thrown = e.getCause();
        } finally {
            System.setOut(OUT);
            System.setErr(ERR);
        }
        String text = bytes.toString("UTF-8");
        ERR.println("== " + command.commandName() + " " + String.join(" ", arguments) + "\n" + text);
        if (thrown != null) {
            thrown.printStackTrace(ERR);
        }
        return ended(thrown, text);
    }

    public static void main(String[] arguments) throws Exception {
        Map<String, SubCommand> commands = commands();
        if ("list".equals(arguments[0])) {
            commands.keySet().forEach(OUT::println);
            System.exit(0);
        }
        System.setProperty("rocketmq.namesrv.addr", arguments[0]);
        Path folder = Paths.get(arguments[1]);
        DefaultMQAdminExt admin = new DefaultMQAdminExt();
        admin.setInstanceName("admin");
        admin.start();
        String address = admin.examineBrokerClusterInfo().getBrokerAddrTable().values().iterator().next().selectBrokerAddr();
        String broker = admin.examineBrokerClusterInfo().getBrokerAddrTable().keySet().iterator().next();
        String cluster = admin.examineBrokerClusterInfo().getClusterAddrTable().keySet().iterator().next();
        for (String topic : new String[] {"orders", "unused"}) {
            admin.createAndUpdateTopicConfig(address, new TopicConfig(topic, 2, 2, 6));
        }
        CountDownLatch consumed = new CountDownLatch(1);
        Map<String, String> names = new HashMap<>();
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer("readers");
        consumer.setInstanceName("consumer");
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe("orders", "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            consumed.countDown();
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        DefaultMQProducer producer = new DefaultMQProducer("writers");
        producer.setInstanceName("producer");
        producer.start();
        SendResult sent = null;
        for (int i = 0; i < 50 && sent == null; i++) {
            try {
                sent = producer.send(new Message("orders", "tag", "key", "body".getBytes()));
            } catch (Exception e) {
                // Its route is not known yet.
                Thread.sleep(200);
            }
        }
        DefaultMQProducer traced = new DefaultMQProducer("traced", (org.apache.rocketmq.remoting.RPCHook) null, true, null);
        traced.setInstanceName("traced");
        traced.start();
        names.put("{tracedId}", traced.send(new Message("orders", "tag", "traced", "body".getBytes())).getMsgId());
        traced.shutdown();
        consumer.start();
        consumed.await(30, TimeUnit.SECONDS);
        Files.write(folder.resolve("topics.json"), "[{\"topicName\":\"listed\",\"readQueueNums\":1,\"writeQueueNums\":1,\"perm\":6}]".getBytes());
        Files.write(folder.resolve("groups.json"), "[{\"groupName\":\"listed\"}]".getBytes());
        names.put("{addr}", address);
        names.put("{broker}", broker);
        names.put("{cluster}", cluster);
        names.put("{namesrv}", arguments[0]);
        names.put("{folder}", folder.toString());
        names.put("{uniqueId}", sent.getMsgId());
        names.put("{offsetId}", sent.getOffsetMsgId());
        names.put("{queue}", String.valueOf(sent.getMessageQueue().getQueueId()));
        names.put("{clientId}", consumer.buildMQClientId());
        List<String> lines = new ArrayList<>();
        java.util.Scanner in = new java.util.Scanner(System.in);
        while (in.hasNextLine()) {
            lines.add(in.nextLine());
        }
        for (String line : lines) {
            for (Map.Entry<String, String> name : names.entrySet()) {
                line = line.replace(name.getKey(), name.getValue());
            }
            String[] parts = line.split("\t");
            String[] rest = java.util.Arrays.copyOfRange(parts, 1, parts.length);
            OUT.println(parts[0] + "\t" + run(commands.get(parts[0]), rest));
        }
        Runtime.getRuntime().halt(0);
    }
}
