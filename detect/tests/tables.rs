//! Placeholders' values and other taxonomies' names, given by documents among the rules.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;

use hemostat_detect::{
    diagnostic::{Code, Colour, render},
    keep::{Found, Kept, Remains},
    load::{Loaded, Options as LoadOptions, load},
    matcher::{Options, RuleSet},
    reference,
    rule_test::{Outcome, run_rule_tests},
    schema::{Category, DraftValue, Drafted, Field},
    source::SourceFile,
};

const PLACEHOLDERS: &str = "title: Ours\nplaceholders:\n  tools: [/opt/salt/*, /usr/bin/ansible]\n  jump: 10.0.0.7\n  dirs: [bin, sbin]\n";
const NAMES: &str = "title: Acme\ntaxonomy: acme\nfields:\n  proc.path: Image\n  proc.args: CommandLine\n";

fn rule(id: &str, head: &str, search: &str) -> String {
    format!(
        "title: {id}\nid: {id}\n{head}logsource: {{product: linux, category: process_creation}}\ndetection:\n  s: {search}\n  condition: s\n"
    )
}

fn files(texts: &[&str]) -> Vec<SourceFile> {
    let named =
        |(n, text): (usize, &&str)| SourceFile { name: format!("rules/{n}.yml"), text: (*text).into() };
    texts.iter().enumerate().map(named).collect()
}

fn sound(texts: &[&str]) -> Loaded {
    let files = files(texts);
    let loaded = load(&files);
    assert!(loaded.diagnostics.is_empty(), "{}", render(&loaded.diagnostics, &files, Colour::Plain));
    loaded
}

/// Whether the only rule finds an event of this image, by the interpreter and compiled.
fn finds(loaded: &Loaded, image: &str) -> bool {
    let event =
        Drafted::new(Category::ProcessCreation, &[(Field::Image, DraftValue::One(image.into()))]).unwrap();
    let plainly = reference::matches(&loaded.rules[0], &event.view());
    let mut hits = vec![];
    Arc::new(RuleSet::compile(&loaded.rules, Options::default()).0)
        .matcher()
        .evaluate(event.event(), &mut hits);
    assert_eq!(!hits.is_empty(), plainly);
    plainly
}

#[test]
fn a_document_gives_placeholders_their_values_wherever_it_stands() {
    let uses = rule("t", "", "{Image|expand: '%tools%'}");
    for texts in [[PLACEHOLDERS, &uses], [&uses, PLACEHOLDERS]] {
        let loaded = sound(&texts);
        assert!(finds(&loaded, "/opt/salt/minion") && finds(&loaded, "/usr/bin/ansible"));
        assert!(!finds(&loaded, "/usr/bin/ansible2") && !finds(&loaded, "%tools%"));
        let gives: Vec<&str> =
            loaded.tables.iter().flat_map(|table| &table.gives).map(String::as_str).collect();
        assert_eq!(gives, ["placeholder tools", "placeholder jump", "placeholder dirs"]);
    }
    // In one file with the rule, after it.
    assert!(finds(&sound(&[&format!("{uses}---\n{PLACEHOLDERS}")]), "/opt/salt/x"));
}

/// "expand" with several placeholders in one value: all combinations; a percent sign that is escaped is one.
#[test]
fn several_placeholders_in_one_value_stand_for_all_combinations() {
    let loaded = sound(&[PLACEHOLDERS, &rule("t", "", "{Image|expand: '/%dirs%/%dirs%\\%x%jump%'}")]);
    for (image, expected) in [
        ("/bin/sbin%x10.0.0.7", true),
        ("/sbin/sbin%x10.0.0.7", true),
        ("/bin/bin%x10.0.0.7", true),
        ("/bin/lib%x10.0.0.7", false),
        ("/bin/bin\\%x10.0.0.7", false),
        ("/%dirs%/bin%x10.0.0.7", false),
    ] {
        assert_eq!(finds(&loaded, image), expected, "{image}");
    }
    // A wildcard that is escaped beside a placeholder stays a character.
    let escaped = sound(&[PLACEHOLDERS, &rule("t", "", "{Image|expand: 'a\\*%jump%'}")]);
    assert!(finds(&escaped, "a*10.0.0.7") && !finds(&escaped, "ax10.0.0.7"));
    // In a network and an expression, too, and in a filter.
    let cidr = rule("t", "", "{Image|cidr|expand: '%jump%/32'}");
    assert!(finds(&sound(&[PLACEHOLDERS, &cidr]), "10.0.0.7"));
    let expression = rule("t", "", "{Image|re|expand: '^/%dirs%/'}");
    assert!(finds(&sound(&[PLACEHOLDERS, &expression]), "/sbin/x"));
    let filter = "title: f\nlogsource: {product: linux}\nfilter: {rules: any, ours: {Image|expand: '%tools%'}, condition: not ours}\n";
    let loaded = sound(&[PLACEHOLDERS, &rule("t", "", "{Image|startswith: /}"), filter]);
    assert!(finds(&loaded, "/bin/sh") && !finds(&loaded, "/opt/salt/x"));
}

