//! Every format's first good record, spoilt in each way: what is spoilt is a dead letter with its reason and counted, and the good record
//! behind it is taken.

use super::*;

/// What becomes of a spoilt record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Becomes {
    /// Refused, with this in the reason or the place.
    Refused(&'static str),
    /// Taken: it is readable all the same.
    Taken,
}

/// Bytes that no record may be made of, and how each format of [`Format::ALL`] takes them.
fn spoilt(format: Format, good: &[u8]) -> Vec<(&'static str, Vec<u8>, Becomes)> {
    use Becomes::{Refused, Taken};
    let is_text = format == Format::Auth;
    let within = |bytes: &[u8]| {
        let at = good.len() / 2;
        [&good[..at], bytes, &good[at..]].concat()
    };
    let utf16 = |little: bool| {
        let units = std::str::from_utf8(good).unwrap().encode_utf16();
        let bytes = |unit: u16| if little { unit.to_le_bytes() } else { unit.to_be_bytes() };
        [0xfeff].into_iter().chain(units).flat_map(bytes).filter(|byte| *byte != b'\n').collect::<Vec<u8>>()
    };
    // A program may log any bytes: those of a line of syslog are shown, not refused.
    let bytes = |reason| if is_text { Taken } else { Refused(reason) };
    let mut all = vec![
        ("beheaded", good[3..].to_vec(), Refused("")),
        ("empty object", b"{}x".to_vec(), Refused("")),
        ("oversized", vec![b'x'; MAX_RECORD + 1], Refused("at most")),
        ("oversized and never ending", [good, &vec![b' '; 3 * MAX_RECORD]].concat(), Refused("at most")),
        ("nested lists", vec![b'['; 200_000], Refused("")),
        ("nested objects", "{\"a\":".repeat(150_000).into_bytes(), Refused("")),
        ("not UTF-8", within(b"\xff\xc3\x28"), bytes("")),
        ("half of a surrogate pair in UTF-8", within(b"\xed\xa0\x80"), bytes("")),
        ("UTF-16, little end first", utf16(true), Refused("")),
        ("UTF-16, big end first", utf16(false), Refused("")),
        ("a mark in front", [b"\xef\xbb\xbf", good].concat(), Taken),
        ("zeros within", within(&[0; 9]), bytes("")),
        ("zeros alone", vec![0; 4096], Refused("")),
        ("escapes alone", b"\x1b[2J\x1b]0;x\x07\xc2\x9b31m".to_vec(), Refused("")),
    ];
    // Times that the samples have: the year in words, or its seconds in digits.
    let text = String::from_utf8(good.to_vec()).unwrap();
    let is_worded = text.contains("2026-11-2") && !matches!(format, Format::Journal | Format::VpcFlow);
    let (now, times): (&str, &[(&str, &str, Becomes)]) = if is_worded {
        (
            "2026-11-",
            &[
                ("1970", "1970-01-", Taken),
                ("the year 9999", "9999-11-", Refused("")),
                ("the year 0", "0000-11-", Refused("")),
                ("before 1970", "1969-11-", Refused("")),
                ("a negative year", "-026-11-", Refused("")),
                ("the 13th month", "2026-13-", Refused("")),
            ],
        )
    } else {
        (
            "1795",
            &[
                ("years ago", "1", Taken),
                ("beyond all years", "99999999999999999999", Refused("")),
                ("negative", "-1795", Refused("")),
            ],
        )
    };
    assert!(text.contains(now), "{}: {text}", format.name());
    // Lines of flows are our own: what a datagram can say of its time has no sign.
    let times = times.iter().filter(|(name, ..)| format != Format::Netflow || *name != "negative");
    all.extend(times.map(|(name, then, becomes)| (*name, text.replace(now, then).into_bytes(), *becomes)));
    all
}

/// The first line of a format's samples that gives a record.
fn good(format: Format) -> Vec<u8> {
    let path = format!("{}/tests/ingest/{}.log", env!("CARGO_MANIFEST_DIR"), format.name());
    let text = std::fs::read_to_string(path).unwrap();
    let mut reader = Reader::new(format, Zone::UTC);
    let line = text.lines().find(|line| {
        let mut told = vec![];
        let read = reader.read(line.as_bytes(), Place { offset: 0, now: NOW }, &mut told);
        read.is_ok() && told.len() == 1 && (line.contains("2026-11-") || line.contains("1795"))
    });
    line.unwrap().as_bytes().to_vec()
}

#[test]
fn i11_what_is_spoilt_is_a_dead_letter_and_the_good_record_behind_it_is_taken() {
    let mut wrong = vec![];
    for format in Format::ALL {
        let good = good(format);
        let bench = Bench::new(format, Start::Beginning);
        write(bench.log(), "").unwrap();
        let mut run = Running::start(&bench);
        let mut letters = 0;
        for (name, bytes, becomes) in spoilt(format, &good) {
            let before = run.source.counts;
            let mut file = OpenOptions::new().append(true).open(bench.log()).unwrap();
            file.write_all(&[&bytes, b"\n".as_slice(), &good, b"\n"].concat()).unwrap();
            // A line that is very long takes more than one look.
            for _ in 0..8 {
                run.read();
            }
            drop(run.heard());
            let now = run.source.counts;
            let (refused, taken) = (now.rejected - before.rejected, now.records - before.records);
            let expected = if becomes == Becomes::Taken { (0, 2) } else { (1, 1) };
            let what = format!("{}, {name}: {refused} refused, {taken} taken", format.name());
            if (refused, taken) != expected {
                wrong.push(what);
                letters += refused;
                continue;
            }
            letters += refused;
            let Becomes::Refused(word) = becomes else { continue };
            let text = std::fs::read_to_string(run.source.dead.path()).unwrap();
            let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
            let (place, reason) = (last["place"].as_str().unwrap(), last["reason"].as_str().unwrap());
            assert!(!place.is_empty() && !reason.is_empty() && reason.contains(word), "{what}: {last}");
            assert!(last["record"].as_str().unwrap().len() <= 3 * 2048, "{what}");
            assert_eq!(text.lines().count() as u64, letters, "{what}");
            assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{what}: {text:?}");
            let said = run.source.degraded(NOW).join("\n");
            assert!(said.contains("records refused"), "{what}: {said}");
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A mark in front of a header, too: it says what the columns of all lines behind it are.
#[test]
fn a_mark_in_front_of_a_header_hides_no_column() {
    let bench = Bench::new(Format::VpcFlow, Start::Beginning);
    write(
        bench.log(),
        "\u{feff}dstaddr srcaddr start end action\n10.0.0.5 203.0.113.12 1795359600 1795359660 REJECT\n",
    )
    .unwrap();
    let mut run = Running::start(&bench);
    run.read();
    assert_eq!((run.source.counts.records, run.source.counts.rejected), (1, 0), "{:?}", run.source.refused);
    // Read on from its middle, the first line is looked at again.
    let mut reader = Reader::new(Format::VpcFlow, Zone::UTC);
    reader.first_line("\u{feff}dstaddr srcaddr start end action".as_bytes());
    let mut told = vec![];
    let line = b"10.0.0.5 203.0.113.12 1795359600 1795359660 REJECT";
    reader.read(line, Place { offset: 9, now: NOW }, &mut told).unwrap();
    assert_eq!(told.len(), 1);
}
