//! The child: system calls only, on memory that was there before the fork, since a fork of a program with threads may do no more.
#![expect(unsafe_code, reason = "fork, and system calls in its child")]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

/// Bytes of one message.
pub(super) const CHUNK: usize = 32 << 10;
/// Before the bytes of a reply: what it is, as an errno; 0 is data, and data of no length the end.
pub(super) const HEADER: usize = 4;
const MAX_PATH: usize = 4096;

pub(super) const OPEN_ANEW: u64 = 0;
pub(super) const KEEP_OPEN: u64 = 1;

/// A question: offset, length, how to open, then the path with its NUL.
pub(super) struct Request;

const NUMBERS: usize = 3 * size_of::<u64>();

impl Request {
    pub(super) fn encode(path: &[u8], offset: u64, length: u64, open: u64) -> Option<Vec<u8>> {
        if path.len() >= MAX_PATH || path.contains(&0) {
            return None;
        }
        let numbers = [offset, length, open].into_iter().flat_map(u64::to_ne_bytes);
        Some(numbers.chain(path.iter().copied()).chain([0]).collect())
    }
}

/// What a message of the child's is.
pub(super) enum Reply {
    Data,
    End,
    Failed(io::Error),
}

impl Reply {
    /// `None` when the child has closed its end.
    pub(super) fn decode(message: &[u8]) -> Option<Self> {
        let code = i32::from_ne_bytes(*message.first_chunk()?);
        Some(match code {
            0 if message.len() > HEADER => Self::Data,
            0 => Self::End,
            errno => Self::Failed(io::Error::from_raw_os_error(errno)),
        })
    }
}

/// Starts a child that answers on `socket` until the other end is closed.
pub(super) fn fork(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let socket = socket.as_raw_fd();
    // SAFETY: the child makes system calls only, on memory that was there before, and ends without returning.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: we are the child.
        0 => unsafe { serve(socket) },
        pid => u32::try_from(pid).map_err(io::Error::other),
    }
}

/// SIGKILL to a child that has not been waited for, so that its pid is still its own.
pub(super) fn kill(pid: u32) {
    // SAFETY: no memory is passed.
    let _ended = unsafe { libc::kill(pid.cast_signed(), libc::SIGKILL) };
}

/// Whether the child has ended; it is waited for then.
pub(super) fn reap(pid: u32) -> bool {
    // SAFETY: no status is asked for; the pid is a child's of ours that was not waited for, else the call fails.
    unsafe { libc::waitpid(pid.cast_signed(), std::ptr::null_mut(), libc::WNOHANG) != 0 }
}

/// Waits for a child that has nothing to do any more.
pub(super) fn wait(pid: u32) {
    // SAFETY: as in [`reap`].
    while unsafe { libc::waitpid(pid.cast_signed(), std::ptr::null_mut(), 0) } == -1
        && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
    {}
}

/// # Safety
/// Only in a child that was forked for it.
unsafe fn serve(socket: i32) -> ! {
    let mut request = [0_u8; NUMBERS + MAX_PATH];
    let mut reply = [0_u8; HEADER + CHUNK];
    let mut kept_path = [0_u8; MAX_PATH];
    let mut kept = -1;
    // SAFETY: every call gets memory of this frame with its length. Nothing is kept open beside the socket: a lock of the agent's
    // would outlive it.
    unsafe {
        // Our own copies of the agent's descriptors; of those below the socket, too.
        libc::syscall(libc::SYS_close_range, 0, socket - 1, 0);
        libc::syscall(libc::SYS_close_range, socket + 1, u32::MAX, 0);
        loop {
            let length = libc::recv(socket, request.as_mut_ptr().cast(), request.len(), 0);
            if length == -1 && *libc::__errno_location() == libc::EINTR {
                continue;
            }
            let Ok(length) = usize::try_from(length) else { libc::_exit(1) };
            if length <= NUMBERS {
                libc::_exit(0);
            }
            let number = |at: usize| {
                let mut bytes = [0; size_of::<u64>()];
                bytes.copy_from_slice(&request[at * size_of::<u64>()..(at + 1) * size_of::<u64>()]);
                u64::from_ne_bytes(bytes)
            };
            let (mut offset, mut left, open) = (number(0), number(1), number(2));
            let path = &request[NUMBERS..];
            let mut file = kept;
            if open == OPEN_ANEW || kept < 0 || path != kept_path.as_slice() {
                file = libc::open(path.as_ptr().cast(), libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NOCTTY);
            }
            let mut error = if file < 0 { *libc::__errno_location() } else { 0 };
            while error == 0 && left > 0 {
                let room = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
                let into = reply.as_mut_ptr().add(HEADER).cast();
                let length = if open == KEEP_OPEN {
                    libc::pread(file, into, room, offset.cast_signed())
                } else {
                    libc::read(file, into, room)
                };
                match usize::try_from(length) {
                    Ok(0) => break,
                    Ok(length) => {
                        answer(socket, &mut reply, 0, length);
                        offset += length as u64;
                        left -= length as u64;
                    }
                    Err(_) => match *libc::__errno_location() {
                        libc::EINTR => {}
                        other => error = other,
                    },
                }
            }
            if file >= 0 && file != kept && open == OPEN_ANEW {
                libc::close(file);
            } else if file >= 0 && file != kept {
                if kept >= 0 {
                    libc::close(kept);
                }
                kept = file;
                kept_path.copy_from_slice(path);
            }
            answer(socket, &mut reply, error, 0);
            request.fill(0);
        }
    }
}

/// # Safety
/// As of [`serve`].
unsafe fn answer(socket: i32, reply: &mut [u8; HEADER + CHUNK], error: i32, length: usize) {
    reply[..HEADER].copy_from_slice(&error.to_ne_bytes());
    loop {
        // SAFETY: the message lies within `reply`.
        let sent = unsafe { libc::send(socket, reply.as_ptr().cast(), HEADER + length, libc::MSG_NOSIGNAL) };
        // SAFETY: errno is this thread's own.
        if sent >= 0 || unsafe { *libc::__errno_location() } != libc::EINTR {
            return;
        }
    }
}
