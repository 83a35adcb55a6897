package bench;

import io.confluent.parallelconsumer.ParallelConsumerOptions;
import io.confluent.parallelconsumer.ParallelConsumerOptions.CommitMode;
import io.confluent.parallelconsumer.ParallelConsumerOptions.ProcessingOrder;
import io.confluent.parallelconsumer.ParallelEoSStreamProcessor;
import io.confluent.parallelconsumer.ParallelStreamProcessor;
import java.lang.management.ManagementFactory;
import java.lang.management.ThreadMXBean;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.AtomicLongArray;
import java.util.function.ToLongFunction;
import java.util.zip.CRC32;
import org.apache.kafka.clients.consumer.ConsumerInterceptor;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/** One run under the contract of common.py; prints one line of JSON. */
public final class Contestant {
  private static final Map<TopicPartition, Long> COMMITTED = new ConcurrentHashMap<>();
  private static final CountDownLatch ALL_COMMITTED = new CountDownLatch(1);
  private static volatile long count;
  private static volatile long endedAt;
  private static volatile long cpuAtEnd;
  private static final AtomicLong BEGUN_AT = new AtomicLong();
  private static volatile long cpuAtBegin;

  private Contestant() {}

  /** Starts the clock with the first records, and stops it with the broker's word on the last commit. */
  public static final class Clock implements ConsumerInterceptor<byte[], byte[]> {
    @Override
    public void onCommit(Map<TopicPartition, OffsetAndMetadata> offsets) {
      offsets.forEach((partition, offset) -> COMMITTED.merge(partition, offset.offset(), Math::max));
      long total = COMMITTED.values().stream().mapToLong(Long::longValue).sum();
      if (total >= count && ALL_COMMITTED.getCount() > 0) {
        endedAt = System.nanoTime();
        cpuAtEnd = cpuNanos();
        ALL_COMMITTED.countDown();
      }
    }

    @Override
    public ConsumerRecords<byte[], byte[]> onConsume(ConsumerRecords<byte[], byte[]> records) {
      if (!records.isEmpty() && BEGUN_AT.compareAndSet(0, System.nanoTime())) {
        cpuAtBegin = cpuNanos();
      }
      return records;
    }

    @Override
    public void close() {}

    @Override
    public void configure(Map<String, ?> configuration) {}
  }

