//! What is remembered of whom, by age: where there is too much of it, who has most forgets first.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use detect::tenant::Tenant;
use model::Timestamp;

/// When something was last needed, and which.
type Place = (Timestamp, u64);

/// The order of forgetting.
#[derive(Debug, Default)]
pub(super) struct Shares {
    by_age: BTreeSet<Place>,
    by_tenant: BTreeMap<Tenant, BTreeSet<Place>>,
    /// Who has how many, and since when his oldest was not needed.
    by_count: BTreeSet<(usize, Reverse<Timestamp>, Tenant)>,
}

impl Shares {
    pub(super) fn add(&mut self, tenant: &Tenant, at: Timestamp, reference: u64) {
        self.by_age.insert((at, reference));
        self.change(tenant, |own| own.insert((at, reference)));
    }

    pub(super) fn remove(&mut self, tenant: &Tenant, at: Timestamp, reference: u64) {
        self.by_age.remove(&(at, reference));
        self.change(tenant, |own| own.remove(&(at, reference)));
    }

    /// The longest not needed of all.
    pub(super) fn oldest(&self) -> Option<Place> {
        self.by_age.first().copied()
    }

    /// The longest not needed of who has most: who remembers little is not made to forget by who tells much.
    pub(super) fn oldest_of_who_has_most(&self) -> Option<Place> {
        let (_, _, tenant) = self.by_count.last()?;
        self.by_tenant.get(tenant)?.first().copied()
    }

    fn change(&mut self, tenant: &Tenant, change: impl FnOnce(&mut BTreeSet<Place>) -> bool) {
        let standing = |own: &BTreeSet<Place>| {
            own.first().map(|(oldest, _)| (own.len(), Reverse(*oldest), tenant.clone()))
        };
        let own = self.by_tenant.entry(tenant.clone()).or_default();
        let before = standing(own);
        change(own);
        let after = standing(own);
        if let Some(before) = before {
            self.by_count.remove(&before);
        }
        match after {
            Some(after) => self.by_count.insert(after),
            None => self.by_tenant.remove(tenant).is_some(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> Tenant {
        serde_json::from_value(name.into()).unwrap()
    }

    #[test]
    fn who_has_most_forgets_first_and_nothing_stays_of_who_has_none() {
        let mut shares = Shares::default();
        shares.add(&tenant("quiet"), Timestamp(1), 1);
        for n in 2..100 {
            shares.add(&tenant("loud"), Timestamp(n), n as u64);
        }
        assert_eq!(shares.oldest(), Some((Timestamp(1), 1)));
        for n in 2..99 {
            assert_eq!(shares.oldest_of_who_has_most(), Some((Timestamp(n), n as u64)));
            shares.remove(&tenant("loud"), Timestamp(n), n as u64);
        }
        // Where nobody has more than another, the longest not needed.
        assert_eq!(shares.oldest_of_who_has_most(), Some((Timestamp(1), 1)));
        shares.remove(&tenant("quiet"), Timestamp(1), 1);
        shares.remove(&tenant("loud"), Timestamp(99), 99);
        assert_eq!((shares.oldest(), shares.oldest_of_who_has_most()), (None, None));
        assert!(shares.by_tenant.is_empty() && shares.by_count.is_empty());
    }
}
