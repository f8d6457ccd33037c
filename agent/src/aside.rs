//! Reads that may never come back, done aside by a process that can be given up.
//!
//! A program's file may lie on a filesystem whose server stands still: a FUSE server of its own, even one that we have just frozen
//! with it. And `/proc/PID/{cmdline,environ,mem}` read that program's memory, which may be such a file, too. Whoever reads them then
//! waits for ever, on some paths in a sleep that no signal ends: a thread of ours in it would keep the agent from ending, and its
//! journal locked. So a forked child does it, which has nothing open but its socket; one that does not answer in time is given up,
//! and what was asked of it is said to be missing.

mod child;

use std::{
    collections::VecDeque,
    io::{self, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use model::{Pid, ProcessKey};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair},
};

use self::child::{CHUNK, Reply, Request};

/// Children for each purpose that were given up and have not ended (I11). At the limit nothing more is tried for it until one of them
/// has.
const MAX_GIVEN_UP: usize = 8;
/// Children whose records may still be on their way.
const REMEMBERED: usize = 64;

static CHILDREN: Mutex<Children> =
    Mutex::new(Children { given_up: [const { Vec::new() }; Purpose::ALL.len()], recent: VecDeque::new() });

struct Children {
    given_up: [Vec<u32>; Purpose::ALL.len()],
    recent: VecDeque<u32>,
}

/// What is read aside. Each has readers of its own, so that whoever silences those of the one does not blind the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The process tree, which reads what records did not say.
    Tree,
    /// Evidence for a person.
    Evidence,
}

impl Purpose {
    const ALL: [Self; 2] = [Self::Tree, Self::Evidence];
}

/// What readers that do not come back mean for the node, in a person's words; empty when there is none.
pub(crate) fn degraded() -> Vec<String> {
    let mut children = CHILDREN.lock().unwrap_or_else(PoisonError::into_inner);
    Purpose::ALL
        .into_iter()
        .filter_map(|purpose| {
            let waiting = children.given_up(purpose).len();
            let (what, none) = match purpose {
                Purpose::Tree => ("command lines of processes", "none is read from /proc"),
                Purpose::Evidence => ("evidence", "memory and program files are not captured"),
            };
            match waiting {
                0 => None,
                MAX_GIVEN_UP.. => Some(format!(
                    "{waiting} readers of {what} get no answer from a file system or a program: until one does, {none}"
                )),
                _ => Some(format!("{waiting} readers of {what} get no answer from a file system or a program")),
            }
        })
        .collect()
}

impl Children {
    /// Those that still wait.
    fn given_up(&mut self, purpose: Purpose) -> &mut Vec<u32> {
        let given_up = &mut self.given_up[purpose as usize];
        given_up.retain(|pid| !child::reap(*pid));
        given_up
    }
}

/// How long is waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For the next bytes of one file.
    pub silence: Duration,
    /// For everything together that is read with one [`Aside`].
    pub all: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { silence: Duration::from_secs(3), all: Duration::from_secs(30) }
    }
}

/// A reader aside. Its child is made with the first read, and ends with it.
pub struct Aside {
    purpose: Purpose,
    patience: Patience,
    left: Duration,
    child: Option<(u32, OwnedFd)>,
    /// Whether it owes us nothing: closing its socket ends it then.
    idle: Idle,
}

impl Aside {
    /// Without a child as yet.
    #[must_use]
    pub fn new(purpose: Purpose, patience: Patience) -> Self {
        Self { purpose, patience, left: patience.all, child: None, idle: Idle::Yes }
    }

    /// All of its patience is there again.
    pub fn rest(&mut self) {
        self.left = self.patience.all;
    }

