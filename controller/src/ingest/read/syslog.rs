//! Lines of syslog (RFC 3164, RFC 5424, rsyslog's RFC 3339 form) and of `journalctl -o json`: who says what, when.

use model::{BootNs, NodeId, Pid, RecordWriter, Timestamp};
use serde_json::Value;

use super::{
    Rejected, Told,
    json::{parse, text},
    linux,
    time::{self, Zone},
};

/// Microseconds that a line may wait for journald.
const LONGEST_LAG: u64 = 60_000_000;

/// What a line says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Said<'a> {
    pub(super) host: &'a str,
    pub(super) program: &'a str,
    pub(super) message: &'a str,
    pub(super) time: Timestamp,
    pub(super) trust: Trust<'a>,
}

/// Who vouches for what a line says of its sender. Any local user may write to /dev/log under any name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust<'a> {
    /// The kernel: journald asked it who sent the line, and that is who may send it.
    Vouched,
    /// Nobody.
    Claimed,
    /// The kernel says that it was somebody else: the user id and the executable.
    Contradicted { uid: &'a str, exe: &'a str },
}

/// Reads a line of a syslog file.
pub(super) fn read_line(
    line: &[u8],
    now: Timestamp,
    zone: &Zone,
    told: &mut Vec<Told>,
) -> Result<(), Rejected> {
    let line = String::from_utf8_lossy(line);
    let line = line.trim_end();
    let (rest, priority) = priority(line);
    let said = match rest.strip_prefix("1 ") {
        Some(rest) if priority => rfc5424(rest, zone),
        _ => plain(rest, now, zone),
    };
    let said = said.map_err(|reason| Rejected::at("line", reason))?;
    told.extend(linux::read(&said));
    Ok(())
}

/// Reads a line of `journalctl -o json`.
pub(super) fn read_journal(line: &[u8], told: &mut Vec<Told>) -> Result<(), Rejected> {
    let value: Value = parse(line)?;
    if !value.is_object() {
        return Err(Rejected::at("$", "not an object"));
    }
    let micros =
        ["_SOURCE_REALTIME_TIMESTAMP", "__REALTIME_TIMESTAMP"].iter().find_map(|key| text(&value, key));
    let micros = micros.ok_or_else(|| Rejected::at("__REALTIME_TIMESTAMP", "missing"))?;
    let number =
        micros.parse::<i64>().ok().and_then(|micros| micros.checked_mul(1000)).filter(|nanos| *nanos >= 0);
    let time = number.map(Timestamp).ok_or_else(|| Rejected::at("__REALTIME_TIMESTAMP", "not a number"))?;
    // journald writes a message that is not UTF-8 as a list of bytes.
    let message = match value.get("MESSAGE") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(bytes)) => {
            let bytes: Vec<u8> = bytes.iter().filter_map(|byte| u8::try_from(byte.as_u64()?).ok()).collect();
            String::from_utf8_lossy(&bytes).into_owned()
        }
        _ => return Ok(()),
    };
    let program = text(&value, "SYSLOG_IDENTIFIER").or_else(|| text(&value, "_COMM")).unwrap_or_default();
    let host = text(&value, "_HOSTNAME").unwrap_or_default();
    // Fields with an underscore are journald's own, asked of the kernel; the others are the sender's word.
    let uid = text(&value, "_UID").unwrap_or_default();
    let exe = text(&value, "_EXE").or_else(|| text(&value, "_COMM")).unwrap_or_default();
    let sender = linux::Sender { uid: &uid, exe: &exe };
    let trust = linux::trust(&program, &sender);
    let said = Said { host: &host, program: &program, message: &message, time, trust };
    told.extend(linux::read(&said).map(|mut one| {
        if let Some(cursor) = text(&value, "__CURSOR") {
            one.record.id = model::short_hash([cursor.as_ref()], 12);
        }
        if trust == Trust::Vouched {
            one.record.writer = writer(&value);
        }
        one
    }));
    Ok(())
}

