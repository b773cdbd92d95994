import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.rocketmq.common.message.MessageDecoder;
import org.apache.rocketmq.filter.expression.EvaluationContext;
import org.apache.rocketmq.filter.expression.Expression;
import org.apache.rocketmq.filter.parser.SelectorParser;

/**
 * RocketMQ's own SQL92 filter over the messages and expressions of filters/benches/rate.rs: ns an evaluation,
 * from the encoded property bytes and from ready-made maps.
 */
public final class FilterBench {
    static final int ROWS = 8192;
    static final String[] NAMES = {"TAGS", "KEYS", "UNIQ_KEY", "region", "amount", "level", "user", "channel"};
    static final String[] EXPRESSIONS = {
        "amount > 500",
        "region = 'EU' AND amount > 500",
        "region IN ('EU', 'US', 'APAC') AND amount BETWEEN 100 AND 800 AND level IS NOT NULL",
        "user STARTSWITH 'u1' OR user CONTAINS '77' OR channel ENDSWITH 'web' OR amount < 3",
        "(region = 'EU' OR region = 'US' OR region = 'MEA') AND amount > 50 AND amount < 900 AND level <> 'low' "
            + "AND (channel IN ('web', 'app', 'shop') OR channel IS NULL) AND user IS NOT NULL "
            + "AND (TAGS = 'TagA' OR TAGS = 'TagB') AND KEYS CONTAINS '7'",
    };

    /** As the broker's MessageEvaluationContext, over a message's map. */
    static final class Properties implements EvaluationContext {
        Map<String, String> map;

        public Object get(String name) {
            return map == null ? null : map.get(name);
        }

        public Map<String, Object> keyValues() {
            return map == null ? null : new HashMap<>(map);
        }
    }

    static String[] message(long row) {
        long mixed = row * 2654435761L % 4294967296L / 128;
        return new String[] {
            new String[] {"TagA", "TagB", "TagC"}[(int) (mixed % 3)],
            "order-" + row,
            String.format("7F000001%016X00000000", row),
            new String[] {"EU", "US", "APAC", "MEA"}[(int) (mixed / 3 % 4)],
            Long.toString(mixed / 12 % 1000),
            new String[] {"low", "mid", "high"}[(int) (mixed / 7 % 3)],
            "u" + mixed % 100000,
            new String[] {"web", "app", "shop", "phone"}[(int) (mixed / 5 % 4)],
        };
    }

    static volatile int sink;

    public static void main(String[] args) throws Exception {
        byte[][] encoded = new byte[ROWS][];
        List<Map<String, String>> maps = new ArrayList<>();
        for (int row = 0; row < ROWS; row++) {
            StringBuilder text = new StringBuilder();
            String[] values = message(row);
            for (int at = 0; at < NAMES.length; at++) {
                text.append(NAMES[at]).append((char) 1).append(values[at]).append((char) 2);
            }
            encoded[row] = text.toString().getBytes(StandardCharsets.UTF_8);
            maps.add(decode(encoded[row]));
        }
        Expression[] filters = new Expression[EXPRESSIONS.length];
        for (int at = 0; at < filters.length; at++) {
            filters[at] = SelectorParser.parse(EXPRESSIONS[at]);
        }
        Properties properties = new Properties();
        // All are warmed up before any is measured.
        for (int round = 0; round < 2; round++) {
            for (Expression filter : filters) {
                time(() -> overEncoded(filter, encoded, properties));
                time(() -> overMaps(filter, maps, properties));
            }
        }
        for (int at = 0; at < filters.length; at++) {
            Expression filter = filters[at];
            double whole = time(() -> overEncoded(filter, encoded, properties));
            double ready = time(() -> overMaps(filter, maps, properties));
            System.out.printf("java %.1f %.1f %d %s%n", whole, ready, overMaps(filter, maps, properties), EXPRESSIONS[at]);
        }
    }

    static Map<String, String> decode(byte[] bytes) {
        return MessageDecoder.string2messageProperties(new String(bytes, StandardCharsets.UTF_8));
    }

    static int overEncoded(Expression filter, byte[][] encoded, Properties properties) throws Exception {
        int passed = 0;
        for (byte[] bytes : encoded) {
            properties.map = decode(bytes);
            if (Boolean.TRUE.equals(filter.evaluate(properties))) {
                passed++;
            }
        }
        return passed;
    }

    static int overMaps(Expression filter, List<Map<String, String>> maps, Properties properties) throws Exception {
        int passed = 0;
        for (Map<String, String> map : maps) {
            properties.map = map;
            if (Boolean.TRUE.equals(filter.evaluate(properties))) {
                passed++;
            }
        }
        return passed;
    }

    interface Round {
        int run() throws Exception;
    }

    /** Nanoseconds a row: the best of some rounds. */
    static double time(Round round) throws Exception {
        long best = Long.MAX_VALUE;
        long start = System.nanoTime();
        while (System.nanoTime() - start < 500_000_000L) {
            long from = System.nanoTime();
            sink = round.run();
            best = Math.min(best, System.nanoTime() - from);
        }
        return (double) best / ROWS;
    }
}