    /// Reads a file from its beginning, at most `limit` bytes.
    pub fn read<'a>(&'a mut self, path: &Path, limit: u64) -> Answer<'a> {
        self.ask(path, 0, limit, child::OPEN_ANEW)
    }

    /// Reads a part of a file that is kept open between such reads.
    pub fn read_part<'a>(&'a mut self, path: &Path, offset: u64, length: u64) -> Answer<'a> {
        self.ask(path, offset, length, child::KEEP_OPEN)
    }

    /// Reads a small file whole, at most `limit` bytes.
    ///
    /// # Errors
    /// Those of the file; `TimedOut` when no answer came in time.
    pub fn read_some(&mut self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.read(path, limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn ask<'a>(&'a mut self, path: &Path, offset: u64, length: u64, open: u64) -> Answer<'a> {
        let failure = self.send(path, offset, length, open).err();
        Answer { aside: self, failure, chunk: Vec::new(), at: 0, state: State::Open }
    }

    fn send(&mut self, path: &Path, offset: u64, length: u64, open: u64) -> io::Result<()> {
        if self.left.is_zero() {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("not tried: {} s went by in waiting for others", self.patience.all.as_secs()),
            ));
        }
        let request = Request::encode(path.as_os_str().as_bytes(), offset, length, open)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path is too long"))?;
        let (_, socket) = match &mut self.child {
            Some(child) => child,
            none => none.insert(start(self.purpose)?),
        };
        let sent = send(&*socket, &request, SendFlags::NOSIGNAL);
        self.idle = Idle::No;
        if let Err(error) = sent {
            self.give_up();
            return Err(error.into());
        }
        Ok(())
    }

    fn receive(&mut self, chunk: &mut Vec<u8>) -> io::Result<Reply> {
        let Some((_, socket)) = &self.child else {
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, "there is no reader any more"));
        };
        let limit = self.patience.silence.min(self.left);
        let began = Instant::now();
        let ready = wait_readable(socket, limit)?;
        self.left = self.left.saturating_sub(began.elapsed());
        if !ready {
            self.give_up();
            let said = format!("not taken: it did not answer in {:.1} s", limit.as_secs_f64());
            return Err(io::Error::new(io::ErrorKind::TimedOut, said));
        }
        chunk.resize(CHUNK + child::HEADER, 0);
        let (length, _) = recv(socket, &mut chunk[..], RecvFlags::empty())?;
        chunk.truncate(length);
        match Reply::decode(chunk) {
            Some(reply) => Ok(reply),
            None => {
                self.give_up();
                Err(io::Error::new(io::ErrorKind::BrokenPipe, "the reader has ended"))
            }
        }
    }

    /// Lets the child go, whatever it does. One that stands in a sleep which no signal ends goes when its file answers.
    fn give_up(&mut self) {
        if let Some((pid, socket)) = self.child.take() {
            drop(socket);
            let mut children = CHILDREN.lock().unwrap_or_else(PoisonError::into_inner);
            child::kill(pid);
            children.given_up[self.purpose as usize].push(pid);
            children.given_up(self.purpose);
        }
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        match self.child.take_if(|_| self.idle == Idle::Yes) {
            Some((pid, socket)) => {
                drop(socket);
                child::wait(pid);
            }
            None => self.give_up(),
        }
    }
}

/// What a read gives, as it comes.
pub struct Answer<'a> {
    aside: &'a mut Aside,
    failure: Option<io::Error>,
    chunk: Vec<u8>,
    at: usize,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Ended,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Idle {
    Yes,
    No,
}

impl Read for Answer<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(error) = self.failure.take() {
            self.state = State::Ended;
            return Err(error);
        }
        loop {
            if self.at < self.chunk.len() {
                let length = buffer.len().min(self.chunk.len() - self.at);
                buffer[..length].copy_from_slice(&self.chunk[self.at..self.at + length]);
                self.at += length;
                return Ok(length);
            }
            if self.state == State::Ended {
                return Ok(0);
            }
            match self.aside.receive(&mut self.chunk) {
                Ok(Reply::Data) => self.at = child::HEADER,
                Ok(Reply::End) => self.end(Idle::Yes),
                Ok(Reply::Failed(error)) => {
                    self.end(Idle::Yes);
                    return Err(error);
                }
                Err(error) => {
                    self.end(Idle::No);
                    return Err(error);
                }
            }
        }
    }
}

impl Answer<'_> {
    fn end(&mut self, idle: Idle) {
        self.state = State::Ended;
        self.chunk.clear();
        self.aside.idle = idle;
    }
}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        // What was not read to its end would be taken for the answer to the next question.
        if self.state == State::Open {
            self.aside.give_up();
        }
    }
}

/// Whether a process is a reader of ours, by its pid and its parent. Nobody else's process can have us for its parent and such a pid.
pub(crate) fn is_reader(pid: Pid, parent: ProcessKey) -> bool {
    parent.pid.0 == std::process::id()
        && CHILDREN.lock().unwrap_or_else(PoisonError::into_inner).recent.contains(&pid.0)
}

