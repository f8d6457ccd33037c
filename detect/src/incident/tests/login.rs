//! A login and what its session does.

use super::*;
use crate::schema::Field;

/// sshd let somebody in, and the kernel says which process wrote so.
pub(super) fn record(writer: RecordWriter) -> Record {
    let mut facts = Facts::default();
    let said = [(Field::AuthAction, "login"), (Field::AuthOutcome, "success"), (Field::AuthTrust, "vouched")];
    for (field, word) in said {
        facts.set(field.name(), Fact::Text(word.into()));
    }
    Record {
        kind: RecordKind::Sshd,
        id: format!("{}-{}", writer.pid, writer.at.0),
        principal: None,
        origin: None,
        object: None,
        sight: None,
        writer: Some(writer),
        facts,
    }
}

/// pid 56 of sshd, there since second 56 after boot, lets somebody in at `second`.
fn login(second: u64) -> Finding {
    Seed { login: Some((56, second)), seq: 900 + second, ..Seed::default() }.finding()
}

/// What a session does whose shell, pid 70, was started by sshd's pid 56 at second 70.
fn act() -> Finding {
    Seed { pid: 100, ancestors: vec![70, 56], ..Seed::default() }.finding()
}

fn together(one: &Finding, other: &Finding) -> bool {
    let both = |first: &Finding, second: &Finding| {
        let mut correlator = Correlator::new(config(60));
        let opened = correlator.place(first, at(0)).incident;
        let mut again = Correlator::restore(config(60), correlator.groups.into_values());
        again.place(second, at(0)).incident == opened
    };
    let joined = both(one, other);
    assert_eq!(joined, both(other, one), "whatever comes first");
    joined
}

fn say(record: &mut Record, field: Field, word: &str) {
    record.facts.set(field.name(), Fact::Text(word.into()));
}

fn change(finding: &mut Finding, change: impl FnOnce(&mut Record)) {
    let Activity::Record(record) = &mut finding.event.activity else { panic!("no record") };
    change(Arc::make_mut(record));
}

#[test]
fn a_login_and_what_its_session_does_are_one_story_without_any_address() {
    assert!(together(&login(60), &act()));
    let mut correlator = Correlator::new(config(60));
    correlator.place(&act(), at(0));
    let placed = correlator.place(&login(60), at(0));
    assert_eq!(placed.shared[0].to_string(), "session of sshd process 56 on n");
    // What another ancestor of it does, too, and not what is done in another session of the same sshd.
    let deep = Seed { pid: 120, ancestors: vec![110, 105, 70, 57, 56], ..Seed::default() }.finding();
    assert!(together(&login(56), &deep));
    let other = Seed { pid: 101, ancestors: vec![71, 57], ..Seed::default() }.finding();
    assert!(!together(&login(60), &other));
}

#[test]
fn a_pid_that_is_used_again_joins_nothing() {
    // Written before that process was there, and after it had started the session: under that pid it may have been any other.
    for second in [55, 71, 100] {
        assert!(!together(&login(second), &act()), "{second}");
    }
    for second in [56, 70] {
        assert!(together(&login(second), &act()), "{second}");
    }
    // Of a parent that is younger than its child it is not known when it was there.
    let adopted = Seed { pid: 100, ancestors: vec![50, 56], ..Seed::default() }.finding();
    assert!(!together(&login(56), &adopted));
}

#[test]
fn a_line_that_no_kernel_vouches_for_and_another_machine_s_join_nothing() {
    let with = |change_it: fn(&mut Record)| {
        let mut finding = login(60);
        change(&mut finding, change_it);
        together(&finding, &act())
    };
    assert!(with(|_| ()));
    assert!(!with(|record| record.writer = None));
    assert!(!with(|record| say(record, Field::AuthTrust, "claimed")));
    assert!(!with(|record| say(record, Field::AuthTrust, "contradicted")));
    assert!(!with(|record| say(record, Field::AuthOutcome, "failure")));
    assert!(!with(|record| say(record, Field::AuthAction, "other")));
    assert!(!with(|record| record.kind = RecordKind::Sudo));
    assert!(!with(|record| record.writer.as_mut().unwrap().host = NodeId::new("m")));
    assert!(!with(|record| record.writer.as_mut().unwrap().pid = Pid(58)));
    // A process of another program has let nobody in, whatever its pid.
    let mut act = act();
    Arc::make_mut(&mut act.ancestors[1]).exe = "/usr/bin/sshd-agent".into();
    assert!(!together(&login(60), &act));
    Arc::make_mut(&mut act.ancestors[1]).exe = "/usr/lib/openssh/sshd-session".into();
    act.event.id.node = NodeId::new("N");
    assert!(together(&login(60), &act), "a host's name in capitals");
}

#[test]
fn what_is_stored_of_it_is_read_again_and_far_apart_it_joins_nothing() {
    let mut correlator = Correlator::new(config(60));
    let first = correlator.place(&login(60), at(0)).incident;
    let text = serde_json::to_string(correlator.group(&first).unwrap()).unwrap();
    let group: Group = serde_json::from_str(&text).unwrap();
    let mut again = Correlator::restore(config(60), [group]);
    let late = Finding { first: at(61), ..act() };
    assert_ne!(again.place(&late, at(61)).incident, first, "beyond the window");
    assert_eq!(again.place(&Finding { first: at(59), ..act() }, at(61)).incident, first);
}