/// Which process wrote a line, by journald's own fields: the kernel told it the pid and when the line was sent. journald says by the clock since
/// boot only when it took the line in, and by the wall clock both.
fn writer(value: &Value) -> Option<RecordWriter> {
    let micros = |name: &str| text(value, name)?.parse::<u64>().ok();
    let host = text(value, "_HOSTNAME").filter(|host| !host.is_empty())?.to_ascii_lowercase();
    let pid = text(value, "_PID")?.parse().ok().filter(|pid| *pid > 0)?;
    let taken = micros("__MONOTONIC_TIMESTAMP")?;
    let lag = match (micros("__REALTIME_TIMESTAMP"), micros("_SOURCE_REALTIME_TIMESTAMP")) {
        (Some(taken), Some(sent)) => taken.saturating_sub(sent),
        _ => 0,
    };
    // Longer than journald ever takes: the wall clock was set in between, and nothing is certain.
    let sent = taken.checked_sub(lag).filter(|_| lag <= LONGEST_LAG)?;
    let at = BootNs(sent.checked_mul(1000)?);
    Some(RecordWriter { host: NodeId::new(host), pid: Pid(pid), at })
}

/// Without `<34>`, and whether it was there.
fn priority(line: &str) -> (&str, bool) {
    let without = line.strip_prefix('<').and_then(|rest| rest.split_once('>'));
    match without {
        Some((number, rest)) if number.len() <= 3 && number.bytes().all(|byte| byte.is_ascii_digit()) => {
            (rest, true)
        }
        _ => (line, false),
    }
}

/// `2026-11-22T15:04:05.123+01:00 host sshd[77]: message` or `Nov 22 15:04:05 host sshd[77]: message`.
fn plain<'a>(line: &'a str, now: Timestamp, zone: &Zone) -> Result<Said<'a>, &'static str> {
    let stamped = line
        .split_once(' ')
        .and_then(|(stamp, rest)| Some((time::stamped(stamp, zone)?, rest)))
        .or_else(|| Some((time::rfc3164(line.get(..15)?, now, zone)?, line.get(15..)?)));
    let (time, rest) = stamped.ok_or("it begins with no time of RFC 3339 or RFC 3164")?;
    let (host, rest) = rest.trim_start().split_once(' ').ok_or("no host after the time")?;
    let (tag, message) = rest
        .split_once(": ")
        .or_else(|| rest.strip_suffix(':').map(|tag| (tag, "")))
        .ok_or("no `program:` after the host")?;
    let program = tag.split(['[', '(']).next().unwrap_or(tag);
    if program.contains(' ') {
        return Err("no `program:` after the host");
    }
    Ok(Said { host, program: base(program), message, time, trust: Trust::Claimed })
}

/// `2026-11-22T15:04:05Z host sshd 77 - - message`.
fn rfc5424<'a>(line: &'a str, zone: &Zone) -> Result<Said<'a>, &'static str> {
    let mut parts = line.splitn(6, ' ');
    let mut next = || parts.next().ok_or("an RFC 5424 line with too few parts");
    let (stamp, host, program, _process, _id, rest) = (next()?, next()?, next()?, next()?, next()?, next()?);
    let time = time::stamped(stamp, zone).ok_or("its time is not RFC 3339")?;
    let message = if let Some(rest) = rest.strip_prefix('-') { rest } else { after_structured(rest)? };
    Ok(Said {
        host,
        program: base(program),
        message: message.trim_start().trim_start_matches('\u{feff}'),
        time,
        trust: Trust::Claimed,
    })
}

/// What follows structured data: `[id a="b\]c"][id2]`.
fn after_structured(text: &str) -> Result<&str, &'static str> {
    let (mut quoted, mut escaped, mut depth) = (false, false, 0_u32);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '[' if !quoted => depth += 1,
            ']' if !quoted => depth = depth.saturating_sub(1),
            ' ' if depth == 0 => return Ok(&text[at..]),
            _ => {}
        }
    }
    if depth == 0 && !quoted { Ok("") } else { Err("its structured data does not end") }
}

/// `/usr/sbin/sshd` is `sshd`.
fn base(program: &str) -> &str {
    program.rsplit('/').next().unwrap_or(program)
}
