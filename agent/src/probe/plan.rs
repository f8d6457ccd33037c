//! The filter plan as map entries. Sound (I1): whatever cannot be expressed exactly lets more pass, never less.

use std::collections::BTreeSet;

use agent_abi::{
    CLASS_SLOTS, ClassSwitch, GRAM_WORDS, HOLD, MODE_ALL, MODE_OFF, MODE_TESTS, NetKey, OPEN_WRITE,
    PREFIX_MAX, PathKey, Quick, SUFFIX_MAX, SUFFIX_SEED, TEST_CONTAINS, TEST_NET, TEST_NUMBER, TEST_PORT,
    TEST_PREFIX, TEST_SUFFIX, TEST_UNLINKED, TEST_WRITE, TestKey, gram_bit, suffix_step,
};
use ipnet::IpNet;
use model::{ClassPlan, EventClass, ExecTest, FilterPlan, KernelTest};

use super::quick::QuickLook;

/// Room for one generation: half of what each map holds.
const PATHS_MAX: usize = 16_000;
const TESTS_MAX: usize = 32_000;
const NETS_MAX: usize = 32_000;

/// Entries of one generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tables {
    pub(super) switches: Vec<ClassSwitch>,
    /// The quick looks of the classes that have path tests, by the place of their switch.
    pub(super) quick: Vec<(u8, Box<Quick>)>,
    /// Key and its significant bits.
    pub(super) paths: BTreeSet<(u32, [u8; size_of::<PathKey>()])>,
    pub(super) tests: BTreeSet<[u8; size_of::<TestKey>()]>,
    pub(super) nets: BTreeSet<(u32, [u8; size_of::<NetKey>()])>,
    /// What passes unfiltered though the plan would filter it, and why.
    pub(super) widened: Vec<String>,
}

const OFF: ClassSwitch = ClassSwitch {
    mode: MODE_OFF,
    tests: 0,
    suffix_max: 0,
    pad: [0; 5],
    suffix_lengths: [0; 2],
    tails: [0; 4],
    grams: [0; GRAM_WORDS],
};

/// The process tree lives on these, whatever the rules want.
pub(super) const ALWAYS: [EventClass; 3] = [EventClass::Exec, EventClass::Fork, EventClass::Exit];

/// Whether a class is switched on by a plan.
pub(super) fn wants(plan: &FilterPlan, class: EventClass) -> bool {
    ALWAYS.contains(&class)
        || match plan.classes.get(&class) {
            None => false,
            Some(ClassPlan::All) => true,
            Some(ClassPlan::AnyOf(tests)) => !tests.is_empty(),
        }
}

/// Number of a class in records and maps.
pub(super) fn number(class: EventClass) -> u8 {
    EventClass::ALL.iter().position(|other| *other == class).map_or(HOLD, |at| at as u8)
}

/// Writes a plan as the entries of one generation.
pub(super) fn tables(plan: &FilterPlan, generation: u8) -> Tables {
    let mut tables = Tables {
        switches: vec![OFF; CLASS_SLOTS as usize],
        quick: Vec::new(),
        paths: BTreeSet::new(),
        tests: BTreeSet::new(),
        nets: BTreeSet::new(),
        widened: Vec::new(),
    };
    for class in EventClass::ALL {
        if !wants(plan, class) {
            continue;
        }
        match plan.classes.get(&class) {
            Some(ClassPlan::AnyOf(tests)) if !ALWAYS.contains(&class) && filters(class) => {
                if let Err(why) = class_tests(&mut tables, generation, class, tests) {
                    tables.widened.push(format!("{class:?} passes unfiltered: {why}"));
                    tables.switches[usize::from(number(class))].mode = MODE_ALL;
                }
            }
            _ => tables.switches[usize::from(number(class))].mode = MODE_ALL,
        }
    }
    if !plan.hold.is_empty() {
        let mut slot = Slot::new(generation, HOLD);
        for test in &plan.hold {
            let done = match test {
                ExecTest::ExeSuffix(text) => slot.suffix(&mut tables, text),
                ExecTest::ExePrefix(text) => slot.prefix(&mut tables, text, Whole::No),
                ExecTest::Unlinked => {
                    slot.switch.tests |= TEST_UNLINKED;
                    Ok(())
                }
            };
            // To hold every exec because one test is too wide would stop the machine: say it, hold by the others.
            if let Err(why) = done {
                tables.widened.push(format!("hold test {test:?} is left out: {why}"));
            }
        }
        slot.finish(&mut tables);
    }
    tables
}

