//! Every action on a real API server, with the permissions that it says it needs and no others: what it changes is undone exactly, killed
//! anywhere it comes to its end or back, somebody else's edit blocks the undo, and a target that is gone leaves nothing behind.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test of its own; what cannot be done fails it")]

mod accounts;
mod kubelet;
mod link;
mod namespaces;
mod pods;
mod restore;
mod scan;
mod tell;
mod workloads;
mod world;

/// Objects of no importance, from a number: the same for the same one, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        // SplitMix64, Steele and others 2014.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % most
    }

    /// Labels or annotations, sometimes none, with names that need escaping.
    fn map(&mut self) -> serde_json::Value {
        let names = ["a", "b", "x.example.com/a", "x.example.com/b~c"];
        let mut map = serde_json::Map::new();
        for name in names.iter().take(usize::try_from(self.below(5)).unwrap()) {
            let name = name.replace('~', "-");
            map.insert(name, format!("v{}", self.below(3)).into());
        }
        serde_json::Value::Object(map)
    }
}

const CASES: u64 = 8;
