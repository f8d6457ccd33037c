//! Traces of incidents at a played collector; and a collector that never answers keeps nobody waiting.

use std::{sync::Arc, time::Duration};

use model::*;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
    trace_service_server::{TraceService, TraceServiceServer},
};
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::{net::TcpListener, sync::mpsc};
use tonic::{Request, Response, Status};

use crate::{
    lab::{Lab, new_dir},
    support::{Faint, finding},
};

struct Played(mpsc::Sender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for Played {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.send(request.into_inner()).await.map_err(|_| Status::unavailable("gone"))?;
        Ok(Response::new(ExportTraceServiceResponse { partial_success: None }))
    }
}

/// A collector on loopback; its address and what it is sent.
async fn collector() -> (String, mpsc::Receiver<ExportTraceServiceRequest>, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (taken, sent) = mpsc::channel(16);
    let served = tokio::spawn(async move {
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(Played(taken)));
        drop(server.serve_with_incoming(incoming).await);
    });
    (address, sent, served)
}

fn spans(request: ExportTraceServiceRequest) -> Vec<Span> {
    let scopes = request.resource_spans.into_iter().flat_map(|one| one.scope_spans);
    scopes.flat_map(|scope| scope.spans).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_incident_comes_to_a_collector_as_one_trace_from_event_to_audit() {
    let (address, mut sent, served) = collector().await;
    let mut lab = Lab::start_in(new_dir("Auto"), |config| config.traces = Some(address)).await;
    lab.spool(Report::Finding(finding(1, 100, Level::High)));
    lab.connect(Faint::Never);
    let incident = lab.until(|line| line.contained.is_some() && line.waiting == 1).await;
    lab.client.judge(incident.id.as_str(), Verdict::FalsePositive, "a test").await.unwrap();
    lab.until(|line| line.actions_in_force == 0).await;
    let wanted = [
        "incident", "event", "detect", "run", "gate", "capture", "apply", "verify", "approval", "revert",
        "person", "audit",
    ];
    let all = loop {
        let request = tokio::time::timeout(Duration::from_secs(120), sent.recv()).await.unwrap().unwrap();
        let all = spans(request);
        if wanted.iter().all(|name| all.iter().any(|span| span.name == *name)) {
            break all;
        }
    };
    let root = all.iter().find(|span| span.parent_span_id.is_empty()).unwrap();
    assert_eq!(
        (root.name.as_str(), all.iter().filter(|span| span.parent_span_id.is_empty()).count()),
        ("incident", 1)
    );
    let ids: std::collections::BTreeSet<_> = all.iter().map(|span| span.span_id.clone()).collect();
    assert_eq!(ids.len(), all.len(), "every span has a name of its own");
    for span in &all {
        assert_eq!(span.trace_id, root.trace_id);
        assert!(span.parent_span_id.is_empty() || ids.contains(&span.parent_span_id), "{span:?}");
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano, "{span:?}");
    }
    // It is counted once the collector's answer is there.
    let counted = async {
        while !lab.client.metrics().await.unwrap().contains("traces_total{kind=\"sent\"}") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), counted).await.unwrap();
    lab.stop().await;
    served.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_never_answers_keeps_nobody_waiting() {
    // It takes the connection and says nothing.
    let silent = Arc::new(TcpListener::bind("127.0.0.1:0").await.unwrap());
    let address = format!("http://{}", silent.local_addr().unwrap());
    let mut lab = Lab::start_in(new_dir("Auto"), |config| config.traces = Some(address)).await;
    for n in 1..=3 {
        lab.spool(Report::Finding(crate::whole::apart(n, 100 * n as u32, n * 10)));
    }
    lab.connect(Faint::Never);
    lab.until_world(|world| world.in_force.len() == 6).await;
    for line in lab.client.incidents(10).await.unwrap().incidents {
        lab.client.judge(line.id.as_str(), Verdict::FalsePositive, "").await.unwrap();
    }
    lab.until_world(|world| world.in_force.is_empty()).await;
    lab.stop().await;
}