/// Writes the tests of one class.
fn class_tests(
    tables: &mut Tables,
    generation: u8,
    class: EventClass,
    tests: &[KernelTest],
) -> Result<(), String> {
    let mut slot = Slot::new(generation, number(class));
    if class == EventClass::FileOpen {
        // Opens that only read are asked nothing that only those that write can answer.
        let mut writing = Slot::new(generation, OPEN_WRITE);
        for test in tests {
            writing.kernel_test(tables, test)?;
            if !demands_write(test) {
                slot.kernel_test(tables, test)?;
            }
        }
        writing.finish(tables);
    } else {
        for test in tests {
            slot.kernel_test(tables, test)?;
        }
    }
    slot.finish(tables);
    Ok(())
}

/// Whether only opens that can write pass the test.
fn demands_write(test: &KernelTest) -> bool {
    match test {
        KernelTest::Write => true,
        KernelTest::AllOf(parts) => parts.iter().any(demands_write),
        _ => false,
    }
}

/// The most telling of tests that all hold, of those that the kernel can make: it makes one of them. (Writing is asked by the place
/// where the test stands.)
fn most_telling(parts: &[KernelTest]) -> Option<&KernelTest> {
    let rank = |test: &KernelTest| match test {
        KernelTest::PathIs(_) => 0,
        KernelTest::PathSuffix(text) if text.len() >= 4 => 1,
        KernelTest::PathPrefix(_) => 2,
        KernelTest::BpfCommand(_) | KernelTest::Port(_) | KernelTest::Net(_) | KernelTest::PathSuffix(_) => 3,
        KernelTest::PathContains(_) => 4,
        KernelTest::AllOf(_) => 5,
        KernelTest::Write => 6,
    };
    parts.iter().min_by_key(|test| rank(test))
}

/// Whether the kernel side makes tests for a class; the others are rare, and all of them pass.
fn filters(class: EventClass) -> bool {
    use EventClass as C;
    matches!(
        class,
        C::FileOpen
            | C::FileDelete
            | C::FileRename
            | C::FileLink
            | C::FileMode
            | C::FileOwner
            | C::Connect
            | C::Accept
            | C::Bind
            | C::Listen
            | C::SocketClose
            | C::Bpf
    )
}

#[derive(Clone, Copy, PartialEq)]
enum Whole {
    No,
    Yes,
}

struct Slot {
    generation: u8,
    class: u8,
    switch: ClassSwitch,
    quick: QuickLook,
}

impl Slot {
    fn new(generation: u8, class: u8) -> Self {
        Self {
            generation,
            class,
            switch: ClassSwitch { mode: MODE_TESTS, ..OFF },
            quick: QuickLook::default(),
        }
    }

    fn finish(self, tables: &mut Tables) {
        let mut switch = self.switch;
        if switch.tests & (TEST_PREFIX | TEST_SUFFIX | TEST_CONTAINS) != 0 {
            let (quick, tails) = self.quick.finish();
            switch.tails = tails;
            tables.quick.push((self.class, quick));
        }
        tables.switches[usize::from(self.class)] = switch;
    }

