//! An io_uring by bare system calls (layout: include/uapi/linux/io_uring.h).
#![expect(unsafe_code, reason = "io_uring is shared memory")]

use std::{
    io,
    os::fd::RawFd,
    ptr,
    sync::atomic::{AtomicU32, Ordering},
};

pub(crate) const NOP: u8 = 0;
pub(crate) const ACCEPT: u8 = 13;
pub(crate) const CONNECT: u8 = 16;
pub(crate) const OPENAT: u8 = 18;
pub(crate) const OPENAT2: u8 = 28;
pub(crate) const RENAMEAT: u8 = 35;
pub(crate) const UNLINKAT: u8 = 36;
pub(crate) const MKDIRAT: u8 = 37;
pub(crate) const SYMLINKAT: u8 = 38;
pub(crate) const LINKAT: u8 = 39;

/// IORING_SETUP_SQPOLL: a thread of the kernel's takes the requests.
pub(crate) const SETUP_SQPOLL: u32 = 1 << 1;
/// IORING_SETUP_CQSIZE.
const SETUP_CQSIZE: u32 = 1 << 3;

/// IOSQE_IO_LINK: the next begins when this one has ended.
pub(crate) const LINK: u8 = 1 << 2;
/// IOSQE_ASYNC: by a worker.
pub(crate) const ASYNC: u8 = 1 << 4;
/// IOSQE_CQE_SKIP_SUCCESS: no completion if it succeeds.
pub(crate) const SKIP: u8 = 1 << 6;

const ENTRIES: u32 = 8;
const ENTRY: usize = 64;
const COMPLETION: usize = 16;

/// What a request asks for; the fields of struct io_uring_sqe that are used here.
#[derive(Clone, Copy, Default)]
pub(crate) struct Request {
    pub(crate) opcode: u8,
    pub(crate) flags: u8,
    pub(crate) priority: u16,
    pub(crate) fd: i32,
    /// `off` or `addr2`.
    pub(crate) second: u64,
    pub(crate) address: u64,
    pub(crate) len: u32,
    pub(crate) op_flags: u32,
    pub(crate) user_data: u64,
    pub(crate) file_index: u32,
}

/// A ring; it lives until the process ends.
pub(crate) struct Ring {
    fd: RawFd,
    setup: u32,
    rings: *mut u8,
    entries: *mut u8,
    /// Of struct io_uring_params from word 10 on: submission (head, tail, mask, entries, flags, dropped, array), from word 20 on:
    /// completion (head, tail, mask, entries, overflow, cqes).
    params: [u32; 30],
}

impl Ring {
    /// `None` where the kernel gives none.
    pub(crate) fn new(setup: u32, completions: Option<u32>) -> Option<Self> {
        let mut params = [0_u32; 30];
        params[2] = setup;
        let mut entries = ENTRIES;
        if let Some(completions) = completions {
            params[1] = completions;
            params[2] |= SETUP_CQSIZE;
            entries = completions;
        }
        // SAFETY: the structure has 120 bytes; mappings live until the process ends.
        unsafe {
            let fd = libc::syscall(libc::SYS_io_uring_setup, entries, params.as_mut_ptr()) as RawFd;
            if fd < 0 {
                return None;
            }
            let map = |len: usize, offset: i64| {
                let both = libc::PROT_READ | libc::PROT_WRITE;
                libc::mmap(ptr::null_mut(), len, both, libc::MAP_SHARED, fd, offset)
            };
            // Both rings are one mapping (IORING_FEAT_SINGLE_MMAP, since 5.4).
            let len = (params[25] as usize + params[1] as usize * COMPLETION)
                .max(params[16] as usize + params[0] as usize * 4);
            let rings = map(len, 0);
            let entries = map(params[0] as usize * ENTRY, 0x1000_0000);
            if rings == libc::MAP_FAILED || entries == libc::MAP_FAILED {
                return None;
            }
            Some(Self { fd, setup, rings: rings.cast(), entries: entries.cast(), params })
        }
    }

    /// A table of the ring's own with this many free places.
    pub(crate) fn register_files(&self, places: usize) -> io::Result<()> {
        const IORING_REGISTER_FILES: i32 = 2;
        let empty = vec![-1_i32; places];
        let (fd, number) = (self.fd, libc::SYS_io_uring_register);
        // SAFETY: the array lives during the call.
        match unsafe { libc::syscall(number, fd, IORING_REGISTER_FILES, empty.as_ptr(), places) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Hands requests over and waits for `wait` completions.
    pub(crate) fn submit(&self, requests: &[Request], wait: u32) -> io::Result<()> {
        const IORING_ENTER_GETEVENTS: u32 = 1;
        const IORING_ENTER_SQ_WAKEUP: u32 = 2;
        let tail = self.word(11);
        for request in requests {
            let at = tail.load(Ordering::Relaxed);
            let place = at & self.word(12).load(Ordering::Relaxed);
            // SAFETY: within the mappings: the place is masked.
            unsafe {
                let entry = self.entries.add(place as usize * ENTRY);
                ptr::write_bytes(entry, 0, ENTRY);
                entry.write(request.opcode);
                entry.add(1).write(request.flags);
                entry.add(2).cast::<u16>().write(request.priority);
                entry.add(4).cast::<i32>().write(request.fd);
                entry.add(8).cast::<u64>().write(request.second);
                entry.add(16).cast::<u64>().write(request.address);
                entry.add(24).cast::<u32>().write(request.len);
                entry.add(28).cast::<u32>().write(request.op_flags);
                entry.add(32).cast::<u64>().write(request.user_data);
                entry.add(44).cast::<u32>().write(request.file_index);
                self.rings.add(self.params[16] as usize).cast::<u32>().add(place as usize).write(place);
            }
            tail.store(at + 1, Ordering::Release);
        }
        let polled = self.setup & SETUP_SQPOLL != 0;
        let flags = if wait > 0 { IORING_ENTER_GETEVENTS } else { 0 }
            | if polled { IORING_ENTER_SQ_WAKEUP } else { 0 };
        let (number, none) = (libc::SYS_io_uring_enter, ptr::null::<u8>());
        // SAFETY: no memory but the mappings.
        let done = unsafe { libc::syscall(number, self.fd, requests.len(), wait, flags, none, 0) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// The next completion's number, result and flags, if there is one.
    pub(crate) fn completion(&self) -> Option<(u64, i32, u32)> {
        let (head, tail) = (self.word(20), self.word(21));
        let at = head.load(Ordering::Relaxed);
        if at == tail.load(Ordering::Acquire) {
            return None;
        }
        let place = at & self.word(22).load(Ordering::Relaxed);
        // SAFETY: within the mapping: the place is masked.
        let completion = unsafe {
            let at = self.rings.add(self.params[25] as usize + place as usize * COMPLETION);
            (at.cast::<u64>().read(), at.add(8).cast::<i32>().read(), at.add(12).cast::<u32>().read())
        };
        head.store(at + 1, Ordering::Release);
        Some(completion)
    }

    /// The result of one request.
    pub(crate) fn run(&self, request: Request) -> io::Result<i32> {
        self.submit(&[request], 1)?;
        loop {
            if let Some((_, result, _)) = self.completion() {
                return Ok(result);
            }
            self.submit(&[], 1)?;
        }
    }

    /// A word of the rings at the offset that stands in this word of the parameters.
    fn word(&self, of: usize) -> &AtomicU32 {
        // SAFETY: an aligned word of the mapping, which the kernel and this process change.
        unsafe { AtomicU32::from_ptr(self.rings.add(self.params[of] as usize).cast()) }
    }
}
