//! What is put in is there after a crash, once, and never more than the limit.

use proptest::prelude::*;

use super::{
    super::{position::Start, tail::Tail},
    *,
};

const AT: Timestamp = Timestamp(1_795_359_845_000_000_000);

fn entry(body: &[u8]) -> Entry<'_> {
    Entry { key: Key::of(&[body]), body: Ok(body) }
}

fn put(inbox: &Inbox, bodies: &[&[u8]]) -> Result<Taken, InboxError> {
    let entries: Vec<Entry<'_>> = bodies.iter().map(|body| entry(body)).collect();
    inbox.append(AT, "192.0.2.1", &entries, Durable::Now)
}

fn read(tail: &mut Tail) -> Vec<String> {
    let mut texts = Vec::new();
    loop {
        let mut lines = Vec::new();
        tail.next(7, &mut lines).unwrap();
        // One empty look may only have moved on to the next file.
        if lines.is_empty() {
            tail.next(7, &mut lines).unwrap();
        }
        if lines.is_empty() {
            return texts;
        }
        for line in &lines {
            let envelope = Envelope::open(&line.text).unwrap();
            assert_eq!((envelope.received, envelope.from), (AT, "192.0.2.1"));
            texts.push(String::from_utf8(envelope.body.unwrap().to_vec()).unwrap());
        }
    }
}

#[test]
fn i3_what_comes_again_is_there_once_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let inbox = Inbox::open(folder.path()).unwrap();
    assert_eq!(put(&inbox, &[b"a", b"b", b"a"]).unwrap(), Taken { new: 2, again: 1 });
    drop(inbox);
    let inbox = Inbox::open(folder.path()).unwrap();
    assert_eq!(put(&inbox, &[b"b", b"c"]).unwrap(), Taken { new: 1, again: 1 });
    let mut tail = Tail::new(&inbox.log(), None, Start::Beginning).of_our_own();
    assert_eq!(read(&mut tail), ["a", "b", "c"]);
}

#[test]
fn a_line_that_a_crash_tore_is_taken_away_and_comes_again() {
    let folder = tempfile::tempdir().unwrap();
    let inbox = Inbox::open(folder.path()).unwrap();
    put(&inbox, &[b"a", b"b"]).unwrap();
    let whole = fs::read(inbox.log()).unwrap();
    drop(inbox);
    for cut in 1..whole.len() {
        fs::write(log(folder.path()), &whole[..cut]).unwrap();
        let inbox = Inbox::open(folder.path()).unwrap();
        put(&inbox, &[b"a", b"b"]).unwrap();
        let mut tail = Tail::new(&inbox.log(), None, Start::Beginning).of_our_own();
        assert_eq!(read(&mut tail), ["a", "b"], "cut at {cut}");
    }
}

#[test]
fn i11_a_full_inbox_takes_nothing_and_room_comes_back_as_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let inbox = Inbox::with_limits(folder.path(), 4000, 500).unwrap();
    let bodies: Vec<String> = (0..1000).map(|n| format!("record {n}")).collect();
    let mut taken = 0;
    while put(&inbox, &[bodies[taken].as_bytes()]).is_ok() {
        taken += 1;
    }
    assert!((50..120).contains(&taken), "{taken}");
    assert!(inbox.held() <= 4000);
    assert!(matches!(put(&inbox, &[b"x", b"y"]), Err(InboxError::Full { limit: 4000, .. })));
    let mut tail = Tail::new(&inbox.log(), None, Start::Beginning).of_our_own();
    assert_eq!(read(&mut tail), bodies[..taken], "nothing of what did not fit");
    inbox.settled(&tail.position()).unwrap();
    assert!(inbox.held() <= 1000, "the last two files stay: {}", inbox.held());
    put(&inbox, &[b"x"]).unwrap();
    assert_eq!(read(&mut tail), ["x"]);
}

#[test]
fn what_is_read_again_from_a_position_is_what_came_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let inbox = Inbox::with_limits(folder.path(), 1 << 20, 300).unwrap();
    let mut tail = Tail::new(&inbox.log(), None, Start::Beginning).of_our_own();
    let mut told = Vec::new();
    for n in 0..200 {
        put(&inbox, &[format!("record {n}").as_bytes()]).unwrap();
        if n % 3 == 0 {
            told.extend(read(&mut tail));
        }
        if n % 7 == 0 {
            // A restart.
            let position = tail.position();
            inbox.settled(&position).unwrap();
            tail = Tail::new(&inbox.log(), Some(position), Start::Beginning).of_our_own();
        }
    }
    told.extend(read(&mut tail));
    let all: Vec<String> = (0..200).map(|n| format!("record {n}")).collect();
    assert_eq!(told, all);
    assert_eq!(tail.gaps(), []);
}

#[test]
fn what_was_refused_keeps_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let inbox = Inbox::open(folder.path()).unwrap();
    let why = Rejected { place: "column 1".into(), reason: "no\tJSON\n".into() };
    let body = vec![b'\n'; 5000];
    let refused = Entry { key: Key::NONE, body: Err((why, &body)) };
    inbox.append(AT, "a\tb", &[refused], Durable::Now).unwrap();
    let text = fs::read(inbox.log()).unwrap();
    let line = text.strip_suffix(b"\n").unwrap();
    let envelope = Envelope::open(line).unwrap();
    let (why, beginning) = envelope.body.unwrap_err();
    assert_eq!((envelope.from, why.to_string().as_str()), ("a b", "column 1: no JSON "));
    assert_eq!(beginning.len(), REFUSED);
}

proptest! {
    /// Whatever is sent is one line, and comes out as it went in.
    #[test]
    fn any_body_is_one_line(body in proptest::collection::vec(any::<u8>(), 0..300), from in ".{0,200}") {
        let mut lines = Vec::new();
        write_line(&mut lines, AT, &from, &entry(&body));
        prop_assert_eq!(lines.iter().filter(|byte| **byte == b'\n').count(), 1);
        lines.pop();
        let envelope = Envelope::open(&lines).unwrap();
        let plain: Vec<u8> = body.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }).collect();
        prop_assert_eq!(envelope.body.unwrap(), &plain[..]);
        prop_assert_eq!(envelope.received, AT);
    }

    #[test]
    fn any_line_is_an_envelope_or_none(line in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _opened = Envelope::open(&line);
    }
}
