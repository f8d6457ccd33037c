//! Sends traces to a collector (OTLP over gRPC). It has a task and a bounded queue of its own: whoever has a trace to send never waits, and a
//! collector that is slow, away or wrong costs its traces and nothing else.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use model::Timestamp;
use opentelemetry::{
    InstrumentationScope, KeyValue,
    trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState},
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Failed, Span};
use crate::metrics::{Metrics, kind};

/// Traces that wait to be sent; further ones are counted as dropped.
const QUEUE: usize = 64;
/// A collector has so long to take one.
const PATIENCE: Duration = Duration::from_secs(5);
/// What is still queued at the end has so long in all.
const LAST: Duration = Duration::from_secs(2);

/// Where traces are put.
#[derive(Debug, Clone)]
pub(crate) struct Sending {
    queue: mpsc::Sender<Vec<Span>>,
    metrics: Arc<Metrics>,
}

impl Sending {
    /// A queue, and its other end for [`follow`].
    pub(crate) fn new(metrics: Arc<Metrics>) -> (Self, mpsc::Receiver<Vec<Span>>) {
        let (queue, taken) = mpsc::channel(QUEUE);
        (Self { queue, metrics }, taken)
    }

    /// Never waits.
    pub(crate) fn put(&self, spans: Vec<Span>) {
        if !spans.is_empty() && self.queue.try_send(spans).is_err() {
            self.metrics.traces.get_or_create(&kind("dropped")).inc();
        }
    }
}

/// Sends what is put until `stop`.
pub(crate) async fn follow(
    endpoint: String,
    mut taken: mpsc::Receiver<Vec<Span>>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let built = SpanExporter::builder().with_tonic().with_endpoint(&endpoint).with_timeout(PATIENCE).build();
    let mut exporter = match built {
        Ok(exporter) => exporter,
        Err(error) => {
            tracing::error!(%error, "no traces are sent: the collector's address cannot be used");
            while taken.recv().await.is_some() {
                metrics.traces.get_or_create(&kind("dropped")).inc();
            }
            return;
        }
    };
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    exporter.set_resource(
        &Resource::builder_empty().with_service_name("hemostat").with_attribute(version).build(),
    );
    loop {
        let spans = tokio::select! {
            spans = taken.recv() => spans,
            () = stop.cancelled() => break,
        };
        let Some(spans) = spans else { break };
        tokio::select! {
            () = send(&exporter, spans, &metrics) => {}
            () = stop.cancelled() => break,
        }
    }
    taken.close();
    let rest = async {
        while let Some(spans) = taken.recv().await {
            send(&exporter, spans, &metrics).await;
        }
    };
    drop(tokio::time::timeout(LAST, rest).await);
}

async fn send(exporter: &SpanExporter, spans: Vec<Span>, metrics: &Metrics) {
    let batch = spans.into_iter().map(data).collect();
    let sent = tokio::time::timeout(PATIENCE * 2, exporter.export(batch)).await;
    let result = match sent {
        Ok(Ok(())) => "sent",
        Ok(Err(error)) => {
            tracing::debug!(%error, "a trace was not taken");
            "failed"
        }
        Err(_) => "failed",
    };
    metrics.traces.get_or_create(&kind(result)).inc();
}

fn data(span: Span) -> SpanData {
    let context = SpanContext::new(
        TraceId::from_bytes(span.trace),
        SpanId::from_bytes(span.id),
        TraceFlags::SAMPLED,
        false,
        TraceState::default(),
    );
    SpanData {
        span_context: context,
        parent_span_id: span.parent.map_or(SpanId::INVALID, SpanId::from_bytes),
        parent_span_is_remote: false,
        span_kind: SpanKind::Internal,
        name: span.name.into(),
        start_time: time(span.start),
        end_time: time(span.end),
        attributes: span.attributes.into_iter().map(|(key, value)| KeyValue::new(key, value)).collect(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: match span.failed {
            Failed::No => Status::Unset,
            Failed::Yes => Status::error(""),
        },
        instrumentation_scope: InstrumentationScope::builder("hemostat").build(),
    }
}

fn time(at: Timestamp) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(u64::try_from(at.0).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Failed;

    #[test]
    fn i11_what_finds_no_room_is_dropped_and_counted_and_nobody_waits() {
        let metrics = Arc::new(Metrics::default());
        let (sending, _taken) = Sending::new(Arc::clone(&metrics));
        let span = || Span {
            trace: [1; 16],
            id: [1; 8],
            parent: None,
            name: "incident",
            start: Timestamp(1),
            end: Timestamp(2),
            attributes: Vec::new(),
            failed: Failed::No,
        };
        for _ in 0..QUEUE + 3 {
            sending.put(vec![span()]);
        }
        assert_eq!(metrics.traces.get_or_create(&kind("dropped")).get(), 3);
    }
}
