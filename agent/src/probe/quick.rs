//! What the kernel looks for before it makes a path of a file (agent-abi/src/quick.rs), from the texts of the path tests.

use agent_abi::{
    ASKS_ALL, ASKS_CHAIN, ASKS_ENDS_ONLY, ASKS_SHORT_TAIL, ASKS_TAIL, BEGINS, BEGINS_SHORT, BELOW,
    CHAIN_SEED, CHAIN_WORDS, FOLDER, LEAF, Quick, TAIL_WORDS, WHOLE, chain_bit, chain_child, chain_step,
    leaf_end, tail_bit, tail_key, word,
};

/// A quick look in the making. All texts are in ASCII lower case.
pub(super) struct QuickLook {
    quick: Box<Quick>,
    /// For the class's switch: the last two bytes of short suffixes.
    short_tails: [u64; 4],
    /// Every test so far says how the path ends.
    ends_only: bool,
}

impl Default for QuickLook {
    fn default() -> Self {
        let quick = Quick {
            asks: 0,
            tails: [0; TAIL_WORDS],
            partial: [0; TAIL_WORDS],
            ends: [0; TAIL_WORDS],
            chains: [0; CHAIN_WORDS],
        };
        Self { quick: Box::new(quick), short_tails: [0; 4], ends_only: true }
    }
}

impl QuickLook {
    /// A test that nothing can be said about from here.
    pub(super) fn anything(&mut self) {
        self.quick.asks |= ASKS_ALL;
    }

    /// The path ends with the text.
    pub(super) fn suffix(&mut self, text: &[u8]) {
        self.quick.asks |= ASKS_TAIL;
        match text {
            // A resolved path does not end in a slash, and one letter says nothing.
            [.., b'/'] | [_] | [] => self.anything(),
            _ if text.len() < 4 && !text.contains(&b'/') => {
                let bit = tail_bit(text[text.len() - 2], text[text.len() - 1]);
                set(&mut self.short_tails, u64::from(bit));
                self.quick.asks |= ASKS_SHORT_TAIL;
                self.ends_only = false;
            }
            _ => {
                set(&mut self.quick.tails, end_key(text));
                set(&mut self.quick.ends, end_key(text));
                match text.iter().rposition(|byte| *byte == b'/') {
                    Some(slash) => {
                        let leaf = chain_child(CHAIN_SEED, &text[slash + 1..]);
                        set(&mut self.quick.chains, chain_bit(leaf, LEAF));
                    }
                    None => set(&mut self.quick.partial, end_key(text)),
                }
            }
        }
    }

    /// The path begins with the text.
    pub(super) fn prefix(&mut self, text: &[u8]) {
        self.ends_only = false;
        let Some((folder, rest)) = self.folders(text) else { return self.anything() };
        match rest {
            [a, b, c, d, ..] => self.chain(chain_step(folder, word(&[*a, *b, *c, *d])), BEGINS),
            [a, b, ..] => self.chain(chain_step(folder, word(&[*a, *b])), BEGINS_SHORT),
            // Below the root folder is everything.
            _ if folder == CHAIN_SEED => self.anything(),
            _ => self.chain(folder, BELOW),
        }
    }

    /// The path is the text.
    pub(super) fn whole(&mut self, text: &[u8]) {
        match self.folders(text) {
            Some((folder, name)) if !name.is_empty() => {
                self.chain(chain_child(folder, name), WHOLE);
                set(&mut self.quick.ends, end_key(text));
            }
            _ => self.anything(),
        }
    }

    /// The finished look, and what its class's switch needs for it.
    pub(super) fn finish(mut self) -> (Box<Quick>, [u64; 4]) {
        if self.ends_only {
            self.quick.asks |= ASKS_ENDS_ONLY;
        }
        (self.quick, self.short_tails)
    }

    /// Notes the folders that a text names whole; gives the key of the last one and what stands behind it.
    fn folders<'a>(&mut self, text: &'a [u8]) -> Option<(u64, &'a [u8])> {
        let mut rest = text.strip_prefix(b"/")?;
        let mut key = CHAIN_SEED;
        while let Some(end) = rest.iter().position(|byte| *byte == b'/') {
            let (name, behind) = (&rest[..end], &rest[end + 1..]);
            if name.is_empty() {
                return None;
            }
            key = chain_child(key, name);
            self.chain(key, FOLDER);
            rest = behind;
        }
        Some((key, rest))
    }

    fn chain(&mut self, key: u64, what: u64) {
        self.quick.asks |= ASKS_CHAIN;
        set(&mut self.quick.chains, chain_bit(key, what));
    }
}

/// Bit of the end of a text that has four bytes or a slash.
fn end_key(text: &[u8]) -> u64 {
    let last = text[text.len().saturating_sub(4)..]
        .iter()
        .fold(0_u32, |word, byte| word >> 8 | u32::from(*byte) << 24);
    u64::from(tail_key(leaf_end(last)))
}

fn set(table: &mut [u64], bit: u64) {
    table[bit as usize / 64] |= 1 << (bit % 64);
}

#[cfg(test)]
mod tests {
    use agent_abi::COMPONENT_WORDS;
    use proptest::prelude::*;

    use super::*;

