//! Loading: object, offsets, maps; hooks as the plan needs them; the swap from one plan to the next.

use std::{
    collections::BTreeMap,
    io,
    os::fd::AsFd,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use agent_abi::{
    CLASS_SLOTS, CONTROL_BUDGET, CONTROL_GENERATION, ClassSwitch, FIELDS, GROUPS, MISSING, NEIGHBOURS,
    NetKey, PathKey, Quick, TestKey,
};
use aya::{
    Btf, Ebpf, EbpfError, EbpfLoader,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, lpm_trie::Key},
};
use model::{ClassCount, EventClass, FilterPlan, HookState, HookStatus, ProcessKey};

use super::{
    btf::{KernelTypes, VMLINUX},
    counts::{self, BudgetMap, CgroupBudget, CountMap},
    decode,
    error::ProbeError,
    halt::Halt,
    held::{self, HeldMap, HeldProcess},
    hooks::{self, Attached, Attacher, Hook},
    object::{CAST, Object},
    plan::{self, Tables},
    reader::Reader,
    ring::Ring,
    snapshot, sys,
};
use crate::{allocator, bpffs::Bpffs, record::Task};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/probes"));

/// Events per cgroup and second; 0 means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budgets {
    /// exec, credentials, namespaces, kernel surface.
    pub critical: u64,
    /// fork and exit.
    pub life: u64,
    /// Files.
    pub file: u64,
    /// Network.
    pub net: u64,
}

impl Default for Budgets {
    /// Above what one node's whole load should be, below what would fill the rings for long.
    fn default() -> Self {
        Self { critical: 50_000, life: 100_000, file: 200_000, net: 100_000 }
    }
}

/// Whether events of the calling process are seen (its exec, fork and exit always are).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OwnEvents {
    /// They are left out, by process id and start time.
    #[default]
    LeftOut,
    /// They are seen.
    Seen,
}

/// Which of its forms a hook takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Forms {
    /// The best that the kernel gives.
    #[default]
    Best,
    /// Any other than the best, as on a kernel that does not have it; the best where no other works. For tests.
    Fallback,
}

/// How to load.
#[derive(Debug, Clone)]
pub struct ProbeConfig {
    /// Size of the critical ring in bytes, a power of two. Memory in use grows by this much.
    pub critical_ring: u32,
    /// Size of the bulk ring in bytes, a power of two. Memory in use grows by this much.
    pub bulk_ring: u32,
    /// Budgets of each cgroup.
    pub budgets: Budgets,
    /// Whether the agent sees itself.
    pub own_events: OwnEvents,
    /// Which forms the hooks take.
    pub forms: Forms,
    /// Folder in bpffs for the map of held processes. Two agents with one folder would judge each other's.
    pub pins: PathBuf,
    /// Gives up the start when it is told.
    pub halt: Halt,
}

impl Default for ProbeConfig {
    fn default() -> Self {
        Self {
            critical_ring: 4 << 20,
            bulk_ring: 8 << 20,
            budgets: Budgets::default(),
            own_events: OwnEvents::default(),
            forms: Forms::default(),
            pins: PathBuf::from("/sys/fs/bpf/hemostat"),
            halt: Halt::default(),
        }
    }
}

/// Loaded probes. Dropping them detaches every hook.
pub struct Probes {
    ebpf: Ebpf,
    live: BTreeMap<&'static str, Result<Attached, String>>,
    halt: Halt,
    control: Array<MapData, u64>,
    switches: Array<MapData, [u8; size_of::<ClassSwitch>()]>,
    quick: Array<MapData, [u8; size_of::<Quick>()]>,
    paths: LpmTrie<MapData, [u8; size_of::<PathKey>()], u8>,
    tests: HashMap<MapData, [u8; size_of::<TestKey>()], u8>,
    nets: LpmTrie<MapData, [u8; size_of::<NetKey>()], u8>,
    counts: CountMap,
    budgets: BudgetMap,
    held: HeldMap,
    /// Programs that are loaded later name the rings by these descriptors.
    _rings: [MapData; 2],
    reader: Option<Reader>,
    undecoded: Arc<AtomicU64>,
    generation: u8,
    /// What stands in each generation of the maps.
    written: [Option<Tables>; 2],
    wanted: Vec<EventClass>,
    forms: Forms,
    missing_offsets: Vec<String>,
    sees_itself: Option<String>,
    blind_at_start: Option<String>,
}

