//! Findings that belong together: incident grouping by shared entity in a sliding window of event time.
//!
//! Two findings are linked when they share a [`Key`] (a process or an ancestor, a container, a pod, a login session, a remote
//! address), or have two that meet (a login, and what its session does: [`Key::meets`]), and lie within the window of each other. An incident is what is connected by such links, so the order of arrival
//! does not matter, and a finding that links two incidents merges them: the one that was opened first goes on. An incident's
//! id comes from the finding that opened it and never changes.
//!
//! What has several names links by each of them ([`Alias`]), by that which was known when the finding came, and by that which is learnt later
//! ([`Correlator::learn`]); which of the two it is makes no difference to what belongs together. But whose the address was from which somebody acted
//! never puts two pods' stories together, and once it is known, it is the pod that links and not the address any more.
//!
//! Hubs do not link: what most of a machine has in common says nothing. See [`keys_of`] for those known beforehand; an
//! address seen from more than [`GroupingConfig::hub_limit`] tenants within the window becomes one, and so does an account that opened sessions
//! with more of them: nobody makes another's a hub by cgroups of his own. The machine itself never links.
//!
//! Limits (I11): [`GroupingConfig::max_groups`] groups; of the tenant that has most ([`Tenant`]) the least recently extended is forgotten
//! first, and a later finding of its story opens a new incident; [`GroupingConfig::max_spans`] keys a group, further keys of it do not link and are counted.

mod group;
mod keys;
mod login;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use model::{Finding, IncidentId, Timestamp, short_hash};

use crate::tenant::Tenant;

pub use group::{Group, Origin, Span};
pub use keys::{Alias, Key, entities_of, key_of_account, key_of_address, keys_of, names_of};

pub(crate) use login::of_record as login_of;

use keys::{Busy, busy_of, own_names};

/// How findings are grouped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupingConfig {
    /// Findings further apart than this are not linked by what they share; held between 30 s and 24 h.
    pub window: Duration,
    /// How late a finding may be and still be linked exactly; what is older than window and lateness together is forgotten.
    pub lateness: Duration,
    /// An address seen from more tenants than this within the window is a hub, and an account with sessions in more.
    pub hub_limit: usize,
    /// Groups kept.
    pub max_groups: usize,
    /// Keys (spans) kept for one group.
    pub max_spans: usize,
}

impl Default for GroupingConfig {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(15 * 60),
            lateness: Duration::from_secs(5 * 60),
            hub_limit: 8,
            max_groups: 8192,
            max_spans: 512,
        }
    }
}

/// Shortest and longest window.
const WINDOW: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(24 * 3600));

/// How far an event's time may lie after its arrival; more is taken for a wrong clock, and the time of arrival is used, lest
/// one such event make everything else look old.
const FUTURE: Duration = Duration::from_secs(60);

/// The groups of now. Deterministic: the same findings with the same arrival times give the same placements.
#[derive(Debug)]
pub struct Correlator {
    config: GroupingConfig,
    groups: BTreeMap<IncidentId, Group>,
    by_key: BTreeMap<Key, BTreeSet<IncidentId>>,
    by_latest: BTreeSet<(Timestamp, IncidentId)>,
    by_tenant: BTreeMap<Tenant, BTreeSet<(Timestamp, IncidentId)>>,
    /// Who has how many, and since when his oldest was not extended.
    by_count: BTreeSet<(usize, Reverse<Timestamp>, Tenant)>,
    origins: BTreeMap<Busy, BTreeMap<Origin, Timestamp>>,
    watermark: Timestamp,
    next_serial: u64,
    forgotten_early: u64,
}

/// Where a finding belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// To this incident.
    pub incident: IncidentId,
    /// Whether it is new.
    pub opening: Opening,
    /// Incidents that turned out to be the same story; they are merged into `incident`.
    pub absorbed: Vec<IncidentId>,
    /// What it had in common with them; empty when new.
    pub shared: Vec<Key>,
    /// Groups forgotten meanwhile, by age or by limit: what is stored of them may go.
    pub forgotten: Vec<IncidentId>,
}

