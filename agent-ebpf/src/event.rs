//! The life of an event in the kernel: switched on, filtered, within its cgroup's budget, handed to a ring. Each fate is
//! counted (I2): seen = submitted + filtered + lost, exactly.

use core::ffi::c_void;

use agent_abi::{
    Budget, BudgetKey, CLASS_SLOTS, CONTROL_BUDGET, CONTROL_GENERATION, CONTROL_OWN_PID, CONTROL_OWN_START,
    Class, ClassSwitch, Fate, Group, MODE_ALL, MODE_OFF, RECORD_MAX, RecordHeader,
};
use aya_ebpf::helpers::generated::{bpf_get_current_cgroup_id, bpf_ktime_get_boot_ns, bpf_ringbuf_output};

use crate::{
    filter,
    maps::{BUDGETS, BULK, CONTROL, COUNTS, CRITICAL, SWITCHES},
    path::Path,
    read::{add, bounded},
    scratch::Claim,
    task,
};

const NO_WAKEUP: u64 = 1;
const FORCE_WAKEUP: u64 = 2;
const SECOND: u64 = 1_000_000_000;

/// An event of a class that is switched on. It has been counted as seen; end it with [`Event::submit`],
/// [`Event::filtered`] or [`Event::lost`], once.
#[derive(Clone, Copy)]
pub struct Event {
    /// Its class.
    pub class: Class,
    /// Generation of the filter that it is judged by.
    pub generation: u8,
    /// Class or pseudo class whose tests it is judged by.
    tests_of: u8,
    switch: *const ClassSwitch,
}

/// Begins an event in the context of the task that causes it. `None`: the class is off, or it is the agent's own.
#[inline(always)]
pub fn begin(class: Class) -> Option<Event> {
    let generation = control(CONTROL_GENERATION) & 1;
    let switch = SWITCHES.get_ptr(generation as u32 * CLASS_SLOTS + class as u32)?;
    // SAFETY: a map value.
    if unsafe { (*switch).mode } == MODE_OFF {
        return None;
    }
    if !matches!(class, Class::Exec | Class::Fork | Class::Exit) && is_own() {
        return None;
    }
    count(class, Fate::Seen);
    Some(Event { class, generation: generation as u8, tests_of: class as u8, switch })
}

/// The same where the event is another task's than the current one's: a packet, a connection that ends. `who` is the header
/// of its maker.
#[inline(always)]
pub fn begin_for(class: Class, who: &RecordHeader) -> Option<Event> {
    let generation = control(CONTROL_GENERATION) & 1;
    let switch = SWITCHES.get_ptr(generation as u32 * CLASS_SLOTS + class as u32)?;
    // SAFETY: a map value.
    if unsafe { (*switch).mode } == MODE_OFF {
        return None;
    }
    if u64::from(who.pid) == control(CONTROL_OWN_PID) && who.start == control(CONTROL_OWN_START) {
        return None;
    }
    count(class, Fate::Seen);
    Some(Event { class, generation: generation as u8, tests_of: class as u8, switch })
}

/// Whether a class is switched on at all.
#[inline(always)]
pub fn is_on(class: Class) -> bool {
    let generation = control(CONTROL_GENERATION) & 1;
    match SWITCHES.get_ptr(generation as u32 * CLASS_SLOTS + class as u32) {
        // SAFETY: a map value.
        Some(switch) => unsafe { (*switch).mode != MODE_OFF },
        None => false,
    }
}

impl Event {
    /// Whether no test is needed for it to pass.
    #[inline(always)]
    pub fn passes_all(&self) -> bool {
        // SAFETY: a map value.
        unsafe { (*self.switch).mode == MODE_ALL }
    }

    /// The same event judged by the tests of a pseudo class; `None` never happens.
    #[inline(always)]
    pub fn judged_as(self, pseudo: u8) -> Option<Self> {
        let place = u32::from(self.generation) * CLASS_SLOTS + u32::from(pseudo);
        Some(Self { switch: SWITCHES.get_ptr(place)?, tests_of: pseudo, ..self })
    }

    /// Place of its tests among the switches.
    #[inline(always)]
    pub fn place(&self) -> u32 {
        u32::from(self.generation) * CLASS_SLOTS + u32::from(self.tests_of)
    }

    /// Whether a path test of its class holds for the path in the slot.
    #[inline(always)]
    pub fn path_passes(&self, claim: Claim, path: Path) -> bool {
        filter::path_passes(claim, path, self.switch, self.generation, self.tests_of)
    }

    /// What passes of its class.
    #[inline(always)]
    pub fn switch(&self) -> *const ClassSwitch {
        self.switch
    }

