//! Whatever an attacker writes into names, arguments, paths, titles and reasons: the page gets no tag, attribute, script or link from it, Markdown no
//! structure, a terminal no order, a shell no second command.

mod sample;

use std::collections::BTreeSet;

use hemostat_narrate::{Desk, answers, html, markdown};
use proptest::prelude::*;
use pulldown_cmark::{Event, Options, Parser, Tag};

const NASTY: &[&str] = &[
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "\"><svg onload=alert(1)>",
    "' onmouseover='alert(1)",
    "</title></style></text></svg><b>",
    "<!--",
    "-->",
    "]]>",
    "<![CDATA[<x>",
    "&lt;script&gt;",
    "&#x3c;b&#x3e;",
    "javascript:alert(1)",
    "<a href=javascript:alert(1)>x</a>",
    "[x](javascript:alert(1))",
    "![x](http://203.0.113.9/p.png)",
    "<http://203.0.113.9>",
    "http://203.0.113.9/a www.example.org",
    "@ada #1 GH-1",
    "`",
    "``` \n# owned",
    "~~~\n",
    "``````x``````",
    "| a | b |\n|---|---|",
    "\n\n# Heading\n\n- item\n\n<b>x</b>\n",
    "\r\n\r\nX: y",
    "    indented",
    "\\`",
    "\\",
    "`\\`",
    " `` ",
    "[1]: http://203.0.113.9",
    "***",
    "---\n",
    "\u{1b}[2J\u{1b}]8;;http://203.0.113.9\u{7}x\u{1b}]8;;\u{7}",
    "\u{9b}31m",
    "\u{202e}txt.exe",
    "\u{200b}\u{feff}",
    "\u{0}",
    "\u{7f}\u{8}\u{8}",
    "\u{2028}\u{2029}",
    "\u{fffe}",
    "; rm -rf ~",
    "$(reboot)",
    "' ; reboot #",
    "",
    " ",
];

fn texts() -> impl Strategy<Value = String> {
    let nasty = prop::sample::select(NASTY.to_vec()).prop_map(str::to_owned);
    let any = prop_oneof![4 => nasty, 1 => any::<String>(), 1 => "[<>&\"'`\\[\\]()#*_~|!\\n\\\\-]{0,40}"];
    prop::collection::vec(any, 1..4).prop_map(|parts| parts.concat())
}

/// The tags of a page with the names of their attributes, and every style sheet's and script's place.
fn tags(page: &str) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    let mut rest = page;
    while let Some(at) = rest.find('<') {
        let end = rest[at..].find('>').unwrap_or(0) + at;
        assert!(end > at, "a tag that does not end");
        let inside = &rest[at + 1..end];
        let mut words = inside.splitn(2, ' ');
        let name = words.next().unwrap_or_default().to_owned();
        let mut attributes = Vec::new();
        let mut more = words.next().unwrap_or_default().trim_end_matches('/');
        while let Some(equals) = more.find("=\"") {
            attributes.push(more[..equals].trim().to_owned());
            let value = &more[equals + 2..];
            assert!(value.contains('"'), "an attribute that does not end");
            let close = value.find('"').unwrap_or(0);
            more = &value[close + 1..];
        }
        assert!(more.trim().is_empty() || name.starts_with("!doctype"), "loose in a tag: {inside}");
        found.push((name, attributes));
        rest = &rest[end + 1..];
    }
    found
}

fn kinds(page: &str) -> BTreeSet<(String, Vec<String>)> {
    tags(page).into_iter().collect()
}

fn check_html(twisted: &str) {
    let plain = kinds(&html::render(&sample::told(&str::to_owned)));
    let more = ["p", "/p", "span", "/span"].map(str::to_owned);
    for kind in kinds(twisted) {
        let known = plain.contains(&kind) || more.contains(&kind.0) || (kind.0 == "rect" || kind.0 == "text");
        assert!(known, "a tag that the benign page does not have: {kind:?}");
        for attribute in &kind.1 {
            let fine = [
                "class",
                "x",
                "y",
                "x1",
                "x2",
                "y1",
                "y2",
                "cx",
                "cy",
                "r",
                "rx",
                "d",
                "width",
                "height",
                "viewBox",
                "role",
                "text-anchor",
                "preserveAspectRatio",
                "lang",
                "charset",
                "name",
                "content",
                "http-equiv",
            ];
            assert!(fine.contains(&attribute.as_str()), "attribute {attribute}");
        }
    }
    assert!(!twisted.to_lowercase().contains("<script"));
    no_orders(twisted);
}