/// Whether a finding opened an incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// It did.
    New,
    /// It joined one.
    Joined,
}

impl Correlator {
    /// With no groups.
    #[must_use]
    pub fn new(mut config: GroupingConfig) -> Self {
        config.window = config.window.clamp(WINDOW.0, WINDOW.1);
        config.max_groups = config.max_groups.max(1);
        config.max_spans = config.max_spans.max(8);
        Self {
            config,
            groups: BTreeMap::new(),
            by_key: BTreeMap::new(),
            by_latest: BTreeSet::new(),
            by_tenant: BTreeMap::new(),
            by_count: BTreeSet::new(),
            origins: BTreeMap::new(),
            watermark: Timestamp(i64::MIN),
            next_serial: 0,
            forgotten_early: 0,
        }
    }

    /// With the groups of an earlier life, as [`Correlator::group`] gave them.
    #[must_use]
    pub fn restore(config: GroupingConfig, groups: impl IntoIterator<Item = Group>) -> Self {
        let mut this = Self::new(config);
        for group in groups {
            this.next_serial = this.next_serial.max(group.serial + 1);
            this.watermark = this.watermark.max(group.latest());
            for (origin, busy, at) in &group.origins {
                this.saw(busy, origin, *at);
            }
            this.insert(group);
        }
        this
    }

    /// Places a finding that arrived at `now`. A finding that was placed before goes where it went.
    pub fn place(&mut self, finding: &Finding, now: Timestamp) -> Placement {
        self.place_as(finding, &[], incident_of(finding), now)
    }

    /// Places a finding that arrived at `now`, by its keys and by what else they are called; if it opens an incident, that is called
    /// `name`.
    pub fn place_as(
        &mut self,
        finding: &Finding,
        aliases: &[Alias],
        name: IncidentId,
        now: Timestamp,
    ) -> Placement {
        let at = time_of(finding, now);
        self.watermark = self.watermark.max(at);
        let origin = origin_of(finding);
        let busy = busy_of(finding, aliases);
        busy.iter().for_each(|one| self.saw(one, &origin, at));
        let (mut keys, known) = own_names(finding, aliases);
        let (mut linked, mut shared) = self.linked(&keys, at);
        for alias in self.called(&known, at) {
            let (also, by) = self.linked(std::slice::from_ref(&alias.is), at);
            // Whose the address was does not put the stories of other pods into that pod's.
            if alias.glues(self.keys_in(&linked)) {
                continue;
            }
            linked.extend(also);
            shared.extend(by);
            keys.push(alias.is.clone());
        }
        let mut forgotten = self.expire(&linked);
        let oldest = linked.iter().min_by_key(|id| self.groups.get(*id).map(|g| g.serial)).cloned();
        let (mut group, opening) = match oldest.as_ref().and_then(|id| self.take(id)) {
            Some(group) => (group, Opening::Joined),
            None => {
                self.next_serial += 1;
                (Group::new(name, self.next_serial - 1, Tenant::of(&finding.event)), Opening::New)
            }
        };
        let absorbed = self.merge(&mut group, linked);
        for key in keys {
            group.extend(key, at, self.config.window, self.config.max_spans);
        }
        for one in &busy {
            group.came_from(&origin, one, at, self.config.hub_limit);
        }
        group.touch(at);
        let incident = group.incident.clone();
        self.insert(group);
        forgotten.extend(self.shed(&incident));
        Placement { incident, opening, absorbed, shared, forgotten }
    }