impl Probes {
    /// Loads the object, writes the plan and attaches what it needs. Mounts bpffs where it is not: whoever takes the pins away calls
    /// [`Bpffs::leave`] then.
    ///
    /// # Errors
    /// [`ProbeError`] where nothing can be seen at all; a single hook that fails is reported by [`Probes::hooks`].
    pub fn load(config: &ProbeConfig, plan: &FilterPlan) -> Result<Self, ProbeError> {
        config.halt.check()?;
        let Offsets { words: offsets, missing: missing_offsets, cast } = offsets()?;
        let bpffs = Bpffs::default();
        bpffs.ensure().map_err(|source| pin_error("mount bpffs", bpffs.at().into(), source))?;
        std::fs::create_dir_all(&config.pins)
            .map_err(|source| pin_error("create", config.pins.clone(), source))?;
        let held_pin = config.pins.join("held");
        let mut ebpf = {
            let btf = Btf::from_sys_fs()
                .map_err(|err| ProbeError::NoBtf { path: VMLINUX, source: io::Error::other(err) })?;
            EbpfLoader::new()
                .btf(Some(&btf))
                .override_global("OFFSETS", offsets.as_slice(), true)
                .map_max_entries("CRITICAL", config.critical_ring)
                .map_max_entries("BULK", config.bulk_ring)
                .map_pin_path("HELD", held_pin)
                .load(Object::new(OBJECT, cast).bytes())
                .map_err(|err| {
                    // Nothing may stay behind; a folder that another agent uses is not empty.
                    let _ = std::fs::remove_dir(&config.pins);
                    object_error(err)
                })?
        };
        let undecoded = Arc::new(AtomicU64::new(0));
        let (critical, critical_map) = take_ring(&mut ebpf, "CRITICAL", config.critical_ring)?;
        let (bulk, bulk_map) = take_ring(&mut ebpf, "BULK", config.bulk_ring)?;
        let reader = Reader { critical, bulk, undecoded: Arc::clone(&undecoded) };
        let mut probes = Self {
            control: take(&mut ebpf, "CONTROL")?,
            switches: take(&mut ebpf, "SWITCHES")?,
            quick: take(&mut ebpf, "QUICK")?,
            paths: take(&mut ebpf, "PATHS")?,
            tests: take(&mut ebpf, "TESTS")?,
            nets: take(&mut ebpf, "NETS")?,
            counts: take(&mut ebpf, "COUNTS")?,
            budgets: take(&mut ebpf, "BUDGETS")?,
            held: take(&mut ebpf, "HELD")?,
            ebpf,
            live: BTreeMap::new(),
            halt: config.halt.clone(),
            _rings: [critical_map, bulk_map],
            reader: Some(reader),
            undecoded,
            generation: 0,
            written: [None, None],
            wanted: Vec::new(),
            forms: config.forms,
            missing_offsets,
            sees_itself: None,
            blind_at_start: None,
        };
        probes.set_budgets(config.budgets)?;
        // Before anything is told: what follows loads programs.
        if config.own_events == OwnEvents::LeftOut {
            probes.leave_out_own();
        }
        probes.apply_plan(plan)?;
        // After fork and exec are attached: who comes in between is remembered by them.
        if let Err(because) = snapshot::read(&mut probes.ebpf, "remember_all") {
            tracing::warn!(
                because,
                "the first change of credentials of a process that runs already may not be seen"
            );
            probes.blind_at_start = Some(because);
        }
        // the kernel's types take tens of megabytes while programs are loaded
        allocator::give_back_now();
        Ok(probes)
    }

    /// Swaps to another plan without a gap: its entries are written beside those in force, missing hooks are attached,
    /// then one word switches all classes and tests, and only then go the hooks that nobody needs any more.
    ///
    /// # Errors
    /// [`ProbeError::Map`] if a map takes no entry; the plan before stays in force.
    pub fn apply_plan(&mut self, plan: &FilterPlan) -> Result<(), ProbeError> {
        let next = self.generation ^ 1;
        self.clear(next)?;
        self.write(next, plan::tables(plan, next))?;
        let wanted: Vec<EventClass> =
            EventClass::ALL.into_iter().filter(|class| plan::wants(plan, *class)).collect();
        self.attach(&wanted)?;
        self.control
            .set(CONTROL_GENERATION, u64::from(next), 0)
            .map_err(ProbeError::map("CONTROL", "switch generations"))?;
        self.generation = next;
        // Programs that began before the switch still use the generation before it; the next swap must not meet them.
        sys::wait_for_programs();
        self.live.retain(|name, _| {
            *name == hooks::HUB.name || hooks::all().any(|hook| hook.name == *name && needed(hook, &wanted))
        });
        if !self.hub_needed() {
            self.live.remove(hooks::HUB.name);
        }
        self.wanted = wanted;
        Ok(())
    }

