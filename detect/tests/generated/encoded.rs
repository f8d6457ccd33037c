//! The encoding modifiers against rsigma-eval 0.23 and against Base64 itself: which characters of an encoded text do not depend on what
//! stands around it is found here by encoding it among many neighbours, and not by counting bits.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hemostat_detect::{
    load::load,
    matcher::{Options, RuleSet},
    reference,
    schema::{Category, DraftValue, Drafted, Field},
    source::SourceFile,
};
use proptest::{collection::vec, prelude::*, sample::select};
use rsigma_eval::{Engine, JsonEvent};

/// A form of UTF-16, as it stands in a key, and its encoding.
#[derive(Debug, Clone, Copy)]
enum Form {
    Utf8,
    Wide,
    Utf16Le,
    Utf16Be,
    Utf16,
}

const FORMS: [Form; 5] = [Form::Utf8, Form::Wide, Form::Utf16Le, Form::Utf16Be, Form::Utf16];

impl Form {
    fn modifier(self) -> &'static str {
        match self {
            Self::Utf8 => "",
            Self::Wide => "wide|",
            Self::Utf16Le => "utf16le|",
            Self::Utf16Be => "utf16be|",
            Self::Utf16 => "utf16|",
        }
    }

    fn encode(self, text: &str) -> Vec<u8> {
        let units = |bytes: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(bytes);
        match self {
            Self::Utf8 => text.as_bytes().to_vec(),
            Self::Wide | Self::Utf16Le => units(u16::to_le_bytes).collect(),
            Self::Utf16Be => units(u16::to_be_bytes).collect(),
            Self::Utf16 => [0xff, 0xfe].into_iter().chain(units(u16::to_le_bytes)).collect(),
        }
    }
}

/// The interpreter's answer, the compiled matcher's and rsigma's.
fn answers(key: &str, word: &str, line: &str) -> (bool, bool, bool) {
    let text = format!(
        "title: t\nlogsource: {{product: linux, category: process_creation}}\ndetection:\n  s:\n    CommandLine|{key}: '{word}'\n  condition: s\n"
    );
    let loaded = load(&[SourceFile { name: "r.yml".into(), text: text.clone() }]);
    assert_eq!(loaded.errors(), 0, "{text}{:?}", loaded.diagnostics);
    let drafted =
        Drafted::new(Category::ProcessCreation, &[(Field::CommandLine, DraftValue::One(line.into()))])
            .unwrap();
    let mut hits = vec![];
    let (set, _) = RuleSet::compile(&loaded.rules, Options::default());
    Arc::new(set).matcher().evaluate(drafted.event(), &mut hits);
    let mut engine = Engine::new();
    engine.add_collection(&rsigma_parser::parse_sigma_yaml(&text).unwrap()).unwrap();
    let json = serde_json::json!({ "CommandLine": line });
    let theirs = !engine.evaluate(&JsonEvent::borrow(&json)).is_empty();
    (reference::matches(&loaded.rules[0], &drafted.view()), !hits.is_empty(), theirs)
}

/// For each position in a group of three, the characters that are the same whatever stands before and after.
fn static_parts(bytes: &[u8]) -> Vec<String> {
    (0..3_usize)
        .map(|shift| {
            let among = |neighbour: u8| {
                // Whole groups, so that no padding looks static.
                let after = 3 + (3 - (shift + bytes.len()) % 3) % 3;
                let around = [vec![neighbour; shift], bytes.to_vec(), vec![neighbour; after]].concat();
                STANDARD.encode(around).into_bytes()
            };
            let all: Vec<Vec<u8>> = (0..=255).map(among).collect();
            let same = (0..all[0].len()).filter(|at| all.iter().all(|one| one[*at] == all[0][*at]));
            same.map(|at| char::from(all[0][at])).collect()
        })
        .collect()
}

fn word() -> impl Strategy<Value = String> {
    const PIECES: [&str; 13] = ["a", "Z", "/bin/sh", "IEX", " ", "=", "-e", "ä", "€", "😀", "0", "nc", "."];
    vec(select(&PIECES[..]), 2..6).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// Every encoding by itself is one text: both engines say the same of any line.
    #[test]
    fn base64_agrees_with_rsigma(
        word in word(), other in word(), form in select(&FORMS[..]), place in select(&["", "|contains", "|startswith", "|endswith", "|cased"][..]),
        (before, after) in (select(&["", "x ", "YQ"][..]), select(&["", " x", "="][..])), near in any::<bool>(),
    ) {
        let held = if near { &word } else { &other };
        let line = format!("{before}{}{after}", STANDARD.encode(form.encode(held)));
        let (ours, compiled, theirs) = answers(&format!("{}base64{place}", form.modifier()), &word, &line);
        prop_assert_eq!((ours, compiled), (theirs, theirs), "{} of {:?} on {}", form.modifier(), word, line);
    }

    /// What rsigma finds is found here; what is found here has the static part of the word; and where the bits behind the word are zero, which is
    /// what rsigma takes for granted, both are the same.
    #[test]
    fn base64offset_finds_all_that_rsigma_finds_and_what_is_static(
        (word, other) in (word(), word()), form in select(&FORMS[..]),
        (before, after) in (vec(any::<u8>(), 0..5), vec(any::<u8>(), 0..5)), near in any::<bool>(), cut in any::<prop::sample::Index>(),
    ) {
        let bytes = form.encode(if near { &word } else { &other });
        let mut encoded = STANDARD.encode([before.as_slice(), &bytes, &after].concat());
        if !near {
            // One that has lost a character in its middle is nearly right.
            encoded.remove(cut.index(encoded.len()));
        }
        let line = format!("echo {encoded} | sh");
        let key = format!("{}base64offset|contains", form.modifier());
        let (ours, compiled, theirs) = answers(&key, &word, &line);
        let lower = line.to_lowercase();
        let held = static_parts(&form.encode(&word)).iter().any(|part| lower.contains(&part.to_lowercase()));
        prop_assert_eq!((ours, compiled), (held, held), "{} of {:?} on {}", form.modifier(), word, line);
        prop_assert!(ours || !theirs, "rsigma finds {} of {:?} on {}", form.modifier(), word, line);
        if near {
            prop_assert!(ours, "it is there: {} of {:?} on {}", form.modifier(), word, line);
            let zeros = after.first().is_none_or(|byte| *byte == 0);
            prop_assert!(theirs || !zeros, "rsigma, {} of {:?} on {}", form.modifier(), word, line);
        }
    }
}

#[test]
fn the_static_parts_are_those_of_the_specifications_example() {
    // pySigma's own example of `base64offset` is "foobar".
    assert_eq!(static_parts(b"foobar"), ["Zm9vYmFy", "Zvb2Jhc", "mb29iYX"]);
}
