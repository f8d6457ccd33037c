//! exec, fork, exit.

use agent_abi::{EXEC_HELD, EXEC_HOLD_FAILED, ExecBody, ExitBody, ForkBody};
use model::{Backing, BootNs, CgroupId, ExeFile, Exit, FdKind, Pid, ProcessKey, Stdio};

use super::{Cursor, DecodeError, namespaces, truncated, until_nul};
use crate::record::{Body, ExecFacts, Held};

/// Magic numbers of file systems that live in memory (include/uapi/linux/magic.h): tmpfs, ramfs, hugetlbfs.
const IN_MEMORY: [u64; 3] = [0x0102_1994, 0x8584_58f6, 0x958_458f6];

pub(super) fn exec(cursor: &mut Cursor<'_>) -> Result<Body, DecodeError> {
    let body: ExecBody = cursor.take("the exec body")?;
    let exe = cursor.text(body.exe, "the executable")?;
    let requested = cursor.text(body.requested, "the requested name")?;
    let cwd = cursor.text(body.cwd, "the working directory")?;
    let args = cursor.bytes(body.args, "argv")?;
    if body.flags & EXEC_HOLD_FAILED != 0 {
        tracing::error!(exe, "the kernel could not stop a process that it should have held at exec");
    }
    let backing = match body.links {
        0 if IN_MEMORY.contains(&body.magic) => Backing::Memfd,
        0 => Backing::Deleted,
        _ => Backing::File,
    };
    let tty = until_nul(&body.tty);
    Ok(Body::Exec(Box::new(ExecFacts {
        requested,
        exe,
        exe_file: ExeFile { inode: body.inode, device: body.device, backing },
        args: words(args),
        args_truncated: truncated(body.args),
        cwd,
        namespaces: namespaces(&body.namespaces),
        tty: (!tty.is_empty()).then_some(tty),
        stdio: Stdio { stdin: kind(body.stdio[0]), stdout: kind(body.stdio[1]), stderr: kind(body.stdio[2]) },
        held: if body.flags & EXEC_HELD != 0 { Held::Yes } else { Held::No },
    })))
}

pub(super) fn fork(cursor: &mut Cursor<'_>) -> Result<Body, DecodeError> {
    let body: ForkBody = cursor.take("the fork body")?;
    Ok(Body::Fork {
        child: ProcessKey { pid: Pid(body.pid), start: BootNs(body.start) },
        child_cgroup: CgroupId(body.cgroup),
    })
}

pub(super) fn exit(cursor: &mut Cursor<'_>, at: u64) -> Result<Body, DecodeError> {
    let body: ExitBody = cursor.take("the exit body")?;
    // wait(2): status in the second byte, signal in the low seven bits, core dump in the eighth.
    Ok(Body::Exit(Exit { code: (body.code >> 8) as u8, signal: (body.code & 0x7f) as u8, at: BootNs(at) }))
}

/// The words of argv: each ends in NUL, but for one that was cut.
fn words(bytes: &[u8]) -> Vec<String> {
    let Some((last, _)) = bytes.split_last() else { return vec![] };
    let whole = if *last == 0 { &bytes[..bytes.len() - 1] } else { bytes };
    whole.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// What a descriptor is, by its inode's mode (inode(7)).
fn kind(mode: u16) -> FdKind {
    match u32::from(mode) & 0o170_000 {
        _ if mode == u16::MAX => FdKind::Unknown,
        _ if mode == 0 => FdKind::Closed,
        0o140_000 => FdKind::Socket,
        0o010_000 => FdKind::Pipe,
        0o020_000 => FdKind::Device,
        // eventfd and the like have no type at all.
        _ => FdKind::File,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn argv_is_split_at_its_nuls() {
        assert_eq!(words(b"sh\0-c\0echo a  b\0"), ["sh", "-c", "echo a  b"]);
        assert_eq!(words(b"sh\0\0x\0"), ["sh", "", "x"]);
        assert_eq!(words(b"sh\0cu"), ["sh", "cu"]);
        assert_eq!(words(b""), Vec::<String>::new());
        assert_eq!(words(b"\0"), [""]);
    }

    #[test]
    fn hostile_records_are_errors_not_panics() {
        let mut bytes = vec![0_u8; size_of::<agent_abi::RecordHeader>() + size_of::<ExecBody>()];
        assert!(super::super::decode(&bytes).is_ok());
        // Texts longer than the record.
        let len = bytes.len();
        bytes[size_of::<agent_abi::RecordHeader>()..len].fill(0xff);
        assert!(super::super::decode(&bytes).is_err());
        for len in 0..bytes.len() {
            let _ = super::super::decode(&bytes[..len]);
        }
        assert!(super::super::decode(&[200; 300]).is_err());
    }
}
