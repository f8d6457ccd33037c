//! The filter plan as map entries. Sound (I1): whatever cannot be expressed exactly lets more pass, never less.

use std::collections::BTreeSet;

use agent_abi::{
    CLASS_SLOTS, ClassSwitch, HOLD, MODE_ALL, MODE_OFF, MODE_TESTS, NetKey, PREFIX_MAX, PathKey, SUFFIX_MAX,
    SUFFIX_SEED, TEST_ANY_TAIL, TEST_NET, TEST_PORT, TEST_PREFIX, TEST_SUFFIX, TEST_UNLINKED, TEST_WRITE,
    TestKey, suffix_step, tail_bit,
};
use ipnet::IpNet;
use model::{ClassPlan, EventClass, ExecTest, FilterPlan, KernelTest};

/// Room for one generation: half of what each map holds.
const PATHS_MAX: usize = 16_000;
const TESTS_MAX: usize = 32_000;
const NETS_MAX: usize = 32_000;

/// Entries of one generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tables {
    pub(super) switches: Vec<ClassSwitch>,
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
        paths: BTreeSet::new(),
        tests: BTreeSet::new(),
        nets: BTreeSet::new(),
        widened: Vec::new(),
    };
    for class in EventClass::ALL {
        if !wants(plan, class) {
            continue;
        }
        let mut slot = Slot { generation, class: number(class), switch: OFF };
        match plan.classes.get(&class) {
            Some(ClassPlan::AnyOf(tests)) if !ALWAYS.contains(&class) && filters(class) => {
                slot.switch.mode = MODE_TESTS;
                for test in tests {
                    if let Err(why) = slot.kernel_test(&mut tables, test) {
                        tables.widened.push(format!("{class:?} passes unfiltered: {why}"));
                        slot.switch.mode = MODE_ALL;
                        break;
                    }
                }
            }
            _ => slot.switch.mode = MODE_ALL,
        }
        tables.switches[usize::from(slot.class)] = slot.switch;
    }
    if !plan.hold.is_empty() {
        let mut slot = Slot { generation, class: HOLD, switch: OFF };
        slot.switch.mode = MODE_TESTS;
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
        tables.switches[usize::from(HOLD)] = slot.switch;
    }
    tables
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
}

impl Slot {
    fn kernel_test(&mut self, tables: &mut Tables, test: &KernelTest) -> Result<(), String> {
        match test {
            KernelTest::PathPrefix(text) => self.prefix(tables, text, Whole::No),
            KernelTest::PathIs(text) => self.prefix(tables, text, Whole::Yes),
            KernelTest::PathSuffix(text) => self.suffix(tables, text),
            KernelTest::Write => {
                self.switch.tests |= TEST_WRITE;
                Ok(())
            }
            KernelTest::Port(port) => {
                self.switch.tests |= TEST_PORT;
                self.test(tables, 0, u64::from(*port))
            }
            KernelTest::Net(net) => self.net(tables, *net),
        }
    }

    fn prefix(&mut self, tables: &mut Tables, text: &str, whole: Whole) -> Result<(), String> {
        let text = comparable(text)?;
        let mut path = [0; PREFIX_MAX];
        let mut len = text.len().min(PREFIX_MAX);
        path[..len].copy_from_slice(&text[..len]);
        match whole {
            Whole::No => self.switch.tests |= TEST_ANY_TAIL,
            Whole::Yes => self.tail(&text),
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
        self.tail(end);
        self.test(tables, end.len() as u8, hash)
    }

    /// Notes what the path must end in for the test to hold.
    fn tail(&mut self, text: &[u8]) {
        match text {
            // The last component is too short for a look at its end.
            [.., b'/', _] | [.., b'/'] | [_] | [] => self.switch.tests |= TEST_ANY_TAIL,
            [.., before_last, last] => {
                let bit = tail_bit(*before_last, *last);
                self.switch.tails[bit as usize / 64] |= 1 << (bit % 64);
            }
        }
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
