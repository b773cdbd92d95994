/** An application that logs ten lines by the logger that its configuration names: {@code Logs KIND}. */
public final class Logs {
    public static void main(String[] args) throws Exception {
        switch (args[0]) {
            case "logback" -> {
                org.slf4j.Logger log = org.slf4j.LoggerFactory.getLogger("shop.Orders");
                for (int i = 0; i < 10; i++) {
                    log.info("order {} made", i);
                }
                ((ch.qos.logback.classic.LoggerContext) org.slf4j.LoggerFactory.getILoggerFactory()).stop();
            }
            case "log4j2" -> {
                org.apache.logging.log4j.Logger log = org.apache.logging.log4j.LogManager.getLogger("shop.Orders");
                for (int i = 0; i < 10; i++) {
                    log.info("order {} made", i);
                }
                org.apache.logging.log4j.LogManager.shutdown();
            }
            case "log4j" -> {
                org.apache.log4j.Logger log = org.apache.log4j.Logger.getLogger("shop.Orders");
                for (int i = 0; i < 10; i++) {
                    log.info("order " + i + " made");
                }
                org.apache.log4j.LogManager.shutdown();
            }
            default -> throw new IllegalArgumentException(args[0]);
        }
        System.exit(0);
    }
}
