// Sends numbered spans over OTLP/HTTP with the Node SDK's exporter; see README.md.
import { setTimeout } from 'node:timers/promises';
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-http';
import {
  BasicTracerProvider,
  InMemorySpanExporter,
  SimpleSpanProcessor,
} from '@opentelemetry/sdk-trace-base';

const SPANS_PER_BATCH = 5;
const [url, authorization, ...numbers] = process.argv.slice(2);
const [senders, batches, pauseMs] = numbers.map(Number);

function batch(first) {
  const memory = new InMemorySpanExporter();
  const provider = new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(memory)] });
  const tracer = provider.getTracer('tests');
  for (let i = 0; i < SPANS_PER_BATCH; i++) {
    tracer.startSpan('item', { attributes: { 'test.number': first + i } }).end();
  }
  return memory.getFinishedSpans();
}

let failed = 0;

async function send(sender) {
  const exporter = new OTLPTraceExporter({ url, headers: { Authorization: authorization } });
  for (let i = 0; i < batches; i++) {
    const spans = batch((sender * batches + i) * SPANS_PER_BATCH);
    const result = await new Promise((resolve) => exporter.export(spans, resolve));
    if (result.code !== 0) {
      failed += 1;
      console.error('failed:', result.error);
    }
    await setTimeout(Math.random() * pauseMs);
  }
  await exporter.shutdown();
}

await Promise.all(Array.from({ length: senders }, (_, sender) => send(sender)));
console.log(`batches ${senders * batches}, failed ${failed}`);
