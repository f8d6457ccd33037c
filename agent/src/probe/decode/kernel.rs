//! Credentials, namespaces and the kernel's own surface.

use agent_abi::{CALL_UNSHARE, Class, CredentialsBody, KernelBody, NamespacesBody};
use model::{Activity, FilePath, NamespaceCall, ProcessKey};

use super::{Cursor, DecodeError, credentials, namespaces, target};

pub(super) fn credential_change(cursor: &mut Cursor<'_>) -> Result<Activity, DecodeError> {
    let body: CredentialsBody = cursor.take("the credentials body")?;
    Ok(Activity::CredentialChange { before: credentials(&body.before), after: credentials(&body.after) })
}

pub(super) fn namespace_change(cursor: &mut Cursor<'_>) -> Result<Activity, DecodeError> {
    let body: NamespacesBody = cursor.take("the namespaces body")?;
    let call = if body.call == CALL_UNSHARE { NamespaceCall::Unshare } else { NamespaceCall::Setns };
    Ok(Activity::NamespaceChange { before: namespaces(&body.before), after: namespaces(&body.after), call })
}

pub(super) fn surface(cursor: &mut Cursor<'_>, class: Class) -> Result<Activity, DecodeError> {
    let body: KernelBody = cursor.take("the kernel body")?;
    let mut text = |n: usize| cursor.text(body.text[n], "a text");
    Ok(match class {
        Class::Module => Activity::ModuleLoad { name: text(0)? },
        Class::Bpf => Activity::Bpf { command: body.a as u32, program_type: body.b as u32, name: text(0)? },
        Class::Ptrace => Activity::Ptrace { request: body.a, target: key(&body) },
        Class::Memfd => Activity::MemfdCreate { name: text(0)?, flags: body.a as u32 },
        Class::Mount => {
            let source = text(0)?;
            // The caller's text behind the directory that the kernel followed it from.
            let mut target = FilePath { path: text(1)?, truncated: super::truncated(body.text[1]) };
            super::file::normalise(&mut target);
            Activity::Mount { source, target, fs_type: text(2)?, flags: body.a }
        }
        Class::ProcessVmWrite => Activity::ProcessVmWrite { target: key(&body) },
        Class::IoUring => Activity::IoUringSetup { entries: body.a as u32 },
        other => return Err(DecodeError::Class(other as u8)),
    })
}

fn key(body: &KernelBody) -> ProcessKey {
    target(body.target_pid, body.target_start)
}
