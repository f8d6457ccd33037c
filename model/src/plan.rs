//! What the kernel may drop, as data: compiled by `detect` from the loaded rules, written into maps by the agent.
//!
//! The promise is one-sided (I1): a record may pass that no rule matches, but none may be dropped that a rule matches.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::EventClass;

/// What every class needs, and which execs are held until user space has judged them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FilterPlan {
    /// A class that is absent is needed by no rule: its hooks need not be attached. The agent adds what its own process
    /// tree needs (exec, fork, exit).
    pub classes: BTreeMap<EventClass, ClassPlan>,
    /// An exec for which one of these holds is stopped in the kernel before its first instruction until user space has
    /// evaluated the rules; it goes on if no rule with [`crate::Reaction::Stop`] matches.
    pub hold: Vec<ExecTest>,
}

/// What passes of one class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClassPlan {
    /// Everything: some rule has no test that the kernel can make.
    All,
    /// A record passes if one of the tests holds.
    AnyOf(Vec<KernelTest>),
}

/// A test that the kernel can make. Paths are compared ASCII-case-insensitively where Sigma does, which is the default.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KernelTest {
    /// The path begins with this text.
    PathPrefix(String),
    /// The path ends with this text.
    PathSuffix(String),
    /// The path is this text.
    PathIs(String),
    /// The path contains this text, of four bytes or more.
    PathContains(String),
    /// The file was opened for writing or created.
    Write,
    /// The remote (connect, accept, close) or local (bind, listen) port.
    Port(u16),
    /// The remote address lies in this network.
    Net(IpNet),
    /// The bpf(2) command, by its number.
    BpfCommand(u32),
    /// Each of these holds.
    AllOf(Vec<KernelTest>),
}

/// A test on an exec, made in the kernel. All tests are supersets of a rule: user space decides.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecTest {
    /// The executable's path ends with this text (lower case; compared ASCII-case-insensitively).
    ExeSuffix(String),
    /// The executable's path begins with this text (same).
    ExePrefix(String),
    /// The executable lives in a memfd or another unlinked file.
    Unlinked,
}