    fn kernel_test(&mut self, tables: &mut Tables, test: &KernelTest) -> Result<(), String> {
        match test {
            KernelTest::PathPrefix(text) => self.prefix(tables, text, Whole::No),
            KernelTest::PathIs(text) => self.prefix(tables, text, Whole::Yes),
            KernelTest::PathSuffix(text) => self.suffix(tables, text),
            KernelTest::PathContains(text) => self.contains(text),
            KernelTest::Write => {
                self.switch.tests |= TEST_WRITE;
                Ok(())
            }
            KernelTest::Port(port) => {
                self.switch.tests |= TEST_PORT;
                self.test(tables, 0, u64::from(*port))
            }
            KernelTest::Net(net) => self.net(tables, *net),
            KernelTest::BpfCommand(command) => {
                let word = self.switch.suffix_lengths.get_mut(*command as usize / 64);
                *word.ok_or("a bpf command that no kernel has")? |= 1 << (command % 64);
                self.switch.tests |= TEST_NUMBER;
                Ok(())
            }
            KernelTest::AllOf(parts) => match most_telling(parts) {
                Some(part) => self.kernel_test(tables, part),
                None => Err("no test at all holds for everything".into()),
            },
        }
    }

    fn prefix(&mut self, tables: &mut Tables, text: &str, whole: Whole) -> Result<(), String> {
        let text = comparable(text)?;
        let mut path = [0; PREFIX_MAX];
        let mut len = text.len().min(PREFIX_MAX);
        path[..len].copy_from_slice(&text[..len]);
        match whole {
            Whole::No => self.quick.prefix(&text),
            Whole::Yes => self.quick.whole(&text),
        }
        // The NUL that ends every path in the kernel makes a whole path of a prefix.
        if whole == Whole::Yes && len < PREFIX_MAX {
            len += 1;
        }
        if tables.paths.len() >= PATHS_MAX {
            return Err(format!("more than {PATHS_MAX} path prefixes"));
        }
        let key = PathKey { generation: self.generation, class: self.class, pad: [0; 2], path };
        tables.paths.insert((8 * (4 + len as u32), zerocopy::transmute!(key)));
        self.switch.tests |= TEST_PREFIX;
        Ok(())
    }

    fn suffix(&mut self, tables: &mut Tables, text: &str) -> Result<(), String> {
        let text = comparable(text)?;
        let end = &text[text.len().saturating_sub(SUFFIX_MAX)..];
        let hash = end.iter().rev().fold(SUFFIX_SEED, |hash, byte| suffix_step(hash, *byte));
        let bit = end.len() - 1;
        self.switch.suffix_lengths[bit / 64] |= 1 << (bit % 64);
        self.switch.suffix_max = self.switch.suffix_max.max(end.len() as u8);
        self.switch.tests |= TEST_SUFFIX;
        self.quick.suffix(end);
        self.test(tables, end.len() as u8, hash)
    }

    /// Of the text the kernel looks for four bytes, those that other paths are least likely to have.
    fn contains(&mut self, text: &str) -> Result<(), String> {
        let text = comparable(text)?;
        let rarest =
            text.windows(4).min_by_key(|four| four.iter().map(|byte| commonness(*byte)).sum::<u32>());
        let Some(&[a, b, c, d]) = rarest else {
            return Err("a text of less than four bytes is contained in too many paths".into());
        };
        let bit = gram_bit(u32::from_le_bytes([a, b, c, d]));
        self.switch.grams[bit as usize / 64] |= 1 << (bit % 64);
        self.switch.tests |= TEST_CONTAINS;
        self.quick.anything();
        Ok(())
    }

    fn test(&self, tables: &mut Tables, len: u8, value: u64) -> Result<(), String> {
        if tables.tests.len() >= TESTS_MAX {
            return Err(format!("more than {TESTS_MAX} path suffixes and ports"));
        }
        let key = TestKey { generation: self.generation, class: self.class, len, pad: [0; 5], value };
        tables.tests.insert(zerocopy::transmute!(key));
        Ok(())
    }