    /// Every hook of the object as it really is: what has no live link is not called attached.
    #[must_use]
    pub fn hooks(&self) -> Vec<HookStatus> {
        let state = |hook: &Hook| match self.live.get(hook.name) {
            None => HookState::NotNeeded,
            Some(Err(because)) => match hooks::nothing_to_see(hook) {
                Some(because) => HookState::NothingToSee { because: because.into() },
                None => HookState::Failed { because: because.clone() },
            },
            Some(Ok(attached)) if attached.links() != hook.forms[attached.form].parts.len() => {
                HookState::Failed { because: "not all of its links are live".into() }
            }
            Some(Ok(attached))
                if hooks::uses_hub(&hook.forms[attached.form])
                    && !matches!(self.live.get(hooks::HUB.name), Some(Ok(_))) =>
            {
                HookState::Failed { because: "the hook at the end of system calls is not attached".into() }
            }
            Some(Ok(attached)) => {
                let to = hook.forms[attached.form].label.to_owned();
                if attached.form == 0 {
                    HookState::Attached { to }
                } else {
                    HookState::Fallback { to, because: attached.because.clone() }
                }
            }
        };
        hooks::all()
            .map(|hook| HookStatus {
                hook: hook.name.into(),
                classes: hook.classes.to_vec(),
                state: state(hook),
            })
            .collect()
    }

    /// Accounting since load, by class; classes of which nothing was ever seen are left out.
    ///
    /// # Errors
    /// [`ProbeError::Map`] if the counters cannot be read.
    pub fn counts(&self) -> Result<BTreeMap<EventClass, ClassCount>, ProbeError> {
        let mut all = BTreeMap::new();
        for (number, class) in EventClass::ALL.into_iter().enumerate() {
            let count = counts::of_class(&self.counts, number as u32)?;
            if count != ClassCount::default() {
                all.insert(class, count);
            }
        }
        Ok(all)
    }

    /// Records that user space did not understand: 0, or agent and object are of different builds.
    #[must_use]
    pub fn undecoded(&self) -> u64 {
        self.undecoded.load(Ordering::Relaxed)
    }

    /// What each cgroup has used of its budgets, of the cgroups that were lately active.
    #[must_use]
    pub fn budgets(&self) -> Vec<CgroupBudget> {
        counts::budgets(&self.budgets)
    }

    /// Sets the budgets of every cgroup.
    ///
    /// # Errors
    /// [`ProbeError::Map`] if the map takes no entry.
    pub fn set_budgets(&mut self, budgets: Budgets) -> Result<(), ProbeError> {
        let by_group: [u64; GROUPS] = [budgets.critical, budgets.life, budgets.file, budgets.net];
        for (group, budget) in by_group.into_iter().enumerate() {
            self.control
                .set(CONTROL_BUDGET + group as u32, budget, 0)
                .map_err(ProbeError::map("CONTROL", "set budgets"))?;
        }
        Ok(())
    }

    /// Processes that stand still and wait for a judgement; after a crash also those that an earlier agent left.
    #[must_use]
    pub fn held(&self) -> Vec<HeldProcess> {
        held::all(&self.held)
    }

    /// The process has been judged and dealt with (continued or frozen): it need not be remembered any more.
    ///
    /// # Errors
    /// [`ProbeError::Map`] if the map cannot be written.
    pub fn judged(&mut self, key: ProcessKey) -> Result<(), ProbeError> {
        held::forget(&mut self.held, key)
    }

    /// The reading end of the rings; there is one.
    ///
    /// # Errors
    /// [`ProbeError::ReaderTaken`] the second time.
    pub fn reader(&mut self) -> Result<Reader, ProbeError> {
        self.reader.take().ok_or(ProbeError::ReaderTaken)
    }

    /// What is degraded, in a person's words: tests that had to be widened, offsets that this kernel does not have.
    #[must_use]
    pub fn degraded(&self) -> Vec<String> {
        let mut all = self.written[usize::from(self.generation)]
            .as_ref()
            .map_or(vec![], |tables| tables.widened.clone());
        if !self.missing_offsets.is_empty() {
            all.push(format!("this kernel's types lack {}", self.missing_offsets.join(", ")));
        }
        if let Some(because) = &self.sees_itself {
            all.push(format!("the agent sees its own events: {because}"));
        }
        if let Some(because) = &self.blind_at_start {
            all.push(format!(
                "first changes of credentials of processes that ran before the agent may be missed: {because}"
            ));
        }
        all
    }

