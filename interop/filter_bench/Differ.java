import java.io.BufferedReader;
import java.io.ByteArrayOutputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;
import org.apache.rocketmq.filter.expression.EvaluationContext;
import org.apache.rocketmq.filter.expression.Expression;
import org.apache.rocketmq.filter.parser.SelectorParser;

/** Puts the engine's answer before each case of filters/examples/differ.rs. */
public final class Differ {
    public static void main(String[] args) throws Exception {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.US_ASCII));
        PrintStream out = new PrintStream(System.out, false, "US-ASCII");
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] fields = line.split("\t", -1);
            Map<String, String> properties = new HashMap<>();
            for (int at = 1; at + 1 < fields.length; at += 2) {
                properties.put(text(fields[at]), text(fields[at + 1]));
            }
            out.print(answer(text(fields[0]), properties) + "\t" + line + "\n");
        }
        out.flush();
    }

    static String answer(String text, Map<String, String> properties) {
        Expression expression;
        try {
            expression = SelectorParser.parse(text);
        } catch (Throwable refused) {
            return "parse_error";
        }
        try {
            Object found = expression.evaluate(new EvaluationContext() {
                public Object get(String name) {
                    return properties.get(name);
                }

                public Map<String, Object> keyValues() {
                    return new HashMap<>(properties);
                }
            });
            return String.valueOf(found);
        } catch (Throwable failed) {
            return "raises";
        }
    }

    static String text(String hex) {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        for (int at = 0; at < hex.length(); at += 2) {
            bytes.write(Integer.parseInt(hex.substring(at, at + 2), 16));
        }
        return new String(bytes.toByteArray(), StandardCharsets.UTF_8);
    }
}