/// Nothing that a terminal obeys and nothing that turns or hides writing.
fn no_orders(text: &str) {
    let bad = |c: &char| {
        (c.is_control() && *c != '\n')
            || matches!(*c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' | '\u{fffe}')
    };
    assert!(!text.chars().any(|c| bad(&c)), "{:?}", text.chars().find(bad));
}

/// What Markdown makes of it, without the texts.
fn structure(text: &str) -> Vec<String> {
    let parser = Parser::new_ext(text, Options::all());
    let kinds = parser.filter_map(|event| match event {
        Event::Start(
            Tag::Link { .. }
            | Tag::Image { .. }
            | Tag::HtmlBlock
            | Tag::FootnoteDefinition(_)
            | Tag::Table(_),
        ) => Some("FORBIDDEN".to_owned()),
        Event::Html(_)
        | Event::InlineHtml(_)
        | Event::InlineMath(_)
        | Event::DisplayMath(_)
        | Event::FootnoteReference(_)
        | Event::Rule => Some("FORBIDDEN".to_owned()),
        Event::Start(Tag::Heading { level, .. }) => Some(format!("{level:?}")),
        Event::Start(Tag::CodeBlock(_)) => Some("block".into()),
        Event::Start(Tag::Item) => Some("item".into()),
        _ => None,
    });
    kinds.collect()
}

fn check_markdown(twisted: &str) {
    let shape = structure(twisted);
    assert!(!shape.contains(&"FORBIDDEN".to_owned()), "{twisted}");
    let headings = |shape: &[String]| shape.iter().filter(|one| one.starts_with('H')).count();
    let plain = structure(&markdown::render(&sample::told(&str::to_owned)));
    let blocks = |shape: &[String]| shape.iter().filter(|one| *one == "block").count();
    assert_eq!((headings(&shape), blocks(&shape)), (headings(&plain), blocks(&plain)), "{twisted}");
    // Outside of code there is no foreign text at all.
    let mut in_block = false;
    for event in Parser::new_ext(twisted, Options::all()) {
        match &event {
            Event::Start(Tag::CodeBlock(_)) => in_block = true,
            Event::End(pulldown_cmark::TagEnd::CodeBlock) => in_block = false,
            Event::Text(text) => assert!(in_block || !text.contains("OWNED"), "{text}"),
            _ => {}
        }
    }
    no_orders(twisted);
}

/// What a shell reads as its own words' syntax: all that is neither quoted nor escaped (POSIX 2.2).
fn unquoted(command: &str) -> String {
    let mut out = String::new();
    let (mut quoted, mut escaped) = (false, false);
    for c in command.chars() {
        match c {
            _ if escaped => escaped = false,
            '\'' => quoted = !quoted,
            '\\' if !quoted => escaped = true,
            _ if quoted => {}
            plain => out.push(plain),
        }
    }
    assert!(!quoted && !escaped, "{command}");
    out
}

#[test]
fn no_text_of_an_attacker_becomes_markup() {
    for nasty in NASTY {
        let twist = |plain: &str| format!("{nasty}{plain}{nasty}");
        let told = sample::told(&twist);
        check_html(&html::render(&told));
        check_markdown(&markdown::render(&told));
        // A command is one line, and one command.
        for command in told.answers.iter().flat_map(|answer| &answer.commands) {
            assert!(!command.command.contains(['\n', '\r', '\u{1b}']), "{:?}", command.command);
            let outside = unquoted(&command.command);
            assert!(!outside.contains([';', '$', '`', '|', '&', '#', '(', '<', '>']), "{}", command.command);
        }
    }
}

#[test]
fn the_page_fetches_nothing_and_runs_nothing() {
    let page = html::render(&sample::told(&str::to_owned));
    assert!(page.contains("default-src 'none'; style-src 'unsafe-inline'"));
    for word in [
        "src=",
        "href=",
        "url(",
        "@import",
        "<link",
        "<script",
        "<iframe",
        "<object",
        "<foreignObject",
        "onload",
        "http://www.w3",
    ] {
        assert!(!page.contains(word), "{word}");
    }
}

#[test]
fn i11_an_enormous_incident_makes_a_bounded_document() {
    let long = "é".repeat(20_000);
    let mut incident = sample::incident(&|plain| format!("{plain}{long}"));
    let one = incident.findings[2].clone();
    for n in 0..2000_u32 {
        let mut more = one.clone();
        let mut process = (*more.event.process).clone();
        process.key.pid = model::Pid(n + 10_000);
        process.exe = format!("/x/{n}");
        // A chain as deep as it is long, and one that claims to be its own parent.
        process.parent = Some(if n == 7 {
            process.key
        } else {
            model::ProcessKey { pid: model::Pid(n + 9_999), start: process.key.start }
        });
        more.event.process = std::sync::Arc::new(process);
        incident.findings.push(more);
        incident.timeline.push(model::TimelineEntry {
            at: one.first,
            actor: model::Actor::new("x"),
            what: long.clone(),
        });
    }
    let known = hemostat_narrate::Known { plans: &[], unanswered: "", now: sample::START };
    let told = hemostat_narrate::document(&incident, &known);
    assert!(told.processes.len() <= 48 && told.processes_left_out > 1900);
    assert!(html::render(&told).len() < 2_000_000 && markdown::render(&told).len() < 1_000_000);
    // Where there is little room, what is asked stays, and what is left out is counted.
    let whole = serde_json::to_string(&told).unwrap().len();
    for most in [whole, 256 * 1024, 128 * 1024] {
        let json = told.json_within(most).unwrap();
        assert!(json.len() <= most, "{} of {most}", json.len());
        let kept: hemostat_narrate::Document = serde_json::from_str(&json).unwrap();
        assert!(kept.is_whole());
        assert_eq!((&kept.answers, &kept.summary), (&told.answers, &told.summary));
        let all = |of: &hemostat_narrate::Document| {
            [
                of.timeline.len() as u64 + of.timeline_left_out,
                of.processes.len() as u64 + of.processes_left_out,
                of.findings.len() as u64 + of.findings_left_out,
                of.graph.entities.len() as u64 + of.graph.left_out,
            ]
        };
        assert_eq!(all(&kept), all(&told));
        check_html(&html::render(&kept));
    }
    assert_eq!(told.json_within(100), None, "not even what is asked");
}

#[test]
fn a_document_that_points_nowhere_is_not_whole() {
    let told = sample::told(&str::to_owned);
    assert!(told.is_whole());
    let mut nowhere = told.clone();
    nowhere.graph.links[0].to = 999;
    let mut looped = told.clone();
    looped.processes[0].parent = Some(0);
    let mut deep = told;
    deep.processes[1].depth = u32::MAX;
    for broken in [nowhere, looped, deep] {
        assert!(!broken.is_whole());
    }
}

#[test]
fn in_a_cluster_the_commands_are_those_of_kubectl_quoted_for_the_shell() {
    let incident = sample::incident(&str::to_owned);
    let (run, request) = incident.runs.iter().find_map(|run| Some((run, run.waiting.first()?))).unwrap();
    let asked = hemostat_narrate::Question {
        run: run.id.clone(),
        step: request.step.clone(),
        approval: "appr-1-run".into(),
    };
    for (namespace, word) in [("pay", "pay"), ("a;b $(c)", "'a;b $(c)'")] {
        let questions = [asked.clone()];
        let desk = Desk::Cluster { namespace, incident: "inc-7f3a9c21", questions: &questions };
        let all: Vec<String> = answers(&incident, sample::START, &desk)
            .into_iter()
            .flat_map(|answer| answer.commands)
            .map(|command| command.command)
            .collect();
        let wanted = [
            format!("kubectl hemostat approve appr-1-run -n {word}"),
            format!("kubectl hemostat deny appr-1-run -n {word}"),
            format!("kubectl hemostat verdict inc-7f3a9c21 true-positive -n {word}"),
            format!("kubectl hemostat verdict inc-7f3a9c21 false-positive -n {word}"),
            format!("kubectl hemostat revert inc-7f3a9c21 -n {word}"),
        ];
        assert_eq!(all, wanted);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_written_it_stays_text(texts in prop::collection::vec(texts(), 1..8)) {
        let n = std::cell::Cell::new(0_usize);
        let twist = |plain: &str| {
            n.set(n.get() + 1);
            format!("{}{plain}OWNED", texts[n.get() % texts.len()])
        };
        let told = sample::told(&twist);
        check_html(&html::render(&told));
        check_markdown(&markdown::render(&told));
    }
}