    /// Whether the plan in force switches a class on.
    pub(super) fn is_wanted(&self, class: EventClass) -> bool {
        self.wanted.contains(&class)
    }

    fn attach(&mut self, wanted: &[EventClass]) -> Result<(), ProbeError> {
        let missing: Vec<&'static Hook> = hooks::all()
            .filter(|hook| needed(hook, wanted) && !matches!(self.live.get(hook.name), Some(Ok(_))))
            .collect();
        if missing.is_empty() && (self.live.contains_key(hooks::HUB.name) || !self.hub_needed()) {
            return Ok(());
        }
        let attacher = Attacher::new(self.forms)
            .map_err(|err| ProbeError::NoBtf { path: VMLINUX, source: io::Error::other(err) })?;
        for hook in missing {
            self.attach_one(&attacher, hook)?;
        }
        if self.hub_needed() && !matches!(self.live.get(hooks::HUB.name), Some(Ok(_))) {
            self.attach_one(&attacher, &hooks::HUB)?;
        }
        drop(attacher);
        // the kernel's types take tens of megabytes while programs are loaded
        allocator::give_back_now();
        Ok(())
    }

    fn attach_one(&mut self, attacher: &Attacher, hook: &'static Hook) -> Result<(), ProbeError> {
        self.halt.check()?;
        let attached = attacher.attach(&mut self.ebpf, hook);
        if let Err(because) = &attached {
            match hooks::nothing_to_see(hook) {
                Some(so) => {
                    tracing::info!(hook = hook.name, "hook is not attached, and nothing is missed: {so}");
                }
                None => {
                    tracing::warn!(
                        hook = hook.name,
                        because,
                        "hook is not attached: its events are not seen"
                    );
                }
            }
            if hook.classes == [EventClass::Exec] {
                return Err(ProbeError::Essential { hook: hook.name, because: because.clone() });
            }
        }
        self.live.insert(hook.name, attached);
        Ok(())
    }

    /// Whether a live hook is called at the end of system calls.
    fn hub_needed(&self) -> bool {
        hooks::all().any(|hook| match self.live.get(hook.name) {
            Some(Ok(attached)) => hooks::uses_hub(&hook.forms[attached.form]),
            _ => false,
        })
    }

    fn write(&mut self, generation: u8, tables: Tables) -> Result<(), ProbeError> {
        // Noted first, so that a failure half-way is cleared by the next swap.
        let tables = self.written[usize::from(generation)].insert(tables);
        for (bits, key) in &tables.paths {
            self.paths.insert(&Key::new(*bits, *key), 1, 0).map_err(ProbeError::map("PATHS", "insert"))?;
        }
        for key in &tables.tests {
            self.tests.insert(key, 1, 0).map_err(ProbeError::map("TESTS", "insert"))?;
        }
        for (bits, key) in &tables.nets {
            self.nets.insert(&Key::new(*bits, *key), 1, 0).map_err(ProbeError::map("NETS", "insert"))?;
        }
        for (class, quick) in &tables.quick {
            let value: [u8; size_of::<Quick>()] = zerocopy::transmute!(**quick);
            self.quick
                .set(u32::from(generation) * CLASS_SLOTS + u32::from(*class), value, 0)
                .map_err(ProbeError::map("QUICK", "set"))?;
        }
        for (class, switch) in tables.switches.iter().enumerate() {
            let value: [u8; size_of::<ClassSwitch>()] = zerocopy::transmute!(*switch);
            self.switches
                .set(u32::from(generation) * CLASS_SLOTS + class as u32, value, 0)
                .map_err(ProbeError::map("SWITCHES", "set"))?;
        }
        Ok(())
    }

    fn clear(&mut self, generation: u8) -> Result<(), ProbeError> {
        let Some(tables) = self.written[usize::from(generation)].take() else { return Ok(()) };
        let gone = |result: Result<(), MapError>, map| match result {
            Err(MapError::SyscallError(err)) if err.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
            Ok(()) | Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(()),
            Err(err) => Err(ProbeError::map(map, "remove")(err)),
        };
        for (class, _) in &tables.quick {
            self.quick
                .set(u32::from(generation) * CLASS_SLOTS + u32::from(*class), [0; size_of::<Quick>()], 0)
                .map_err(ProbeError::map("QUICK", "clear"))?;
        }
        for (bits, key) in &tables.paths {
            gone(self.paths.remove(&Key::new(*bits, *key)), "PATHS")?;
        }
        for key in &tables.tests {
            gone(self.tests.remove(key), "TESTS")?;
        }
        for (bits, key) in &tables.nets {
            gone(self.nets.remove(&Key::new(*bits, *key)), "NETS")?;
        }
        Ok(())
    }