    fn net(&mut self, tables: &mut Tables, net: IpNet) -> Result<(), String> {
        if tables.nets.len() >= NETS_MAX {
            return Err(format!("more than {NETS_MAX} networks"));
        }
        let (addr, bits) = match net.trunc() {
            IpNet::V4(net) => (net.addr().to_ipv6_mapped(), 96 + u32::from(net.prefix_len())),
            IpNet::V6(net) => (net.addr(), u32::from(net.prefix_len())),
        };
        let key = NetKey { generation: self.generation, class: self.class, pad: [0; 2], addr: addr.octets() };
        tables.nets.insert((32 + bits, zerocopy::transmute!(key)));
        self.switch.tests |= TEST_NET;
        Ok(())
    }
}

/// How common a byte is in paths, roughly: a wrong guess costs work, never a match.
fn commonness(byte: u8) -> u32 {
    match byte {
        b'e' | b's' | b'r' | b'i' | b'a' | b't' | b'n' | b'o' | b'l' | b'c' | b'/' => 4,
        b'a'..=b'z' => 3,
        b'0'..=b'9' | b'-' | b'.' | b'_' => 2,
        _ => 0,
    }
}

/// The text in the form in which the kernel compares, if it can.
fn comparable(text: &str) -> Result<Vec<u8>, String> {
    if text.is_empty() {
        return Err("an empty text holds for every path".into());
    }
    if text.contains('\0') {
        return Err("a text with NUL holds for no path, which is not a kernel test".into());
    }
    // Paths are decoded lossily: this character stands for bytes that the kernel sees and we do not.
    if text.contains('\u{fffd}') {
        return Err("the replacement character can stand for any byte".into());
    }
    Ok(text.to_ascii_lowercase().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(class: EventClass, tests: Vec<KernelTest>) -> FilterPlan {
        FilterPlan { classes: [(class, ClassPlan::AnyOf(tests))].into(), hold: vec![] }
    }

    #[test]
    fn classes_have_the_numbers_of_the_kernel_side() {
        for class in EventClass::ALL {
            let kernel = format!("{class:?}");
            assert_eq!(agent_abi::CLASSES as usize, EventClass::ALL.len());
            assert_eq!(kernel, format!("{:?}", super::super::decode::class_of(number(class)).unwrap()));
        }
    }

    #[test]
    fn i1_what_cannot_be_tested_passes() {
        for text in ["", "a\u{fffd}b", "a\0b"] {
            let tables = tables(&plan(EventClass::FileOpen, vec![KernelTest::PathSuffix(text.into())]), 0);
            assert_eq!(tables.switches[number(EventClass::FileOpen) as usize].mode, MODE_ALL);
            assert_eq!(tables.widened.len(), 1);
        }
        let many = (0..=PATHS_MAX).map(|n| KernelTest::PathPrefix(format!("/{n}"))).collect();
        assert_eq!(tables(&plan(EventClass::FileOpen, many), 0).switches[5].mode, MODE_ALL);
    }

    #[test]
    fn long_texts_are_cut_so_that_more_passes() {
        let long = format!("{}END", "x".repeat(500));
        let all = tables(&plan(EventClass::FileOpen, vec![KernelTest::PathSuffix(long.clone())]), 1);
        let switch = all.switches[number(EventClass::FileOpen) as usize];
        assert_eq!((switch.suffix_max, switch.suffix_lengths), (128, [0, 1 << 63]));
        let all = tables(&plan(EventClass::FileOpen, vec![KernelTest::PathIs(long)]), 1);
        assert_eq!(all.paths.first().map(|(bits, _)| *bits), Some(8 * 244));
    }

    #[test]
    fn the_process_tree_always_gets_its_classes() {
        let all = tables(&FilterPlan::default(), 0);
        assert!(all.switches[..3].iter().all(|switch| switch.mode == MODE_ALL));
        assert!(all.switches[3..].iter().all(|switch| switch.mode == MODE_OFF));
    }
}
