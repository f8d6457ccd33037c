//! Changes of credentials and of namespaces.

use agent_abi::{
    CALL_SETNS, CALL_UNSHARE, Class, CredentialsBody, Creds, Fate, NamespacesBody, RecordHeader,
};
use aya_ebpf::{
    macros::{btf_tracepoint, fentry},
    programs::{BtfTracePointContext, FEntryContext},
};

use crate::{
    at_return, event,
    scratch::{self, Claim},
    shadow,
    syscalls::{Call, SETNS, UNSHARE},
    task,
};

const HEADER: usize = size_of::<RecordHeader>();

/// fentry/commit_creds(struct cred *new): every change there is, at its moment.
#[fentry(function = "commit_creds")]
pub fn creds_commit(ctx: FEntryContext) -> u32 {
    let new: *const u8 = ctx.arg(0);
    let mut after = task::NO_CREDS;
    task::fill_creds(&raw mut after, new);
    after.auid = task::login_user(task::current());
    compare(&after);
    0
}

/// setuid and its kin, capset, setns, unshare; called from `sys_exit`.
#[btf_tracepoint(function = "sys_exit")]
pub fn creds_call(_ctx: BtfTracePointContext) -> u32 {
    at_exec();
    0
}

/// setns, unshare; called from `sys_exit`.
#[btf_tracepoint(function = "sys_exit")]
pub fn namespaces_call(ctx: BtfTracePointContext) -> u32 {
    moved(Call::new(&ctx));
    0
}

at_return!(setns_return, setns_return32, SETNS, moved);
at_return!(unshare_return, unshare_return32, UNSHARE, moved);

#[inline(always)]
fn moved(call: Call) {
    // A user namespace of its own gives a process all capabilities in it.
    at_exec();
    let call = if call.shape == UNSHARE { CALL_UNSHARE } else { CALL_SETNS };
    let current = task::current();
    let key = shadow::key(current);
    let Some(known) = shadow::known(&key) else {
        shadow::remember(current);
        return;
    };
    // SAFETY: plain numbers.
    let mut after: agent_abi::NsIds = unsafe { core::mem::zeroed() };
    task::fill_namespaces(&raw mut after, current);
    // SAFETY: a map value.
    let before = unsafe { &raw mut (*known).namespaces };
    if shadow::same_namespaces(before, &raw const after) {
        return;
    }
    if let Some(event) = event::begin(Class::Namespaces) {
        let Some(claim) = scratch::claim() else {
            event.lost(Fate::LostRead);
            return;
        };
        if event.within_budget() {
            task::fill_header(claim.at(0), Class::Namespaces);
            // SAFETY: within the record; a map value.
            unsafe {
                *claim.at::<NamespacesBody>(HEADER) = NamespacesBody { before: *before, after, call, pad: 0 };
            }
            event.submit(claim, (HEADER + size_of::<NamespacesBody>()) as u64);
        }
        claim.release();
    }
    // SAFETY: a map value.
    unsafe { *before = after };
}

/// Compares the current task's credentials with those that are known: after an exec (a setuid binary, file capabilities)
/// and at the end of a call.
#[inline(always)]
pub fn at_exec() {
    let mut after = task::NO_CREDS;
    task::fill_creds_of(&raw mut after, task::current());
    compare(&after);
}

#[inline(always)]
fn compare(after: &Creds) {
    let current = task::current();
    let key = shadow::key(current);
    let Some(known) = shadow::known(&key) else {
        shadow::remember(current);
        return;
    };
    // SAFETY: a map value.
    let before = unsafe { &raw mut (*known).creds };
    if shadow::same_rights(before, after) {
        return;
    }
    if let Some(event) = event::begin(Class::Credentials) {
        match scratch::claim() {
            None => event.lost(Fate::LostRead),
            Some(claim) => {
                if event.within_budget() {
                    write(claim, before, after);
                    event.submit(claim, (HEADER + size_of::<CredentialsBody>()) as u64);
                }
                claim.release();
            }
        }
    }
    // SAFETY: a map value.
    unsafe { *before = *after };
}

#[inline(always)]
fn write(claim: Claim, before: *const Creds, after: &Creds) {
    task::fill_header(claim.at(0), Class::Credentials);
    // SAFETY: within the record; a map value.
    unsafe {
        (*claim.at::<RecordHeader>(0)).creds = *after;
        *claim.at::<CredentialsBody>(HEADER) = CredentialsBody { before: *before, after: *after };
    }
}
