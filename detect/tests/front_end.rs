//! The front end from outside: what loads, what is refused, and what diagnostics look like.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;

use hemostat_detect::{
    ast::{Comparison, CorrelationKind, Generate, TemporalExpr},
    diagnostic::{Code, Colour, Severity, render},
    load::{Loaded, Options, load, load_with},
    schema::{Category, DraftValue, Drafted, Field, Firing, View},
    source::SourceFile,
};

fn file(name: &str, text: &str) -> SourceFile {
    SourceFile { name: name.into(), text: text.into() }
}

fn load_text(text: &str) -> Loaded {
    load(&[file("rule.yml", text)])
}

/// A rule with this detection section.
fn rule(detection: &str) -> String {
    let indented: String = detection.lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "title: T\nid: t\nlogsource: {{product: linux, category: process_creation}}\ndetection:\n{indented}"
    )
}

fn loads(detection: &str) -> Loaded {
    let files = [file("rule.yml", &rule(detection))];
    let loaded = load(&files);
    assert_eq!(loaded.errors(), 0, "{}", render(&loaded.diagnostics, &files, Colour::Plain));
    loaded
}

fn fields(fields: &[(Field, &str)]) -> Drafted {
    let fields: Vec<_> =
        fields.iter().map(|(field, text)| (*field, DraftValue::One((*text).into()))).collect();
    Drafted::new(Category::ProcessCreation, &fields).unwrap()
}

fn matches(detection: &str, event: &[(Field, &str)]) -> bool {
    let loaded = loads(detection);
    let drafted = fields(event);
    let view: View<'_> = drafted.view();
    hemostat_detect::reference::matches(&loaded.rules[0], &view)
}

/// `HEMOSTAT_WRITE_DOCS=1 cargo test -p hemostat-detect --test front_end` writes the page anew.
#[test]
fn diagnostics_look_like_this() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let files = [file("rules/wrong.yml", &std::fs::read_to_string(data.join("wrong.yml")).unwrap())];
    let loaded = load(&files);
    let text = render(&loaded.diagnostics, &files, Colour::Plain);
    if std::env::var_os("HEMOSTAT_WRITE_DOCS").is_some() {
        std::fs::write(data.join("wrong.txt"), &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(data.join("wrong.txt")).unwrap_or_default());
    assert_eq!(loaded.rules.len(), 2, "the rules without errors load");
    // One of every kind of mistake.
    let kinds: std::collections::BTreeSet<&str> =
        loaded.diagnostics.iter().map(|one| one.code.name()).collect();
    assert_eq!(kinds.len(), 20, "{kinds:?}");
}

#[test]
fn places_are_exact() {
    let files = [file("r.yml", &rule("selection:\n  CommandLine|contans: 'ä'\ncondition: selection"))];
    let loaded = load(&files);
    assert_eq!(loaded.diagnostics[0].place(&files), Some(("r.yml", 6, 17)));
    assert_eq!(loaded.diagnostics[0].code, Code::UnknownModifier);
}

