//! What can be sent to the control socket beside what our own client sends: cut, oversized, unending, no HTTP at all.

use std::time::Duration;

use model::{IncidentState, Level, Report};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

use crate::{
    lab::Lab,
    support::{Faint, finding},
};

/// Sends a whole request; what comes back until the other side is through.
async fn send(lab: &Lab, bytes: &[u8]) -> String {
    exchange(lab, bytes, Then::Listen).await
}

/// Sends this, and then nothing ever again.
async fn send_part(lab: &Lab, bytes: &[u8]) -> String {
    exchange(lab, bytes, Then::End).await
}

#[derive(PartialEq)]
enum Then {
    Listen,
    End,
}

async fn exchange(lab: &Lab, bytes: &[u8], then: Then) -> String {
    let mut stream = UnixStream::connect(lab.dir.path().join("controller.sock")).await.unwrap();
    // Whoever is refused in the middle need not be read to the end.
    let _refused = stream.write_all(bytes).await;
    if then == Then::End {
        let _ended = stream.shutdown().await;
    }
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(120), stream.read_to_end(&mut answer)).await;
    let _cut = read.expect("it is answered or ended");
    String::from_utf8_lossy(&answer).into_owned()
}

fn request(path: &str, length: usize, body: &str) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body.as_bytes()].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_cut_oversized_or_no_request_at_all_is_refused_and_changes_nothing() {
    let mut lab = Lab::start("Auto").await;
    lab.spool(Report::Finding(finding(1, 100, Level::High)));
    lab.connect(Faint::Never);
    let incident = lab.until_state(IncidentState::NeedsApproval).await;
    let before = lab.client.audit(0, 1000).await.unwrap().anchor;
    let path = format!("/v1/incidents/{}/approve", incident.id);

    let long = format!("{{\"because\": \"{}\"}}", "x".repeat(70_000));
    let said = send(&lab, &request(&path, long.len(), &long)).await;
    assert!(said.starts_with("HTTP/1.1 400") && said.contains("more than 65536 bytes"), "{said}");
    let whole = "{\"because\": \"yes\"}";
    for cut in 0..whole.len() {
        let said = send_part(&lab, &request(&path, whole.len(), &whole[..cut])).await;
        assert!(!said.starts_with("HTTP/1.1 2"), "cut at {cut}: {said}");
    }
    for body in ["{", "7", "{\"becose\": \"\"}", "{\"because\": 7}", "\u{0}"] {
        let said = send(&lab, &request(&path, body.len(), body)).await;
        assert!(
            said.starts_with("HTTP/1.1 400") && said.contains("\"kind\":\"malformed\""),
            "{body:?}: {said}"
        );
    }
    let header = format!("GET /v1/status HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(4 << 20));
    let said = send(&lab, header.as_bytes()).await;
    assert!(!said.starts_with("HTTP/1.1 2"), "{}", &said[..said.len().min(100)]);
    for noise in [&[0xff; 4096][..], b"SSH-2.0-x\r\n\r\n", b"GET", b""] {
        let said = send_part(&lab, noise).await;
        assert!(!said.starts_with("HTTP/1.1 2"), "{said}");
    }
    // Who says nothing keeps nobody else from being answered.
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(UnixStream::connect(lab.dir.path().join("controller.sock")).await.unwrap());
    }
    assert_eq!(lab.client.audit(0, 1000).await.unwrap().anchor, before, "nothing was changed by any of it");
    let waiting = &lab.client.incident(incident.id.as_str()).await.unwrap().incident.runs[0].waiting;
    assert_eq!(waiting.len(), 1, "it still waits for a person");
    drop(silent);
    lab.stop().await;
}
