//! Sends numbered spans over OTLP/HTTP with the Rust SDK's exporter; see README.md.

use std::collections::HashMap;
use std::env;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_executor::block_on;
use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};

const SPANS_PER_BATCH: u64 = 5;

fn span(number: u64) -> SpanData {
    let context = SpanContext::new(
        TraceId::from(1),
        SpanId::from(1),
        TraceFlags::SAMPLED,
        false,
        TraceState::default(),
    );
    SpanData {
        span_context: context,
        parent_span_id: SpanId::INVALID,
        parent_span_is_remote: false,
        span_kind: SpanKind::Internal,
        name: "item".into(),
        start_time: SystemTime::now(),
        end_time: SystemTime::now(),
        attributes: vec![KeyValue::new("test.number", number as i64)],
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: InstrumentationScope::builder("tests").build(),
    }
}

fn pause(up_to_ms: u64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
    let micros = u64::from(now.subsec_nanos()) % (up_to_ms * 1000 + 1);
    thread::sleep(Duration::from_micros(micros));
}

fn send(url: &str, authorization: &str, batches: std::ops::Range<u64>, pause_ms: u64) -> u64 {
    let headers = HashMap::from([("Authorization".to_string(), authorization.to_string())]);
    let exporter = SpanExporter::builder()
        .with_http()
        .with_endpoint(url)
        .with_headers(headers)
        .with_retry_policy(RetryPolicy::disabled())
        .build()
        .expect("an exporter");
    let mut failed = 0;
    for batch in batches {
        let first = batch * SPANS_PER_BATCH;
        let spans = (first..first + SPANS_PER_BATCH).map(span).collect();
        if let Err(error) = block_on(exporter.export(spans)) {
            failed += 1;
            eprintln!("failed: {error:?}");
        }
        pause(pause_ms);
    }
    failed
}

fn main() {
    let arguments: Vec<String> = env::args().collect();
    let (url, authorization) = (&arguments[1], &arguments[2]);
    let number = |at: usize| arguments[at].parse::<u64>().expect("a number");
    let (senders, batches, pause_ms) = (number(3), number(4), number(5));
    let failed: u64 = thread::scope(|scope| {
        let running: Vec<_> = (0..senders)
            .map(|sender| {
                let own = sender * batches..(sender + 1) * batches;
                scope.spawn(move || send(url, authorization, own, pause_ms))
            })
            .collect();
        running.into_iter().map(|sender| sender.join().expect("a count")).sum()
    });
    println!("batches {}, failed {failed}", senders * batches);
}
