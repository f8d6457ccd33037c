//! A reader of BPF ring buffers (kernel/bpf/ringbuf.c; Documentation/bpf/ringbuf.rst).
//!
//! aya's own maps the data pages twice, so that a record never wraps; that counts twice as resident memory. This one maps
//! them once and copies the few records that wrap. It also shows the producer's position, which the order of two rings
//! needs (see [`super::reader`]).
#![expect(unsafe_code, reason = "memory shared with the kernel")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64, Ordering, fence},
};

const BUSY: u32 = 1 << 31;
const DISCARD: u32 = 1 << 30;
const HEADER: u64 = 8;
/// Space is given back to the kernel after so many bytes.
const GIVE_BACK: u64 = 64 * 1024;

pub(super) struct Ring {
    fd: OwnedFd,
    consumer: Mapping,
    producer: Mapping,
    page: usize,
    size: u64,
    position: u64,
    wrapped: Vec<u8>,
}

impl Ring {
    /// Maps the ring of this descriptor, whose data area has `size` bytes.
    pub(super) fn map(fd: OwnedFd, size: u32) -> io::Result<Self> {
        let page = rustix::param::page_size();
        let consumer = Mapping::new(&fd, page, 0, libc::PROT_READ | libc::PROT_WRITE)?;
        let producer = Mapping::new(&fd, page + size as usize, page, libc::PROT_READ)?;
        let mut ring =
            Self { fd, consumer, producer, page, size: u64::from(size), position: 0, wrapped: Vec::new() };
        ring.position = ring.consumer_word().load(Ordering::Acquire);
        Ok(ring)
    }

    /// Up to where the kernel has reserved records.
    pub(super) fn produced(&self) -> u64 {
        // SAFETY: the producer's position is the first word of its page, aligned, and lives as long as the mapping.
        unsafe { &*self.producer.at.as_ptr().cast::<AtomicU64>() }.load(Ordering::Acquire)
    }

    /// Gives out the committed records that begin before `limit`, at most `most`; returns how many.
    pub(super) fn drain(&mut self, limit: u64, most: usize, mut each: impl FnMut(&[u8])) -> usize {
        let mut count = 0;
        let mut given_back = self.position;
        // Without the fence the check for more could be done before the kernel sees our position: a lost wake-up.
        fence(Ordering::SeqCst);
        let end = self.produced().min(limit);
        while self.position < end && count < most {
            let head = self.word(self.position).load(Ordering::Acquire);
            if head & BUSY != 0 {
                break;
            }
            let len = u64::from(head & !(BUSY | DISCARD));
            if head & DISCARD == 0 {
                self.give(self.position + HEADER, len as usize, &mut each);
                count += 1;
            }
            self.position += (len + HEADER + 7) & !7;
            if self.position - given_back >= GIVE_BACK {
                given_back = self.position;
                self.consumer_word().store(self.position, Ordering::Release);
            }
        }
        self.consumer_word().store(self.position, Ordering::SeqCst);
        count
    }

    fn give(&mut self, position: u64, len: usize, each: &mut impl FnMut(&[u8])) {
        let begin = (position & (self.size - 1)) as usize;
        let first = len.min(self.size as usize - begin);
        // SAFETY: `begin + first` lies within the data area; the kernel does not write to a committed record before our
        // position has passed it.
        let head = unsafe { std::slice::from_raw_parts(self.data().add(begin), first) };
        if first == len {
            return each(head);
        }
        self.wrapped.clear();
        self.wrapped.extend_from_slice(head);
        // SAFETY: as above; the rest stands at the area's start and is shorter than it.
        let rest = unsafe { std::slice::from_raw_parts(self.data(), (len - first).min(self.size as usize)) };
        self.wrapped.extend_from_slice(rest);
        each(&self.wrapped);
    }

    fn consumer_word(&self) -> &AtomicU64 {
        // SAFETY: as in `produced`.
        unsafe { &*self.consumer.at.as_ptr().cast::<AtomicU64>() }
    }

    fn word(&self, position: u64) -> &AtomicU32 {
        // SAFETY: record headers are 8-byte aligned and never wrap.
        unsafe { &*self.data().add((position & (self.size - 1)) as usize).cast::<AtomicU32>() }
    }

    fn data(&self) -> *const u8 {
        // SAFETY: the data area begins one page into the mapping.
        unsafe { self.producer.at.as_ptr().add(self.page) }
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

struct Mapping {
    at: NonNull<u8>,
    len: usize,
}

// SAFETY: shared memory that outlives the thread; all access goes through the one owner.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(fd: &OwnedFd, len: usize, offset: usize, protection: i32) -> io::Result<Self> {
        // SAFETY: a fresh mapping at an address that the kernel chooses.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                protection,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                offset as libc::off_t,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let at = NonNull::new(at.cast::<u8>()).ok_or_else(|| io::Error::other("mapped at address 0"))?;
        Ok(Self { at, len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly what `new` mapped; nothing points into it any more.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.len) };
    }
}