#[test]
fn hostile_text_cannot_drive_the_terminal() {
    let files =
        [file("a\u{1b}[2J.yml", &rule("selection:\n  \"Im\\eage|\\e]0;x\\a\": a\ncondition: selection"))];
    let loaded = load(&files);
    let text = render(&loaded.diagnostics, &files, Colour::Plain);
    assert!(!text.is_empty() && text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
}

#[test]
fn values_mean_what_the_specification_says() {
    let image = |value: &str| [(Field::Image, value.to_owned())];
    let is = |detection: &str, value: &str| {
        let event = image(value);
        matches(&format!("s:\n  {detection}\ncondition: s"), &[(event[0].0, event[0].1.as_str())])
    };
    assert!(is("Image: /BIN/*", "/bin/sh") && !is("Image|cased: /BIN/*", "/bin/sh"));
    assert!(is("Image: '/bin/?h'", "/bin/sh") && !is("Image: '/bin/?h'", "/bin/h"));
    assert!(is(r"Image: 'a\*b'", "a*b") && !is(r"Image: 'a\*b'", "axb"));
    assert!(is("Image|endswith: [/sh, /bash]", "/bin/bash"));
    assert!(is("Image|contains|all: [a, b]", "xaxb") && !is("Image|contains|all: [a, b]", "xa"));
    assert!(
        is("Image|re: 'A.c'", "xAbcx") && !is("Image|re: 'A.c'", "xabcx") && is("Image|re|i: 'A.c'", "xabcx")
    );
    assert!(
        !is("Image|re: 'a.c'", "a\nc") && is("Image|re|s: 'a.c'", "a\nc") && is("Image|re|m: '^c'", "a\nc")
    );
    assert!(is("Image|neq: x", "y") && !is("Image|neq: [x, y]", "y"));
    assert!(is("Image: ''", "") && !is("Image: ''", "a"));
    assert!(is("Tty: null", "a") && !is("Image: null", "a"));
    assert!(is("Tty|exists: false", "a") && is("Image|exists: true", ""));
    assert!(
        is("Image|windash|contains: ' -x'", "a \u{2014}x") && is("Image|windash|contains: ' -x'", "a /x")
    );
    assert!(is("Image|base64offset|contains: /bin/sh", "echo L2Jpbi9zaA== | base64 -d"));
    assert!(is("Image|wide|base64offset|contains: 'ping'", "x cABpAG4AZwA= x"));
    assert!(is("Image|base64: 'foobar'", "Zm9vYmFy"));
    assert!(is("Image|utf16|base64: 'a'", "//5hAA=="));
    assert!(is("ProcessId|gte: 4242", "") && !is("ProcessId|gt: 4242", "") && is("ProcessId|lt: 4242.5", ""));
    assert!(is("ProcessId: 4242", "") && is("ProcessId: '42*'", ""));
    // Numbers of YAML 1.2's core schema, and texts that only look like one.
    for number in ["0x1092", "0o10222", "+4242", "4242.0", "4.242e3", "'4242'"] {
        assert!(is(&format!("ProcessId: {number}"), ""), "{number}");
    }
    for none in ["0x1093", "0o4242", "'0x1092'", "4_242", "-4242", "4242.5"] {
        assert!(!is(&format!("ProcessId: {none}"), ""), "{none}");
    }
    assert!(
        is("Image: yes", "YES")
            && is("Image: 0x1F", "31")
            && !is("Image: 0x1F", "0x1F")
            && is("Image: '0x1F'", "0x1f")
    );
    assert!(is("UtcTime|year: 2026", "") && is("UtcTime|month|lt: 2", "") && is("UtcTime|hour: 0", ""));
}

#[test]
fn references_compare_fields_of_one_event() {
    let event =
        [(Field::Image, "/Bin/sh"), (Field::ParentImage, "/bin/sh"), (Field::CommandLine, "x /bin/sh y")];
    assert!(matches("s:\n  Image|fieldref: ParentImage\ncondition: s", &event));
    assert!(!matches("s:\n  Image|fieldref|cased: ParentImage\ncondition: s", &event));
    assert!(matches("s:\n  CommandLine|fieldref|contains: ParentImage\ncondition: s", &event));
    assert!(!matches("s:\n  CommandLine|fieldref: Tty\ncondition: s", &event));
}

#[test]
fn keywords_look_into_text_fields() {
    let event =
        [(Field::Image, "/bin/sh"), (Field::CommandLine, "sh -c 'Evil thing'"), (Field::User, "1000")];
    assert!(matches("k: [nothing, 'evil t']\ncondition: k", &event));
    assert!(!matches("k:\n  '|all': [nothing, evil]\ncondition: k", &event));
    assert!(matches("k:\n  '|all': [/bin/, evil]\ncondition: k", &event));
    assert!(!matches("k: ['1000']\ncondition: k", &event), "the user is no text field");
    assert!(
        matches("k:\n  - nothing\n  - Image: /bin/sh\ncondition: k", &event),
        "keywords and mappings in one list"
    );
}

#[test]
fn conditions_have_sigmas_precedence_and_quantifiers() {
    let detection = |condition: &str| {
        format!(
            "t: {{Image: /a}}\nu: {{Image: /a*}}\nf: {{Image: /b}}\n_g: {{Image: /a}}\ncondition: {condition}"
        )
    };
    let holds = |condition: &str| matches(&detection(condition), &[(Field::Image, "/a")]);
    assert!(holds("t or f and f") && holds("not f and t") && !holds("not (t or f)") && holds("f or not f"));
    assert!(holds("1 of them") && !holds("all of them") && holds("2 of them") && !holds("3 of them"));
    assert!(holds("all of t*") && holds("1 of *") && holds("1 of _*") && holds("any of them"));
    // `_g` holds: a pattern that does not begin with an underscore does not mean it.
    let hidden = |condition: &str| {
        matches(&detection(condition).replace("_g: {Image: /a}", "_g: {Image: /b}"), &[(Field::Image, "/a")])
    };
    assert!(hidden("all of *u*") && !hidden("1 of _*") && !hidden("all of _* or all of them"));
    assert!(matches(
        &detection("all of *")
            .replace("f: {Image: /b}", "f: {Image: /a}")
            .replace("_g: {Image: /a}", "_g: {Image: /b}"),
        &[(Field::Image, "/a")]
    ));
    assert!(holds("NOT f AND t OR f"), "operators in capitals");
    assert_eq!(load_text(&rule(&detection("T"))).errors(), 1, "names are case-sensitive");
    assert!(holds("[f, t]"), "a list of conditions is joined with or");
}

#[test]
fn placeholders_come_from_the_table_or_are_refused() {
    let text = rule("s:\n  Image|expand: '%tools%\\%x'\ncondition: s");
    assert_eq!(load_text(&text).diagnostics[0].code, Code::UnknownPlaceholder);
    let placeholders = [("tools".to_owned(), vec!["/bin/a*".to_owned(), "/bin/b".to_owned()])].into();
    let loaded = load_with(&[file("r.yml", &text)], &Options { placeholders, ..Options::default() });
    assert_eq!(loaded.errors(), 0);
    let hits = |image: &str| {
        hemostat_detect::reference::matches(&loaded.rules[0], &fields(&[(Field::Image, image)]).view())
    };
    assert!(hits("/bin/axe%x") && hits("/bin/b%x") && !hits("/bin/c%x"));
}

#[test]
fn correlations_are_read_whole() {
    let loaded = load_text(
        "title: A\nname: a\nlogsource: {product: linux, category: process_creation}\ndetection: {s: {Image: /a}, condition: s}\n\
         ---\ntitle: B\nname: b\nlogsource: {product: linux, category: process_creation}\ndetection: {s: {Image: /b}, condition: s}\n\
         ---\ntitle: C\nname: c\ncorrelation:\n  type: value_avg\n  rules: a\n  group-by: [User, ip]\n  timespan: 90m\n\
         \x20 aliases: {ip: {a: CurrentDirectory}}\n  condition: {field: ProcessId, gt: 3.5, lte: 10}\n  generate: true\n\
         ---\ntitle: D\nname: d\ncorrelation: {type: temporal, rules: [a, c], timespan: 1d, condition: a and not c}\n",
    );
    assert_eq!(loaded.diagnostics, []);
    let [c, d] = loaded.correlations.as_slice() else { panic!() };
    assert_eq!((c.kind.value, c.timespan.value.as_secs()), (CorrelationKind::ValueAvg, 5400));
    assert_eq!(
        c.condition.bounds.iter().map(|b| (b.how, b.than)).collect::<Vec<_>>(),
        [(Comparison::Gt, 3.5), (Comparison::Lte, 10.0)]
    );
    assert_eq!(
        (c.generate, c.aliases[0].fields[0].1.value.as_str()),
        (Generate::RulesToo, "CurrentDirectory")
    );
    assert_eq!(c.rules[0].key, "a");
    let Some(TemporalExpr::And(parts, _)) = &d.condition.expr else { panic!() };
    assert!(matches!((&parts[0], &parts[1]), (TemporalExpr::Rule(0, _), TemporalExpr::Not(..))));
}

#[test]
fn filters_are_joined_to_their_rules() {
    let text = format!(
        "{}\n---\ntitle: F\nid: f\nlogsource: {{product: linux}}\nfilter:\n  rules: [t]\n  admin: {{User: root}}\n  condition: not admin\n",
        rule("s:\n  Image: /a\ncondition: s")
    );
    let loaded = load_text(&text);
    assert_eq!(loaded.diagnostics, []);
    assert_eq!(loaded.rules[0].filters, ["f"]);
    let hits = |user: &str| {
        let event = fields(&[(Field::Image, "/a"), (Field::User, user)]);
        hemostat_detect::reference::matches(&loaded.rules[0], &event.view())
    };
    assert!(hits("1000") && !hits("root"));
}

#[test]
fn a_rule_says_whether_it_can_fire_and_why_not() {
    let firing = |text: &str| {
        let loaded = load_text(text);
        assert_eq!(loaded.errors(), 0, "{:?}", loaded.diagnostics);
        match &loaded.rules[0].firing {
            Firing::Can => String::new(),
            Firing::Cannot { why } => why.clone(),
        }
    };
    assert_eq!(firing(&rule("s: {Image: /a}\ncondition: s")), "");
    assert_eq!(firing(&rule("s: {Hashes: /a}\ncondition: s")), "no process_creation event has `Hashes`");
    assert_eq!(firing(&rule("s: {Hashes: null, Image: a}\ncondition: s")), "");
    assert_eq!(firing(&rule("s: {Image: a}\nf: {Hashes: x}\ncondition: s and not f")), "");
    let windows = rule("s: {Image: /a}\ncondition: s").replace("linux", "windows");
    assert!(firing(&windows).contains("product `windows`"));
    let audit = |detection: &str| {
        format!(
            "title: T\nlogsource: {{product: linux, service: auditd}}\ndetection: {{s: {detection}, condition: s}}"
        )
    };
    assert_eq!(firing(&audit("{type: EXECVE, a0: wget}")), "");
    assert_eq!(firing(&audit("{type: PATH, name: /etc/ld.so.preload}")), "");
    assert_eq!(firing(&audit("{type: USER_AUTH}")), "`type` is never `USER_AUTH`");
    assert!(firing(&audit("{type: SYSCALL, key: susp}")).contains("`key`"));
}

#[test]
fn a_correlation_that_waits_for_a_dead_rule_is_warned_of() {
    let windows = rule("s: {Image: /a}\ncondition: s").replace("linux", "windows");
    let loaded = load_text(&format!(
        "{windows}---\ntitle: C\ncorrelation: {{type: event_count, rules: [t], group-by: [User], timespan: 1m, condition: {{gte: 2}}}}\n"
    ));
    assert_eq!(loaded.diagnostics.iter().filter(|one| one.code == Code::CannotFire).count(), 2);
    assert_eq!(loaded.correlations.len(), 1);
}

#[test]
fn auditd_rules_match_our_own_events() {
    let loaded = load_text(
        "title: T\nlogsource: {product: linux, service: auditd}\ndetection:\n  s: {type: EXECVE, a0: wget, a1|startswith: '--post-file='}\n  condition: s\n",
    );
    let event = Drafted::new(
        Category::ProcessCreation,
        &[(Field::Args, DraftValue::Many(vec!["wget".into(), "--post-file=/etc/shadow".into()]))],
    )
    .unwrap();
    assert!(hemostat_detect::reference::matches(&loaded.rules[0], &event.view()));
    let file =
        Drafted::new(Category::FileEvent, &[(Field::TargetFilename, DraftValue::One("/x".into()))]).unwrap();
    assert!(!hemostat_detect::reference::matches(&loaded.rules[0], &file.view()));
}

#[test]
fn warnings_do_not_stop_a_rule() {
    let loaded = load_text(&rule("s: {Image: /a}\nunused: {Image: /b}\ncondition: s"));
    assert_eq!(loaded.rules.len(), 1);
    assert_eq!(loaded.diagnostics[0].severity, Severity::Warning);
}

#[test]
fn other_taxonomies_come_from_mapping_files() {
    let text = rule("s: {process.executable|endswith: /sh, process.parent.executable: /a}\ncondition: s");
    let with = |taxonomy: &str| load_text(&format!("taxonomy: {taxonomy}\n{text}"));
    let loaded = with("ecs");
    assert_eq!(loaded.diagnostics, []);
    let event = fields(&[(Field::Image, "/bin/sh"), (Field::ParentImage, "/a")]);
    assert!(hemostat_detect::reference::matches(&loaded.rules[0], &event.view()));
    assert_eq!(with("esc").diagnostics[0].code, Code::BadValue);
    assert!(matches!(with("sigma").rules[0].firing, Firing::Cannot { .. }));
}

/// A correlation under another taxonomy names fields as that does, and joins rules of any.
#[test]
fn correlations_use_the_names_of_their_taxonomy() {
    let text = "title: A\nname: a\nlogsource: {product: linux, category: network_connection}\ndetection: {s: {DestinationPort: 22}, condition: s}\n\
         ---\ntitle: B\nname: b\ntaxonomy: ecs\ncorrelation:\n  type: value_count\n  rules: [a]\n  group-by: [source.ip, who]\n  timespan: 1m\n  \
         aliases: {who: {a: process.executable}}\n  condition: {field: destination.ip, gte: 2}\n";
    let loaded = load(&[SourceFile { name: "c.yml".into(), text: text.into() }]);
    assert_eq!(loaded.diagnostics, []);
    let correlation = &loaded.correlations[0];
    let names = |fields: &[hemostat_detect::source::Spanned<String>]| {
        fields.iter().map(|field| field.value.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&correlation.group_by), ["SourceIp", "who"]);
    assert_eq!(names(&correlation.condition.fields), ["DestinationIp"]);
    assert_eq!(correlation.aliases[0].fields[0].1.value, "Image");
}
