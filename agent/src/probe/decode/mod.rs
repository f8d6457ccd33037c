//! Bytes of a ring record → [`Record`]. What stands in a record is hostile as far as programs chose it (names, paths,
//! arguments): every length is checked against the record.

mod file;
mod kernel;
mod net;
mod process;

use agent_abi::{Class, Creds, NsIds, RecordHeader, TEXT_TRUNCATED, TEXT_UNREAD, Text};
use model::{Activity, BootNs, CgroupId, Credentials, FilePath, Namespaces, Pid, ProcessKey, Truncated};
use zerocopy::FromBytes;

use crate::record::{Body, Record, Task};

/// A record that is not understood: agent and object are of different builds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Too short for what it says it is.
    #[error("a record of class {class} ends at byte {len}, where {what} should stand")]
    Short {
        /// Its class.
        class: u8,
        /// Its length.
        len: usize,
        /// What is missing.
        what: &'static str,
    },
    /// No such class.
    #[error("a record of class {0}, which there is not")]
    Class(u8),
}

/// Decodes one record.
///
/// # Errors
/// [`DecodeError`] if it is not one of this build's object.
pub(super) fn decode(bytes: &[u8]) -> Result<Record, DecodeError> {
    let class = bytes.first().copied().unwrap_or(u8::MAX);
    let mut cursor = Cursor { rest: bytes, class, len: bytes.len() };
    let header: RecordHeader = cursor.take("the header")?;
    let class = class_of(class).ok_or(DecodeError::Class(class))?;
    let body = match class {
        Class::Exec => process::exec(&mut cursor)?,
        Class::Fork => process::fork(&mut cursor)?,
        Class::Exit => process::exit(&mut cursor, header.at)?,
        Class::FileOpen
        | Class::FileDelete
        | Class::FileRename
        | Class::FileLink
        | Class::FileMode
        | Class::FileOwner => act(file::file(&mut cursor, class)?),
        Class::Connect | Class::Accept | Class::Bind | Class::Listen | Class::SocketClose => {
            act(net::net(&mut cursor, class)?)
        }
        Class::Dns => act(net::dns(&mut cursor)?),
        Class::Credentials => act(kernel::credential_change(&mut cursor)?),
        Class::Namespaces => act(kernel::namespace_change(&mut cursor)?),
        Class::Module
        | Class::Bpf
        | Class::Ptrace
        | Class::Memfd
        | Class::Mount
        | Class::ProcessVmWrite
        | Class::IoUring => act(kernel::surface(&mut cursor, class)?),
    };
    Ok(Record { at: BootNs(header.at), task: task(&header), body })
}

/// Decodes what the task iterator wrote: headers, one after the other.
pub(super) fn tasks(bytes: &[u8]) -> Vec<Task> {
    let headers = bytes.chunks_exact(size_of::<RecordHeader>());
    headers
        .filter_map(|chunk| RecordHeader::read_from_bytes(chunk).ok())
        .map(|header| task(&header))
        .collect()
}

/// The class of a number.
pub(super) fn class_of(number: u8) -> Option<Class> {
    use Class as C;
    const ALL: [Class; agent_abi::CLASSES as usize] = [
        C::Exec,
        C::Fork,
        C::Exit,
        C::Credentials,
        C::Namespaces,
        C::FileOpen,
        C::FileDelete,
        C::FileRename,
        C::FileLink,
        C::FileMode,
        C::FileOwner,
        C::Connect,
        C::Accept,
        C::Bind,
        C::Listen,
        C::SocketClose,
        C::Dns,
        C::Module,
        C::Bpf,
        C::Ptrace,
        C::Memfd,
        C::Mount,
        C::ProcessVmWrite,
        C::IoUring,
    ];
    ALL.get(usize::from(number)).copied()
}

/// Reads a record from its front.
struct Cursor<'a> {
    rest: &'a [u8],
    class: u8,
    len: usize,
}

impl<'a> Cursor<'a> {
    /// The next structure.
    fn take<T: FromBytes>(&mut self, what: &'static str) -> Result<T, DecodeError> {
        let short = DecodeError::Short { class: self.class, len: self.len, what };
        let (value, rest) = T::read_from_prefix(self.rest).map_err(|_| short)?;
        self.rest = rest;
        Ok(value)
    }

    /// The next text's bytes.
    fn bytes(&mut self, text: Text, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let short = DecodeError::Short { class: self.class, len: self.len, what };
        let (bytes, rest) = self.rest.split_at_checked(usize::from(text.len)).ok_or(short)?;
        self.rest = rest;
        Ok(bytes)
    }

    /// The next text, lossily UTF-8.
    fn text(&mut self, text: Text, what: &'static str) -> Result<String, DecodeError> {
        Ok(String::from_utf8_lossy(self.bytes(text, what)?).into_owned())
    }

    /// The next text as a path.
    fn path(&mut self, text: Text, what: &'static str) -> Result<FilePath, DecodeError> {
        Ok(FilePath { path: self.text(text, what)?, truncated: truncated(text) })
    }
}

fn truncated(text: Text) -> Truncated {
    if text.flags & (TEXT_TRUNCATED | TEXT_UNREAD) != 0 { Truncated::Yes } else { Truncated::No }
}

fn task(header: &RecordHeader) -> Task {
    Task {
        key: ProcessKey { pid: Pid(header.pid), start: BootNs(header.start) },
        tid: header.tid,
        parent: ProcessKey { pid: Pid(header.parent_pid), start: BootNs(header.parent_start) },
        cgroup: CgroupId(header.cgroup),
        credentials: credentials(&header.creds),
        comm: until_nul(&header.comm),
    }
}

fn credentials(creds: &Creds) -> Credentials {
    Credentials {
        uid: creds.uid,
        gid: creds.gid,
        euid: creds.euid,
        egid: creds.egid,
        auid: (creds.auid != u32::MAX).then_some(creds.auid),
        cap_effective: creds.cap_effective,
        cap_permitted: creds.cap_permitted,
    }
}

fn namespaces(ids: &NsIds) -> Namespaces {
    Namespaces {
        mount: ids.mount,
        pid: ids.pid,
        net: ids.net,
        user: ids.user,
        uts: ids.uts,
        ipc: ids.ipc,
        cgroup: ids.cgroup,
    }
}

/// A process, if the kernel could say which.
fn target(pid: u32, start: u64) -> ProcessKey {
    ProcessKey { pid: Pid(pid), start: BootNs(start) }
}

fn act(activity: Activity) -> Body {
    Body::Act(activity)
}

fn until_nul(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