fn start(purpose: Purpose) -> io::Result<(u32, OwnedFd)> {
    let mut children = CHILDREN.lock().unwrap_or_else(PoisonError::into_inner);
    if children.given_up(purpose).len() >= MAX_GIVEN_UP {
        return Err(io::Error::other(format!("not tried: {MAX_GIVEN_UP} readers before it still wait")));
    }
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let pid = child::fork(theirs.as_fd())?;
    if children.recent.len() == REMEMBERED {
        children.recent.pop_front();
    }
    children.recent.push_back(pid);
    Ok((pid, ours))
}

fn wait_readable(socket: &OwnedFd, limit: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut fds = [PollFd::new(socket, PollFlags::IN)];
        match poll(&mut fds, Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_comes_whole_and_cut_and_its_absence_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let content: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        std::fs::write(&path, &content).unwrap();
        let mut aside = Aside::new(Purpose::Evidence, Patience::default());
        assert_eq!(aside.read_some(&path, u64::MAX).unwrap(), content);
        assert_eq!(aside.read_some(&path, 100_000).unwrap(), content[..100_000]);
        let mut part = Vec::new();
        aside.read_part(&path, 70_000, 5).read_to_end(&mut part).unwrap();
        assert_eq!(part, content[70_000..70_005]);
        let missing = aside.read_some(&folder.path().join("nothing"), 1).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        // one that is not read to its end does not mix with the next
        let mut two = [0; 2];
        aside.read(&path, u64::MAX).read_exact(&mut two).unwrap();
        assert_eq!(aside.read_some(&path, 8).unwrap(), content[..8]);
        let own = aside.read_some(Path::new("/proc/self/cmdline"), 4096).unwrap();
        assert_eq!(own, std::fs::read("/proc/self/cmdline").unwrap(), "a child of our own image");
    }

    #[test]
    fn i11_who_does_not_answer_is_given_up_and_patience_has_an_end() {
        let folder = tempfile::tempdir().unwrap();
        // opening a pipe that nobody writes to waits for ever
        let path = folder.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR).unwrap();
        let patience = Patience { silence: Duration::from_millis(50), all: Duration::from_millis(120) };
        let mut aside = Aside::new(Purpose::Evidence, patience);
        // on a busy machine each wait takes longer than it may, so fewer of them use the patience up
        let mut given_up = 0;
        loop {
            let error = aside.read_some(&path, 1).unwrap_err();
            if error.to_string().contains("not tried") {
                break;
            }
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert!(error.to_string().contains("did not answer"), "{error}");
            given_up += 1;
        }
        assert!((1..=3).contains(&given_up), "{given_up} times");
        let error = aside.read_some(Path::new("/proc/self/stat"), 1).unwrap_err();
        assert!(error.to_string().contains("not tried"), "{error}");
        // another one has patience of its own
        let mut aside = Aside::new(Purpose::Evidence, Patience::default());
        assert_eq!(aside.read_some(Path::new("/proc/self/stat"), 1).unwrap().len(), 1);
    }

    #[test]
    fn i11_silent_readers_of_one_purpose_do_not_silence_the_other_and_are_said() {
        // a reader in a sleep that no signal ends cannot be made here: children that live on stand in for them
        let mut silent: Vec<std::process::Child> = (0..MAX_GIVEN_UP)
            .map(|_| std::process::Command::new("sleep").arg("1000").spawn().unwrap())
            .collect();
        let pids: Vec<u32> = silent.iter().map(std::process::Child::id).collect();
        CHILDREN.lock().unwrap().given_up[Purpose::Tree as usize].extend(&pids);
        let mut tree = Aside::new(Purpose::Tree, Patience::default());
        let refused = tree.read_some(Path::new("/proc/self/stat"), 1).map_err(|error| error.to_string());
        let mut evidence = Aside::new(Purpose::Evidence, Patience::default());
        let read = evidence.read_some(Path::new("/proc/self/stat"), 1).map_err(|error| error.to_string());
        let said = degraded();
        silent.iter_mut().for_each(|child| child.kill().unwrap());
        while !CHILDREN.lock().unwrap().given_up(Purpose::Tree).is_empty() {
            std::thread::yield_now();
        }
        assert!(refused.unwrap_err().contains("not tried"));
        assert_eq!(read.unwrap().len(), 1);
        assert!(
            said.iter().any(|text| text.contains("command lines") && text.contains("none is read")),
            "{said:?}"
        );
        assert!(!degraded().iter().any(|text| text.contains("command lines")), "they have ended");
        assert!(tree.read_some(Path::new("/proc/self/stat"), 1).is_ok());
    }
}