#[test]
fn an_unknown_placeholder_refuses_its_rule_with_place_and_help() {
    let other = rule("o", "", "{Image: /a}");
    let files = files(&[PLACEHOLDERS, &rule("t", "", "{Image|expand: '/a/%toolz%'}"), &other]);
    let loaded = load(&files);
    let text = render(&loaded.diagnostics, &files, Colour::Plain);
    for said in [
        "error[unknown-placeholder]",
        "unknown placeholder `%toolz%`",
        "rules/1.yml:5:21",
        "did you mean `tools`",
    ] {
        assert!(text.contains(said), "{said} in:\n{text}");
    }
    assert_eq!(loaded.rules.iter().map(|rule| rule.key()).collect::<Vec<_>>(), ["o"]);
}

#[test]
fn a_mapping_file_makes_a_taxonomy_of_its_own_or_adds_to_one() {
    let uses = rule("t", "taxonomy: acme\n", "{proc.path: /bin/x}");
    assert!(finds(&sound(&[&uses, NAMES]), "/bin/x"));
    let more = "taxonomy: ecs\nfields: {acme.path: Image}\n";
    let both = rule("t", "taxonomy: ecs\n", "{acme.path: /bin/x, process.executable|endswith: x}");
    assert!(finds(&sound(&[more, &both]), "/bin/x"));
    // A taxonomy's own name wins over Sigma's that is the same.
    let turned = "taxonomy: turned\nfields: {ParentImage: Image}\n";
    assert!(finds(&sound(&[turned, &rule("t", "taxonomy: turned\n", "{ParentImage: /bin/x}")]), "/bin/x"));
    // Rules of Sigma's own names know nothing of it.
    let plain = load(&files(&[NAMES, &rule("t", "", "{proc.path: /bin/x}")]));
    assert!(plain.diagnostics.iter().any(|one| one.code == Code::UnknownField));
    // And one that names a taxonomy that nobody gives is refused.
    assert_eq!(load(&files(&[&uses])).rules, []);
}

/// What is wrong with a table is told with its place, and the table gives nothing.
#[test]
fn mistakes_in_tables_have_their_places() {
    for (text, place, said) in [
        ("placeholders: {a b: x}\n", (1, 16), "cannot be a placeholder's name"),
        ("placeholders: {a: []}\n", (1, 19), "must stand for something"),
        ("placeholders: {a: {b: c}}\n", (1, 19), "must be a text"),
        ("placeholders: {a: [b, ~]}\n", (1, 23), "must be a text"),
        ("placeholders: [a]\n", (1, 15), "`placeholders` must be a mapping"),
        ("placeholders: {a: b}\nlevle: high\n", (2, 1), "`levle` is not a key of a table of placeholders"),
        ("placeholders: {a: b}\n---\nplaceholders: {b: c, a: c}\n", (3, 22), "placeholder a is given twice"),
        ("taxonomy: x\nfields:\n  a: Imag\n", (3, 6), "unknown field `Imag`"),
        ("taxonomy: sigma\nfields: {a: Image}\n", (1, 11), "Sigma's own names cannot be changed"),
        ("taxonomi: x\nfields: {a: Image}\n", (1, 1), "`taxonomi` is not a key"),
        ("taxonomy: x\nfields: {a: Image}\n---\ntaxonomy: x\nfields: {a: User}\n", (5, 10), "given twice"),
    ] {
        let files = files(&[text, &rule("t", "", "{Image|expand: '%a%'}")]);
        let loaded = load(&files);
        let first = loaded.diagnostics.iter().find(|one| one.message.contains(said));
        let place_of = first.and_then(|one| one.place(&files)).map(|(_, line, column)| (line, column));
        assert_eq!(place_of, Some(place), "{text}{}", render(&loaded.diagnostics, &files, Colour::Plain));
        // What was given first and soundly stays in force.
        assert_eq!(loaded.rules.len(), usize::from(text.contains("---\nplaceholders")), "{text}");
    }
}