    /// What a finding of `incident` has is called otherwise, too, as is known only now: the incident is linked by that, and where others are
    /// linked by it they are merged. `None` where that is known already, and where it is not, or no longer, grouped.
    pub fn learn(
        &mut self,
        incident: &IncidentId,
        finding: &Finding,
        aliases: &[Alias],
        now: Timestamp,
    ) -> Option<Placement> {
        let at = time_of(finding, now);
        let origin = origin_of(finding);
        let busy = busy_of(finding, aliases);
        let limit = self.config.hub_limit;
        let mine = self.groups.get_mut(incident)?;
        let seen = busy.iter().filter(|one| mine.came_from(&origin, one, at, limit)).count();
        busy.iter().for_each(|one| self.saw(one, &origin, at));
        let (_, known) = own_names(finding, aliases);
        let mine = self.groups.get(incident)?;
        let (acting, other): (Vec<&Alias>, Vec<&Alias>) = self
            .called(&known, at)
            .into_iter()
            .filter(|alias| !alias.glues(mine.keys()))
            .partition(|alias| matches!(alias.of, Some(Key::Address { .. })));
        let keys: Vec<Key> = acting.iter().chain(&other).map(|alias| alias.is.clone()).collect();
        let left: Vec<Key> = acting.iter().filter_map(|alias| alias.of.clone()).collect();
        let (mut linked, shared) = self.linked(&keys, at);
        let is_apart = |other: &IncidentId| {
            mine.apart.contains(other)
                || self.groups.get(other).is_some_and(|other| other.apart.contains(incident))
        };
        linked.retain(|other| other != incident && !is_apart(other));
        let stays = !mine.keys().any(|key| left.contains(key));
        if linked.is_empty() && seen == 0 && stays && keys.iter().all(|key| mine.covers(key, at)) {
            return None;
        }
        linked.insert(incident.clone());
        let oldest = linked.iter().min_by_key(|id| self.groups.get(*id).map(|g| g.serial)).cloned()?;
        let mut group = self.take(&oldest)?;
        let absorbed = self.merge(&mut group, linked);
        for key in keys {
            group.extend(key, at, self.config.window, self.config.max_spans);
        }
        left.iter().for_each(|key| group.leave(key));
        let incident = group.incident.clone();
        self.insert(group);
        Some(Placement { incident, opening: Opening::Joined, absorbed, shared, forgotten: Vec::new() })
    }

    /// Where something without a finding of its own belongs that has one of `keys` and was done at `at`: the oldest, if
    /// there are several.
    #[must_use]
    pub fn about(&self, keys: &[Key], at: Timestamp) -> Option<IncidentId> {
        let (linked, _) = self.linked(keys, at);
        linked.into_iter().min_by_key(|id| self.groups.get(id).map(|g| g.serial))
    }

    /// An incident that a person closed or judged takes no more findings: the next of its story opens a new one.
    pub fn close(&mut self, incident: &IncidentId) {
        drop(self.take(incident));
    }

    /// Parts an incident in two, as a person wishes: what it has in common stays with both, they are never put together again, and what
    /// comes later and fits both goes to the older. Each finding as its keys and its time.
    pub fn split(
        &mut self,
        from: &IncidentId,
        stay: &[(Vec<Key>, Timestamp)],
        into: &IncidentId,
        go: &[(Vec<Key>, Timestamp)],
    ) {
        let Some(old) = self.take(from) else { return };
        self.next_serial += 1;
        let (first, second, tenant) = (old.serial, self.next_serial - 1, &old.tenant);
        let mut parts = [
            Group::new(from.clone(), first, tenant.clone()),
            Group::new(into.clone(), second, tenant.clone()),
        ];
        for (group, (findings, other)) in parts.iter_mut().zip([(stay, into), (go, from)]) {
            group.keep_apart(old.apart.iter().chain([other]));
            for (keys, at) in findings {
                for key in keys {
                    group.extend(key.clone(), *at, self.config.window, self.config.max_spans);
                }
                group.touch(*at);
            }
            group.origins.clone_from(&old.origins);
        }
        parts.into_iter().for_each(|group| self.insert(group));
    }

    /// A group as it stands, to be stored for [`Correlator::restore`].
    #[must_use]
    pub fn group(&self, incident: &IncidentId) -> Option<&Group> {
        self.groups.get(incident)
    }

