//! Accounting as the kernel side keeps it (I2).

use agent_abi::{Budget, BudgetKey, Fate};
use aya::maps::{HashMap, MapData, PerCpuArray};
use model::{CgroupId, ClassCount};

use super::error::ProbeError;

/// What one cgroup has used of one group's budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CgroupBudget {
    /// Which cgroup.
    pub cgroup: CgroupId,
    /// `agent_abi::Group` as a number: 0 critical, 1 fork and exit, 2 files, 3 network.
    pub group: u64,
    /// Events passed since it was first seen.
    pub passed: u64,
    /// Events cut since it was first seen.
    pub cut: u64,
}

pub(super) type CountMap = PerCpuArray<MapData, [u64; 8]>;
pub(super) type BudgetMap = HashMap<MapData, [u8; size_of::<BudgetKey>()], [u8; size_of::<Budget>()]>;

/// The counters of one class over all CPUs.
pub(super) fn of_class(map: &CountMap, class: u32) -> Result<ClassCount, ProbeError> {
    let cpus = map.get(&class, 0).map_err(ProbeError::map("COUNTS", "read"))?;
    let sum = |fate: Fate| cpus.iter().map(|cpu| cpu[fate as usize]).sum();
    Ok(ClassCount {
        seen: sum(Fate::Seen),
        submitted: sum(Fate::Submitted),
        filtered: sum(Fate::Filtered),
        lost_ring: sum(Fate::LostRing),
        lost_budget: sum(Fate::LostBudget),
        lost_read: sum(Fate::LostRead),
    })
}

/// All budgets that the kernel side remembers.
pub(super) fn budgets(map: &BudgetMap) -> Vec<CgroupBudget> {
    let mut all = Vec::new();
    for entry in map.iter() {
        // An entry may go while the map is read.
        let Ok((key, value)) = entry else { continue };
        let (key, value): (BudgetKey, Budget) = (zerocopy::transmute!(key), zerocopy::transmute!(value));
        all.push(CgroupBudget {
            cgroup: CgroupId(key.cgroup),
            group: key.group,
            passed: value.passed,
            cut: value.cut,
        });
    }
    all
}
