//! The kernel tests without which a rule cannot match an event of a category.

use std::collections::BTreeSet;

use model::KernelTest;

use super::passing;
use crate::{
    matcher::{Anchor, Check, Interner, Logic, Necessary, NumberKey, Predicate, necessary},
    schema::{BPF_COMMANDS, Category, Field},
};

/// The kernel looks for four bytes.
const SHORTEST_CONTAINED: usize = 4;

/// A set of tests of which one holds for each event that the rule matches; `Err` says why there is none.
pub(super) fn tests_of(
    category: Category,
    logic: &Logic,
    interner: &Interner,
) -> Result<BTreeSet<KernelTest>, String> {
    let test = |predicate: u32| test_of(category, &interner.predicates()[predicate as usize]);
    let share = |predicate: u32| test(predicate).map(|test| passing::share(&test));
    // Only opens that can write make events of this category.
    let written = |test| match category {
        Category::FileEvent => KernelTest::AllOf(vec![KernelTest::Write, test]),
        _ => test,
    };
    match necessary(logic, &share, &|predicate| interner.implied(predicate)) {
        Some(Necessary { predicates, .. }) => {
            Ok(predicates.into_iter().filter_map(test).map(written).collect())
        }
        None if category == Category::FileEvent => Ok([KernelTest::Write].into()),
        None => Err(why_not(category)),
    }
}

/// The kernel test that holds whenever the predicate does.
fn test_of(category: Category, predicate: &Predicate) -> Option<KernelTest> {
    match (&predicate.check, predicate.field) {
        // Of renames and links the kernel tests the new name, which is this field.
        (Check::Literal(anchor, text, _), Field::TargetFilename) => path_test(*anchor, text),
        (Check::Number(NumberKey::Int(port)), field) if Some(field) == port_field(category) => {
            u16::try_from(*port).ok().map(KernelTest::Port)
        }
        // What has no name is shown as its number.
        (Check::Literal(Anchor::Whole, text, _), Field::BpfCommand) => {
            let named = BPF_COMMANDS.iter().position(|name| name.eq_ignore_ascii_case(text))?;
            u32::try_from(named).ok().map(KernelTest::BpfCommand)
        }
        (Check::Net(net), field) if Some(field) == address_field(category) => Some(KernelTest::Net(*net)),
        _ => None,
    }
}

/// A literal's part that is ASCII: outside of it the kernel compares bytes and user space folded characters.
pub(super) fn path_test(anchor: Anchor, text: &str) -> Option<KernelTest> {
    let head = || {
        let end = text.find(|c: char| !c.is_ascii()).unwrap_or(text.len());
        let head = text.get(..end)?;
        (!head.is_empty() && head != "/").then(|| KernelTest::PathPrefix(head.to_ascii_lowercase()))
    };
    let tail = || {
        let tail = text.rsplit(|c: char| !c.is_ascii()).next()?;
        (!tail.is_empty()).then(|| KernelTest::PathSuffix(tail.to_ascii_lowercase()))
    };
    match anchor {
        Anchor::Whole if text.is_empty() => None,
        Anchor::Whole if text.is_ascii() => Some(KernelTest::PathIs(text.to_ascii_lowercase())),
        Anchor::Whole | Anchor::End => tail().or_else(|| (anchor == Anchor::Whole).then(head).flatten()),
        Anchor::Start => head(),
        // The longest part, of which the kernel wants four bytes.
        Anchor::Anywhere => {
            let part = text.split(|c: char| !c.is_ascii()).max_by_key(|part| part.len())?;
            (part.len() >= SHORTEST_CONTAINED).then(|| KernelTest::PathContains(part.to_ascii_lowercase()))
        }
    }
}

/// The field whose port the kernel tests: remote for connect, accept and close, local for bind and listen.
fn port_field(category: Category) -> Option<Field> {
    match category {
        Category::NetworkConnection | Category::NetworkClose => Some(Field::DestinationPort),
        Category::NetworkAccept | Category::NetworkBind | Category::NetworkListen => Some(Field::SourcePort),
        _ => None,
    }
}

/// The field whose address the kernel tests: the remote one.
fn address_field(category: Category) -> Option<Field> {
    match category {
        Category::NetworkConnection | Category::NetworkClose => Some(Field::DestinationIp),
        Category::NetworkAccept => Some(Field::SourceIp),
        _ => None,
    }
}

fn why_not(category: Category) -> String {
    let possible = if Field::TargetFilename.exists_in(category) {
        "it can match without a start, an end, the whole or four characters of TargetFilename, and of paths the kernel tests only those"
    } else if address_field(category).is_some() {
        "it can match without a certain remote port or network, and the kernel tests only those"
    } else if port_field(category).is_some() {
        "it can match without a certain local port, and the kernel tests only that"
    } else {
        "the kernel has no test for events of this category"
    };
    possible.to_owned()
}