    /// What the kernel side does (agent-ebpf/src/quick.rs), in plain code.
    fn may_matter(quick: &Quick, short_tails: &[u64; 4], path: &[u8]) -> bool {
        let lower = path.to_ascii_lowercase();
        let names: Vec<&[u8]> = lower[1..].split(|byte| *byte == b'/').collect();
        let has = |table: &[u64], bit: u64| table[bit as usize / 64] >> (bit % 64) & 1 == 1;
        let chain = |key, what| has(&quick.chains, chain_bit(key, what));
        if quick.asks & ASKS_ALL != 0 {
            return true;
        }
        let leaf = *names.last().unwrap_or(&&b""[..]);
        if quick.asks & (ASKS_TAIL | ASKS_SHORT_TAIL) != 0 {
            if quick.asks & ASKS_SHORT_TAIL != 0 {
                let [.., before_last, last] = leaf else { return true };
                if has(short_tails, u64::from(tail_bit(*before_last, *last))) {
                    return true;
                }
            }
            let key = end_key(&[b"\0\0/", leaf].concat());
            if has(&quick.tails, key)
                && (has(&quick.partial, key) || chain(chain_child(CHAIN_SEED, leaf), LEAF))
            {
                return true;
            }
        }
        if quick.asks & ASKS_CHAIN == 0 {
            return false;
        }
        let mut folder = CHAIN_SEED;
        for (position, name) in names.iter().enumerate() {
            let first = |n: usize| word(&name[..name.len().min(n)]);
            if chain(chain_step(folder, first(4)), BEGINS)
                || chain(chain_step(folder, first(2)), BEGINS_SHORT)
            {
                return true;
            }
            folder = chain_child(folder, name);
            if position + 1 == names.len() {
                return chain(folder, WHOLE);
            }
            if !chain(folder, FOLDER) {
                return false;
            }
            if chain(folder, BELOW) {
                return true;
            }
        }
        true
    }

    fn piece() -> impl Strategy<Value = String> {
        let long = "x".repeat(8 * COMPONENT_WORDS + 3);
        prop::sample::select(vec![
            "a".into(),
            "ab".into(),
            "abc".into(),
            "etc".into(),
            "Etc".into(),
            "cron.d".into(),
            "passwd".into(),
            ".so".into(),
            ".pem".into(),
            long.clone(),
            format!("{long}y"),
        ])
    }

    fn file() -> impl Strategy<Value = String> {
        prop::collection::vec(prop::collection::vec(piece(), 1..3), 1..5)
            .prop_map(|names| names.iter().map(|parts| format!("/{}", parts.concat())).collect::<String>())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        /// Tests are cut out of paths, so that they often hold.
        #[test]
        fn i1_the_quick_look_lets_everything_pass_for_which_a_test_holds(
            tests in prop::collection::vec((0..3_u8, file(), any::<prop::sample::Index>()), 1..5),
            paths in prop::collection::vec(file(), 1..12),
        ) {
            let mut look = QuickLook::default();
            let mut texts = Vec::new();
            for (kind, path, cut) in &tests {
                let at = cut.index(path.len());
                let text = match kind {
                    0 => &path[at..],
                    1 => &path[..=at],
                    _ => &path[..],
                }
                .to_ascii_lowercase();
                match kind {
                    0 => look.suffix(text.as_bytes()),
                    1 => look.prefix(text.as_bytes()),
                    _ => look.whole(text.as_bytes()),
                }
                texts.push((*kind, text));
            }
            let (quick, short_tails) = look.finish();
            let own: Vec<String> = tests.iter().map(|(_, path, _)| path.clone()).collect();
            for path in paths.iter().chain(&own) {
                let lower = path.to_ascii_lowercase();
                let holds = texts.iter().any(|(kind, text)| match kind {
                    0 => lower.ends_with(text),
                    1 => lower.starts_with(text),
                    _ => lower == *text,
                });
                let says = may_matter(&quick, &short_tails, path.as_bytes());
                prop_assert!(says || !holds, "{path} {texts:?}");
                let ends = quick.ends[end_key(lower.as_bytes()) as usize / 64] >> (end_key(lower.as_bytes()) % 64) & 1;
                if quick.asks & (ASKS_ENDS_ONLY | ASKS_ALL) == ASKS_ENDS_ONLY {
                    prop_assert!(ends == 1 || !holds, "{path} {texts:?}");
                }
            }
        }
    }

    #[test]
    fn a_file_elsewhere_is_ruled_out() {
        let mut look = QuickLook::default();
        look.prefix(b"/etc/cron.d/");
        look.prefix(b"/etc/crontab");
        look.whole(b"/etc/passwd");
        look.suffix(b"/how_to_decrypt.txt");
        look.suffix(b".jspx");
        let (quick, short) = look.finish();
        let says = |path: &str| may_matter(&quick, &short, path.as_bytes());
        for path in ["/etc/cron.d/x", "/etc/crontabs", "/etc/passwd", "/x/how_to_decrypt.txt", "/x/a.jspx"] {
            assert!(says(path), "{path}");
        }
        for path in
            ["/etc/hostname", "/tmp/notes.txt", "/usr/lib/libc.so.6", "/etc/passwd/x", "/etc/default/x"]
        {
            assert!(!says(path), "{path}");
        }
    }
}
