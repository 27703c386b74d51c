import io.opentelemetry.api.trace.Tracer;
import io.opentelemetry.context.Context;
import io.opentelemetry.exporter.otlp.http.trace.OtlpHttpSpanExporter;
import io.opentelemetry.sdk.common.CompletableResultCode;
import io.opentelemetry.sdk.trace.ReadWriteSpan;
import io.opentelemetry.sdk.trace.ReadableSpan;
import io.opentelemetry.sdk.trace.SdkTracerProvider;
import io.opentelemetry.sdk.trace.SpanProcessor;
import io.opentelemetry.sdk.trace.data.SpanData;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;

/** Sends numbered spans over OTLP/HTTP with the Java SDK's exporter; see README.md. */
public final class Exporter {
    private static final int SPANS_PER_BATCH = 5;
    private static final String PROVIDER = "io.opentelemetry.sdk.common.export.HttpSenderProvider";

    /** OkHttp, the default, which sends once more itself when a connection ends; and the JDK's client. */
    private static final String[] SENDERS = {
        "io.opentelemetry.exporter.sender.okhttp.internal.OkHttpHttpSenderProvider",
        "io.opentelemetry.exporter.sender.jdk.internal.JdkHttpSenderProvider",
    };

    private Exporter() {}

    /** Keeps the spans that have ended. */
    private static final class Ended implements SpanProcessor {
        final List<SpanData> spans = new ArrayList<>();

        @Override
        public void onStart(Context parent, ReadWriteSpan span) {}

        @Override
        public boolean isStartRequired() {
            return false;
        }

        @Override
        public void onEnd(ReadableSpan span) {
            spans.add(span.toSpanData());
        }

        @Override
        public boolean isEndRequired() {
            return true;
        }
    }

    private static List<SpanData> batch(int first) {
        Ended ended = new Ended();
        try (SdkTracerProvider provider =
                SdkTracerProvider.builder().addSpanProcessor(ended).build()) {
            Tracer tracer = provider.get("tests");
            for (int i = 0; i < SPANS_PER_BATCH; i++) {
                tracer.spanBuilder("item").setAttribute("test.number", first + i).startSpan().end();
            }
        }
        return ended.spans;
    }

    private static void send(
            OtlpHttpSpanExporter exporter, int firstBatch, int batches, int pauseMs, AtomicInteger failed) {
        for (int i = firstBatch; i < firstBatch + batches; i++) {
            CompletableResultCode result =
                    exporter.export(batch(i * SPANS_PER_BATCH)).join(20, TimeUnit.SECONDS);
            if (!result.isSuccess()) {
                failed.incrementAndGet();
                System.err.println("failed: " + result.getFailureThrowable());
            }
            try {
                Thread.sleep(ThreadLocalRandom.current().nextInt(pauseMs + 1));
            } catch (InterruptedException error) {
                throw new IllegalStateException(error);
            }
        }
    }

    public static void main(String[] arguments) throws InterruptedException {
        int senders = Integer.parseInt(arguments[2]);
        int batches = Integer.parseInt(arguments[3]);
        int pauseMs = Integer.parseInt(arguments[4]);
        AtomicInteger failed = new AtomicInteger();
        List<Thread> threads = new ArrayList<>();
        List<OtlpHttpSpanExporter> exporters = new ArrayList<>();
        for (int sender = 0; sender < senders; sender++) {
            System.setProperty(PROVIDER, SENDERS[sender % SENDERS.length]);
            OtlpHttpSpanExporter exporter =
                    OtlpHttpSpanExporter.builder()
                            .setEndpoint(arguments[0])
                            .addHeader("Authorization", arguments[1])
                            .setRetryPolicy(null)
                            .build();
            int first = sender * batches;
            exporters.add(exporter);
            threads.add(new Thread(() -> send(exporter, first, batches, pauseMs, failed)));
        }
        for (Thread thread : threads) {
            thread.start();
        }
        for (Thread thread : threads) {
            thread.join();
        }
        exporters.forEach(OtlpHttpSpanExporter::close);
        System.out.println("batches " + senders * batches + ", failed " + failed);
    }
}
