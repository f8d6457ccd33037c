//! Telling people, over a server of our own.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    sync::{Arc, Mutex},
    thread,
};

use hemostat_act::Channel;
use model::{ClusterAction, Effect, Notify, Target};
use serde_json::{Value, json};

use crate::world::World;

/// What was asked: its head and its body.
type Heard = Arc<Mutex<Vec<(String, String)>>>;

/// Answers as told, one answer for each request; then it ends.
fn other_side(answers: Vec<(u16, Value)>) -> (String, Heard) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let heard = Heard::default();
    let kept = Arc::clone(&heard);
    thread::spawn(move || {
        for (status, answer) in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
            let (head, length) = loop {
                let n = stream.read(&mut buffer).unwrap();
                bytes.extend_from_slice(&buffer[..n]);
                let text = String::from_utf8_lossy(&bytes).into_owned();
                if let Some((head, _)) = text.split_once("\r\n\r\n") {
                    let length = head.lines().find_map(|l| {
                        l.to_lowercase().strip_prefix("content-length: ").map(|n| n.parse().unwrap())
                    });
                    break (head.to_owned(), head.len() + 4 + length.unwrap_or(0));
                }
            };
            while bytes.len() < length {
                let n = stream.read(&mut buffer).unwrap();
                bytes.extend_from_slice(&buffer[..n]);
            }
            let body = String::from_utf8_lossy(&bytes[head.len() + 4..]).into_owned();
            kept.lock().unwrap().push((head, body));
            let answer = answer.to_string();
            let text = format!(
                "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{answer}",
                answer.len()
            );
            stream.write_all(text.as_bytes()).unwrap();
        }
    });
    (address, heard)
}

fn channel(text: Value) -> Channel {
    serde_json::from_value(text).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_are_told_once_after_failures_and_secrets_are_in_no_message() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "s3cret\n").unwrap();
    let (hook, told) = other_side(vec![(503, json!({})), (200, json!({}))]);
    let (github, opened) =
        other_side(vec![(200, json!([])), (201, json!({"html_url": "https://example.com/issues/1"}))]);
    let (pager, paged) = other_side(vec![(202, json!({}))]);
    let (jira, asked) = other_side(vec![(200, json!({"issues": [{"key": "SEC-7"}]}))]);
    // As in the cloud, where the old way of searching is gone.
    let (fresh, filed) = other_side(vec![
        (410, json!({"errorMessages": ["The requested API has been removed."]})),
        (200, json!({"issues": []})),
        (201, json!({"id": "1", "key": "SEC-8"})),
    ]);
    let (slack, posted) = other_side(vec![(200, json!("ok"))]);
    // Whoever knows Slack's address may write there: it is the secret.
    let address = folder.path().join("address");
    std::fs::write(&address, format!("{slack}\n")).unwrap();
    let (broken, _) = other_side(vec![(400, json!({}))]);
    let channels = vec![
        channel(json!({"name": "hook", "kind": "webhook", "url": hook, "secretFile": secret})),
        channel(
            json!({"name": "tracker", "kind": "gitHub", "url": github, "repository": "o/r", "secretFile": secret}),
        ),
        channel(json!({"name": "pager", "kind": "pagerDuty", "url": pager, "secretFile": secret})),
        channel(json!({"name": "jira", "kind": "jira", "url": jira, "project": "SEC", "secretFile": secret})),
        channel(
            json!({"name": "fresh", "kind": "jira", "url": fresh, "project": "SEC", "secretFile": secret}),
        ),
        channel(json!({"name": "chat", "kind": "slack", "secretFile": address})),
        channel(json!({"name": "broken", "kind": "webhook", "url": broken})),
    ];
    let Some(world) = World::with_channels("notify.send", channels).await else { return };
    let tell = |message: &str| ClusterAction::Notify(Notify { message: message.into() });
    let to = |name: &str| Target::Channel { name: name.into() };

    let act = world.begin(tell("a <b> & `c`"), to("hook")).await.unwrap();
    assert!(matches!(act.verify().await.unwrap(), Effect::Missing { .. }));
    act.apply().await.unwrap();
    act.apply().await.unwrap();
    assert_eq!(act.verify().await.unwrap(), Effect::InForce);
    let heard = told.lock().unwrap().clone();
    assert_eq!(heard.len(), 2, "tried again once, and not sent twice");
    assert!(heard[1].0.to_lowercase().contains("authorization: bearer s3cret"));
    assert!(heard[1].0.to_lowercase().contains("idempotency-key: inc-1/act-"));
    assert!(heard[1].1.contains("a <b> & `c`"));

    let act = world.begin(tell("x"), to("tracker")).await.unwrap();
    assert_eq!(act.apply().await.unwrap()["url"], "https://example.com/issues/1");
    assert!(opened.lock().unwrap()[0].0.starts_with("GET /repos/o/r/issues?state=all&labels=hemostat-"));

    let act = world.begin(tell("x"), to("jira")).await.unwrap();
    assert!(
        act.apply().await.unwrap()["url"].as_str().unwrap().ends_with("/browse/SEC-7"),
        "the ticket that is there"
    );
    assert_eq!(asked.lock().unwrap().len(), 1);

    let act = world.begin(tell("x"), to("fresh")).await.unwrap();
    let ticket = act.apply().await.unwrap()["url"].as_str().unwrap().to_owned();
    assert!(ticket.ends_with("/browse/SEC-8"), "{ticket}");
    let filed = filed.lock().unwrap().clone();
    assert_eq!(filed.len(), 3, "{filed:?}");
    assert!(filed[1].0.starts_with("GET /rest/api/3/search/jql?fields=key&jql=labels"), "{filed:?}");
    assert!(filed[2].0.starts_with("POST /rest/api/2/issue"), "{filed:?}");
    assert!(filed[2].1.contains(r#""key":"SEC""#), "{filed:?}");

    // What was attacked writes no mention and no link there.
    let act = world.begin(tell("<!channel> & <https://example.com|here>"), to("chat")).await.unwrap();
    act.apply().await.unwrap();
    let posted = posted.lock().unwrap().clone();
    assert_eq!(posted.len(), 1);
    assert!(posted[0].1.contains("&lt;!channel&gt; &amp; &lt;https://example.com|here&gt;"), "{posted:?}");

    let act = world.begin(tell("x"), to("pager")).await.unwrap();
    act.apply().await.unwrap();
    assert!(paged.lock().unwrap()[0].1.contains(r#""dedup_key":"inc-1""#));

    let act = world.begin(tell("x"), to("broken")).await.unwrap();
    let refused = act.apply().await.err().unwrap().to_string();
    assert!(refused.contains("400") && !refused.contains("127.0.0.1"), "{refused}");
    assert!(world.begin(tell("x"), to("nobody")).await.is_err());
}