  private static long cpuNanos() {
    return ((com.sun.management.OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean())
        .getProcessCpuTime();
  }

  private interface Work {
    void on(byte[] value) throws InterruptedException;
  }

  private static Work work(String spec) {
    String[] parts = spec.split(":");
    return switch (parts[0]) {
      case "noop" -> value -> {};
      case "sleep" -> {
        long nanos = nanos(parts[1], 1e6);
        yield value -> TimeUnit.NANOSECONDS.sleep(nanos);
      }
      case "skew" -> {
        long brief = nanos(parts[1], 1e6);
        double percent = Double.parseDouble(parts[2]);
        long lengthy = nanos(parts[3], 1e6);
        yield value -> {
          CRC32 crc = new CRC32();
          crc.update(value, 0, 12);
          TimeUnit.NANOSECONDS.sleep(crc.getValue() % 100 < percent ? lengthy : brief);
        };
      }
      case "cpu" -> {
        long nanos = nanos(parts[1], 1e3);
        ThreadMXBean threads = ManagementFactory.getThreadMXBean();
        yield value -> {
          long end = threads.getCurrentThreadCpuTime() + nanos;
          while (threads.getCurrentThreadCpuTime() < end) {
            Thread.onSpinWait();
          }
        };
      }
      default -> throw new IllegalArgumentException(spec);
    };
  }

  private static long nanos(String amount, double unit) {
    return (long) (Double.parseDouble(amount) * unit);
  }

  public static void main(String[] arguments) throws Exception {
    Map<String, String> given = new HashMap<>();
    for (int i = 0; i + 1 < arguments.length; i += 2) {
      given.put(arguments[i].substring(2), arguments[i + 1]);
    }
    ToLongFunction<String> number = name -> Long.parseLong(given.get(name));
    count = number.applyAsLong("count");
    int keys = (int) number.applyAsLong("keys");
    Work work = work(given.get("work"));

    Properties properties = new Properties();
    properties.put("bootstrap.servers", given.get("bootstrap"));
    properties.put("group.id", given.get("group"));
    properties.put("auto.offset.reset", "earliest");
    properties.put("enable.auto.commit", "false");
    properties.put("key.deserializer", ByteArrayDeserializer.class.getName());
    properties.put("value.deserializer", ByteArrayDeserializer.class.getName());
    properties.put("interceptor.classes", Clock.class.getName());
    properties.put("max.poll.records", "5000");

    boolean byKey = given.get("ordering").equals("key");
    var options = ParallelConsumerOptions.<byte[], byte[]>builder()
        .ordering(byKey ? ProcessingOrder.KEY : ProcessingOrder.UNORDERED)
        .maxConcurrency((int) number.applyAsLong("workers"))
        .batchSize((int) number.applyAsLong("batch"))
        .commitMode(CommitMode.PERIODIC_CONSUMER_ASYNCHRONOUS)
        .commitInterval(Duration.ofMillis(nanos(given.get("commit-interval"), 1e3)))
        .consumer(new KafkaConsumer<>(properties));
    if (number.applyAsLong("held") > 0) {
      options.messageBufferSize((int) number.applyAsLong("held"));
    }
    var consumer = (ParallelEoSStreamProcessor<byte[], byte[]>)
        ParallelStreamProcessor.createEosStreamProcessor(options.build());

    AtomicLong processed = new AtomicLong();
    AtomicLong outOfOrder = new AtomicLong();
    AtomicLongArray last = new AtomicLongArray(Math.max(1, keys));
    CountDownLatch allProcessed = new CountDownLatch(1);
    consumer.subscribe(List.of(given.get("topic")));
    consumer.poll(context -> {
      int[] done = {0};
      context.forEach(record -> {
        if (keys > 0) {
          long index = Long.parseLong(new String(record.value(), 0, 12, StandardCharsets.US_ASCII));
          if (last.getAndSet((int) (index % keys), index) > index) {
            outOfOrder.incrementAndGet();
          }
        }
        try {
          work.on(record.value());
        } catch (InterruptedException e) {
          throw new IllegalStateException(e);
        }
        done[0]++;
      });
      if (processed.addAndGet(done[0]) >= count) {
        allProcessed.countDown();
      }
    });
    while (!allProcessed.await(200, TimeUnit.MILLISECONDS)) {
      if (consumer.isClosedOrFailed()) {
        throw new IllegalStateException("the consumer stopped", consumer.getFailureCause());
      }
    }
    // The last commit at once, as the others do, rather than up to an interval later.
    long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(60);
    do {
      consumer.requestCommitAsap();
      if (System.nanoTime() > deadline) {
        throw new IllegalStateException("not committed after a minute: " + COMMITTED);
      }
    } while (!ALL_COMMITTED.await(5, TimeUnit.MILLISECONDS));

    double rss = 0;
    for (String line : Files.readAllLines(Path.of("/proc/self/status"))) {
      if (line.startsWith("VmHWM:")) {
        rss = Long.parseLong(line.replaceAll("\\D+", "")) / 1024.0;
      }
    }
    System.out.println(String.format(
        Locale.ROOT,
        "{\"messages\": %d, \"seconds\": %.6f, \"cpu\": %.4f, \"rss_mb\": %.1f, \"out_of_order\": %d, \"java\": \"%s\"}",
        processed.get(), (endedAt - BEGUN_AT.get()) / 1e9, (cpuAtEnd - cpuAtBegin) / 1e9, rss, outOfOrder.get(),
        Runtime.version().feature()));
    System.out.flush();
    // Nothing is left to do: no shutdown to wait for.
    Runtime.getRuntime().halt(0);
  }
}