    /// Tells the kernel side who the agent is, in the kernel's own numbers, which a process in a pid namespace cannot
    /// know: a task iterator runs in the context of its reader and notes that.
    fn leave_out_own(&mut self) {
        if let Err(because) = snapshot::read(&mut self.ebpf, "whoami") {
            tracing::warn!(because, "the agent cannot leave its own events out");
            self.sees_itself = Some(because);
        }
    }

    /// Every process there is now, with the kernel's own start times: what /proc gives in clock ticks only. Kernel threads
    /// are among them.
    ///
    /// # Errors
    /// [`ProbeError::Essential`] where the kernel has no task iterator.
    pub fn processes(&mut self) -> Result<Vec<Task>, ProbeError> {
        let bytes = snapshot::read(&mut self.ebpf, "processes")
            .map_err(|because| ProbeError::Essential { hook: "processes", because })?;
        Ok(decode::tasks(&bytes))
    }
}

fn needed(hook: &Hook, wanted: &[EventClass]) -> bool {
    hook.classes.iter().any(|class| wanted.contains(class))
}

/// What the object needs to know of the running kernel.
struct Offsets {
    /// In the object's order.
    words: Vec<u32>,
    /// Names of those that this kernel does not have.
    missing: Vec<String>,
    /// Type id of the kernel function that casts addresses.
    cast: Option<u32>,
}

fn offsets() -> Result<Offsets, ProbeError> {
    let types = KernelTypes::of_running_kernel()?;
    for &(structure, first, second) in NEIGHBOURS {
        let (before, behind) = (types.offset(structure, first), types.offset(structure, second));
        if before.is_none() || behind != before.map(|at| at + 8) {
            return Err(ProbeError::Layout { structure, first, second });
        }
    }
    // Kernel functions can be called by compiled programs only (kernel/bpf/verifier.c, add_kfunc_call).
    let interpreted =
        std::fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").is_ok_and(|on| on.trim() == "0");
    let cast = if interpreted { None } else { types.function(CAST) };
    let mut missing = Vec::new();
    let words = FIELDS
        .iter()
        .map(|(structure, member)| {
            let found = match *structure {
                // Without it addresses are read by a helper: slower, and nothing is missed.
                "cast" => return cast.and_then(|_| types.words_structure(member)).unwrap_or(MISSING),
                "tracepoint" => types.tracepoint_arguments(member),
                // There is another way where a kernel does not have it.
                _ if member.starts_with('?') => {
                    return types.offset(structure, &member[1..]).unwrap_or(MISSING);
                }
                _ => types.offset(structure, member),
            };
            found.unwrap_or_else(|| {
                missing.push(format!("{structure}.{member}"));
                MISSING
            })
        })
        .collect();
    Ok(Offsets { words, missing, cast })
}

fn take<T: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, ProbeError> {
    let map = ebpf.take_map(name).ok_or_else(|| ProbeError::Missing(format!("map {name}")))?;
    T::try_from(map).map_err(ProbeError::map(name, "open"))
}

fn take_ring(ebpf: &mut Ebpf, name: &'static str, size: u32) -> Result<(Ring, MapData), ProbeError> {
    let Some(Map::RingBuf(data)) = ebpf.take_map(name) else {
        return Err(ProbeError::Missing(format!("ring {name}")));
    };
    let fd = data.fd().as_fd().try_clone_to_owned().map_err(ProbeError::system("dup of a ring"))?;
    let ring = Ring::map(fd, size).map_err(ProbeError::system("mmap of a ring"))?;
    Ok((ring, data))
}

fn object_error(err: EbpfError) -> ProbeError {
    if let EbpfError::MapError(MapError::CreateError { name, io_error }) = &err
        && io_error.kind() == io::ErrorKind::PermissionDenied
    {
        return ProbeError::NotPermitted {
            operation: format!("creating map {name}"),
            source: io::Error::from(io_error.kind()),
        };
    }
    ProbeError::Object(Box::new(err))
}

fn pin_error(operation: &'static str, path: PathBuf, source: io::Error) -> ProbeError {
    if source.kind() == io::ErrorKind::PermissionDenied {
        return ProbeError::NotPermitted { operation: format!("{operation} {}", path.display()), source };
    }
    ProbeError::Pin { operation, path, source }
}