    /// How many groups there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// No groups.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Groups forgotten because of the limit and not because of age, since the start.
    #[must_use]
    pub fn forgotten_early(&self) -> u64 {
        self.forgotten_early
    }

    fn linked(&self, keys: &[Key], at: Timestamp) -> (BTreeSet<IncidentId>, Vec<Key>) {
        let (mut linked, mut shared) = (BTreeSet::new(), Vec::new());
        for key in keys.iter().filter(|key| !self.is_hub(key, at)) {
            let before = shared.len();
            for (met, id) in self.meeting(key).flat_map(|(met, ids)| ids.iter().map(move |id| (met, id))) {
                if self.groups.get(id).is_some_and(|g| g.has(met, at, self.config.window)) {
                    linked.insert(id.clone());
                    if shared.len() == before {
                        shared.push(key.clone());
                    }
                }
            }
        }
        (linked, shared)
    }

    /// Keys of groups that say the same as `key`.
    fn meeting<'a>(&'a self, key: &'a Key) -> impl Iterator<Item = (&'a Key, &'a BTreeSet<IncidentId>)> {
        let others = key.others().map(|range| self.by_key.range(range)).into_iter().flatten();
        self.by_key.get_key_value(key).into_iter().chain(others.filter(|(other, _)| key.meets(other)))
    }

    /// Merges what is linked into `group`, but for what a person said is another story.
    fn merge(&mut self, group: &mut Group, linked: BTreeSet<IncidentId>) -> Vec<IncidentId> {
        let mut absorbed = Vec::new();
        for id in linked {
            if group.apart.contains(&id)
                || self.groups.get(&id).is_some_and(|other| other.apart.contains(&group.incident))
            {
                continue;
            }
            // The survivor itself is taken already.
            if let Some(other) = self.take(&id) {
                absorbed.push(id);
                group.absorb(other, self.config.window, self.config.max_spans);
            }
        }
        absorbed
    }

    /// Aliases of what is no hub.
    fn called<'a>(&self, aliases: &[&'a Alias], at: Timestamp) -> Vec<&'a Alias> {
        let known = |alias: &&Alias| alias.of.as_ref().is_none_or(|of| !self.is_hub(of, at));
        aliases.iter().copied().filter(known).collect()
    }

    fn keys_in(&self, groups: &BTreeSet<IncidentId>) -> impl Iterator<Item = &Key> {
        groups.iter().filter_map(|id| self.groups.get(id)).flat_map(Group::keys)
    }

    fn is_hub(&self, key: &Key, at: Timestamp) -> bool {
        let within = |seen: &Timestamp| near(*seen, at, self.config.window);
        Busy::of(key)
            .and_then(|busy| self.origins.get(&busy))
            .is_some_and(|from| from.values().filter(|seen| within(seen)).count() > self.config.hub_limit)
    }

    fn saw(&mut self, busy: &Busy, origin: &Origin, at: Timestamp) {
        let from = self.origins.entry(busy.clone()).or_default();
        let seen = from.entry(origin.clone()).or_insert(at);
        *seen = at.max(*seen);
        // One more than the limit is enough to know a hub; the longest unseen goes first.
        if from.len() > self.config.hub_limit.saturating_mul(2).max(16)
            && let Some(oldest) = from.iter().min_by_key(|(_, at)| **at).map(|(origin, _)| origin.clone())
        {
            from.remove(&oldest);
        }
        // They live as long as some group that saw them; at most so many a group keeps this bounded as well.
        if self.origins.len() > self.config.max_groups.saturating_mul(4).max(1024)
            && let Some(other) = self.origins.keys().find(|one| *one != busy).cloned()
        {
            self.origins.remove(&other);
        }
    }

    /// Forgets what is too old to be linked to anything, but for the groups that were just found.
    fn expire(&mut self, keep: &BTreeSet<IncidentId>) -> Vec<IncidentId> {
        let age = self.config.window + self.config.lateness;
        let old: Vec<IncidentId> = self
            .by_latest
            .iter()
            .take_while(|(latest, _)| latest.plus(age) < self.watermark)
            .filter(|(_, id)| !keep.contains(id))
            .map(|(_, id)| id.clone())
            .collect();
        for id in &old {
            drop(self.take(id));
        }
        if !old.is_empty() {
            let watermark = self.watermark;
            self.origins.retain(|_, from| {
                from.retain(|_, at| at.plus(age) >= watermark);
                !from.is_empty()
            });
        }
        old
    }

    /// Forgets the least recently extended groups beyond the limit, of who has most, never the one at hand.
    fn shed(&mut self, current: &IncidentId) -> Vec<IncidentId> {
        let mut shed = Vec::new();
        while self.groups.len() > self.config.max_groups {
            let payers = self.by_count.iter().rev().filter_map(|(_, _, tenant)| self.by_tenant.get(tenant));
            let Some(id) = payers.flatten().map(|(_, id)| id).find(|id| *id != current).cloned() else {
                break;
            };
            drop(self.take(&id));
            self.forgotten_early += 1;
            shed.push(id);
        }
        shed
    }

    fn insert(&mut self, group: Group) {
        for key in group.keys() {
            self.by_key.entry(key.clone()).or_default().insert(group.incident.clone());
        }
        self.by_latest.insert((group.latest(), group.incident.clone()));
        let place = (group.latest(), group.incident.clone());
        self.recount(&group.tenant, |own| own.insert(place));
        self.groups.insert(group.incident.clone(), group);
    }

    /// Changes what a tenant has.
    fn recount(
        &mut self,
        tenant: &Tenant,
        change: impl FnOnce(&mut BTreeSet<(Timestamp, IncidentId)>) -> bool,
    ) {
        let standing = |own: &BTreeSet<(Timestamp, IncidentId)>| {
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

    fn take(&mut self, id: &IncidentId) -> Option<Group> {
        let group = self.groups.remove(id)?;
        let place = (group.latest(), id.clone());
        self.by_latest.remove(&place);
        self.recount(&group.tenant, |own| own.remove(&place));
        for key in group.keys() {
            if let Some(ids) = self.by_key.get_mut(key) {
                ids.remove(id);
                if ids.is_empty() {
                    self.by_key.remove(key);
                }
            }
        }
        Some(group)
    }
}

/// The incident that `finding` opens: its id is part of the name, so a repeated delivery opens the same.
#[must_use]
pub fn incident_of(finding: &Finding) -> IncidentId {
    IncidentId::new(format!("inc-{}", short_hash([finding.id.as_str()], 5)))
}

/// The incident that `finding` opens when its cause is seen for the `finding.count`-th time and the incident that it was in
/// is closed: not the one that it opened at first, and the same for a repeated delivery.
#[must_use]
pub fn incident_of_repeat(finding: &Finding) -> IncidentId {
    let count = finding.count.to_string();
    IncidentId::new(format!("inc-{}", short_hash([finding.id.as_str(), count.as_str()], 5)))
}

fn origin_of(finding: &Finding) -> Origin {
    match finding.event.record() {
        // All that a log tells comes from one place.
        Some(_) => {
            Origin::Place { node: finding.event.id.node.clone(), cgroup: finding.event.process.cgroup }
        }
        None => Origin::Tenant(Tenant::of(&finding.event)),
    }
}

/// When a finding that arrived at `now` is taken to have happened.
fn time_of(finding: &Finding, now: Timestamp) -> Timestamp {
    if finding.first > now.plus(FUTURE) { now } else { finding.first }
}

/// Whether two times lie within `window` of each other.
fn near(a: Timestamp, b: Timestamp, window: Duration) -> bool {
    a.since(b).max(b.since(a)) <= window
}

#[cfg(test)]
mod tests;