#[test]
fn i11_a_table_is_bounded() {
    let long = format!("placeholders: {{a: [{}]}}\n", "x, ".repeat(5000));
    let loaded = load(&files(&[&long]));
    assert!(loaded.diagnostics.iter().any(|one| one.code == Code::Limit) && loaded.tables.is_empty());
    // 17³ combinations are more than one value may become.
    let wide = format!("placeholders: {{a: [{}]}}\n", (0..17).map(|n| format!("x{n}, ")).collect::<String>());
    let loaded = load(&files(&[
        &wide,
        &rule("t", "", "{Image|expand: '%a%%a%%a%'}"),
        &rule("o", "", "{Image|expand: '%a%%a%'}"),
    ]));
    assert_eq!(loaded.diagnostics.iter().map(|one| one.code).collect::<Vec<_>>(), [Code::Limit]);
    assert_eq!(loaded.rules[0].key(), "o");
}

/// A table that is broken at the next look keeps what it gave, and so do the rules that rely on it.
#[test]
fn a_broken_table_keeps_what_it_gave() {
    let uses = rule("t", "", "{Image|expand: '%tools%'}");
    let found =
        |table: &str| Found { sources: vec!["rules".into()], files: files(&[table, &uses]), unread: vec![] };
    let mut kept = Kept::default();
    assert_eq!(kept.take(found(PLACEHOLDERS)).problems, []);
    for (broken, said) in
        [("placeholders: {tools: []}\n", "must stand for something"), ("# nothing\n", "is empty now")]
    {
        let next = kept.take(found(broken));
        assert!(next.problems.len() == 1 && next.problems[0].what.contains(said), "{:?}", next.problems);
        assert_eq!(next.problems[0].remains, Remains::Before);
        assert!(finds(&next.loaded, "/opt/salt/x"));
    }
    let changed = kept.take(found("placeholders: {tools: /bin/new}\n"));
    assert!(changed.problems.is_empty() && finds(&changed.loaded, "/bin/new"));
}

/// End to end as `hemostat rules test` runs it: rules of ECS and OCSF, of a taxonomy of one's own and with placeholders, on Sigma's events.
#[test]
fn tests_of_rules_see_tables_and_taxonomies() {
    let ecs = rule(
        "ecs",
        "taxonomy: ecs\n",
        "{process.executable|expand: '%tools%', process.command_line|contains: run}",
    );
    let ocsf = rule(
        "ocsf",
        "taxonomy: ocsf\n",
        "{process.file.path: /bin/x, process.parent_process.file.path|endswith: /y}",
    );
    let acme = rule("acme", "taxonomy: acme\n", "{proc.path: /bin/x, proc.args|contains: needle}");
    let tests = "tests:\n\
        \x20 - {name: a, rule: ecs, event: {category: process_creation, Image: /opt/salt/x, CommandLine: salt run}, expect: match}\n\
        \x20 - {name: b, rule: ecs, event: {category: process_creation, Image: /opt/other, CommandLine: salt run}, expect: no match}\n\
        \x20 - {name: c, rule: ocsf, event: {category: process_creation, Image: /bin/x, ParentImage: /a/y}, expect: match}\n\
        \x20 - {name: d, rule: ocsf, event: {category: process_creation, Image: /bin/x, ParentImage: /a/z}, expect: no match}\n\
        \x20 - {name: e, rule: acme, event: {category: process_creation, Image: /bin/x, CommandLine: a needle}, expect: match}\n\
        \x20 - {name: f, rule: acme, event: {category: process_creation, Image: /bin/x, CommandLine: hay}, expect: no match}\n";
    let tests = [SourceFile { name: "rules/t.test.yml".into(), text: tests.into() }];
    let report =
        run_rule_tests(&files(&[&ecs, &ocsf, &acme, NAMES, PLACEHOLDERS]), &tests, &LoadOptions::default());
    assert!(report.passed(), "{}", render(&report.diagnostics, &report.files, Colour::Plain));
    assert_eq!(report.results.iter().filter(|one| one.outcome == Outcome::Passed).count(), 6);
    assert_eq!(report.untested, []);
}