    /// No loaded rule can match it.
    #[inline(always)]
    pub fn filtered(self) {
        count(self.class, Fate::Filtered);
    }

    /// It cannot be told.
    #[inline(always)]
    pub fn lost(self, fate: Fate) {
        count(self.class, fate);
    }

    /// Takes one from the cgroup's budget. `false`: used up, and the event counted as lost.
    #[inline(always)]
    pub fn within_budget(self) -> bool {
        // SAFETY: a helper without arguments.
        self.within_budget_of(unsafe { bpf_get_current_cgroup_id() })
    }

    /// The same for a hook that does not run in the context of the task that caused the event.
    #[inline(always)]
    pub fn within_budget_of(self, cgroup: u64) -> bool {
        let limit = control(CONTROL_BUDGET + self.class.group() as u32);
        if limit == 0 || spend(cgroup, self.class.group(), limit) {
            return true;
        }
        count(self.class, Fate::LostBudget);
        false
    }

    /// Hands the first `len` bytes of the slot's record to the ring. The record's length word is set here.
    #[inline(always)]
    pub fn submit(self, claim: Claim, len: u64) {
        // SAFETY: the record begins with its header.
        unsafe { (*claim.at::<agent_abi::RecordHeader>(0)).len = len as u32 };
        self.submit_from(claim.record(), bounded(len, 0x7fff));
    }

    /// Hands a record of fixed size to the ring; `record` may be on the stack.
    #[inline(always)]
    pub fn submit_fixed<T>(self, record: &T) {
        self.submit_from((&raw const *record).cast::<u8>(), size_of::<T>() as u64);
    }

    #[inline(always)]
    fn submit_from(self, record: *const u8, len: u64) {
        if len > RECORD_MAX as u64 {
            return count(self.class, Fate::LostRead);
        }
        // Critical records wake the reader, fork and exit wait for the next look. Bulk records wake a reader that has
        // caught up (flag 0): it then pauses between looks while there is much to do.
        // Who waits for peers is known before what its children do is judged, so that comes in one order with execs; it is rare.
        let (ring, flags) = match (self.class, self.class.group()) {
            (Class::Listen | Class::Bind, _) => (&raw const CRITICAL, 0),
            (_, Group::Critical) => (&raw const CRITICAL, FORCE_WAKEUP),
            (_, Group::Life) => (&raw const CRITICAL, NO_WAKEUP),
            (_, Group::File | Group::Net) => (&raw const BULK, 0),
        };
        // SAFETY: `record` has at least `len` bytes; the verifier checks.
        let err = unsafe {
            bpf_ringbuf_output(ring.cast_mut().cast::<c_void>(), record.cast_mut().cast(), len, flags)
        };
        count(self.class, if err == 0 { Fate::Submitted } else { Fate::LostRing });
    }
}

/// Counts one event of `class`. Exact also where an interrupt comes between.
#[inline(always)]
pub fn count(class: Class, fate: Fate) {
    if let Some(counts) = COUNTS.get_ptr_mut(class as u32) {
        // SAFETY: a map value; a constant index.
        unsafe { add(&raw mut (*counts)[fate as usize & 7], 1) };
    }
}

#[inline(always)]
pub fn control(slot: u32) -> u64 {
    match CONTROL.get_ptr(slot) {
        // SAFETY: a map value, read whole.
        Some(value) => unsafe { core::ptr::read_volatile(value) },
        None => 0,
    }
}

/// Whether the current task is of the agent's own process: by process id and start time, never by a name.
#[inline(always)]
fn is_own() -> bool {
    let own = control(CONTROL_OWN_PID);
    let current = task::current();
    own != 0 && u64::from(task::tgid(current)) == own && task::start(current) == control(CONTROL_OWN_START)
}

/// Counts one event against a budget of `limit` a second.
#[inline(always)]
fn spend(cgroup: u64, group: Group, limit: u64) -> bool {
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let key = BudgetKey { cgroup, group: group as u64 };
    let Some(budget) = BUDGETS.get_ptr_mut(&key) else {
        let first = Budget { window: now, used: 1, passed: 1, cut: 0 };
        // A failure (another CPU was first, or no memory) lets one event more pass.
        let _ = BUDGETS.insert(&key, &first, 1);
        return true;
    };
    // SAFETY: map values, touched by other CPUs too: whole words only, and a race costs at most one event of accuracy in
    // the limit, none in the accounting.
    unsafe {
        if now.wrapping_sub((*budget).window) >= SECOND {
            (*budget).window = now;
            (*budget).used = 0;
        }
        let within = (*budget).used < limit;
        add(&raw mut (*budget).used, 1);
        add(if within { &raw mut (*budget).passed } else { &raw mut (*budget).cut }, 1);
        within
    }
}
