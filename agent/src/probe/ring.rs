//! A reader of BPF ring buffers (kernel/bpf/ringbuf.c; Documentation/bpf/ringbuf.rst).
//!
//! aya's own maps the whole data area, twice, and each mapped page counts as resident. This one maps a window of it where it reads, and
//! moves the window on: a quarter of a megabyte instead of the whole ring, for some microseconds in each thousand records. The kernel lays
//! its pages out twice in a row, so that a record never wraps in the window either. It also shows the producer's position, which the
//! order of two rings needs (see [`super::reader`]).
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

/// Windows begin at multiples of this. A power of two, and a multiple of the page size of every architecture.
const WINDOW: u64 = 256 * 1024;
/// What a window reaches beyond its part: more than the longest record, whose length the kernel side keeps below this.
const OVERLAP: u64 = 64 * 1024;

pub(super) struct Ring {
    fd: OwnedFd,
    consumer: Mapping,
    producer: Mapping,
    page: usize,
    size: u64,
    position: u64,
    window: Window,
}

/// The part of the data area that is mapped.
struct Window {
    mapping: Mapping,
    /// Where it begins in the data area.
    begin: u64,
}

impl Ring {
    /// Maps the ring of this descriptor, whose data area has `size` bytes.
    pub(super) fn map(fd: OwnedFd, size: u32) -> io::Result<Self> {
        let page = rustix::param::page_size();
        let size = u64::from(size);
        let consumer = Mapping::new(&fd, page, 0, libc::PROT_READ | libc::PROT_WRITE)?;
        let producer = Mapping::new(&fd, page, page, libc::PROT_READ)?;
        let window = Window::map(&fd, page, size, 0)?;
        let mut ring = Self { fd, consumer, producer, page, size, position: 0, window };
        ring.position = ring.consumer_word().load(Ordering::Acquire);
        Ok(ring)
    }

    /// Up to where the kernel has reserved records.
    pub(super) fn produced(&self) -> u64 {
        // SAFETY: the producer's position is the first word of its page, aligned, and lives as long as the mapping.
        unsafe { &*self.producer.at.as_ptr().cast::<AtomicU64>() }.load(Ordering::Acquire)
    }

    /// Gives out the committed records that begin before `limit`, at most `most`; returns how many.
    ///
    /// Errors: the data area cannot be mapped where the next record is; it stays there.
    pub(super) fn drain(
        &mut self,
        limit: u64,
        most: usize,
        mut each: impl FnMut(&[u8]),
    ) -> io::Result<usize> {
        let mut count = 0;
        let mut given_back = self.position;
        // Without the fence the check for more could be done before the kernel sees our position: a lost wake-up.
        fence(Ordering::SeqCst);
        let end = self.produced().min(limit);
        while self.position < end && count < most {
            let record = self.at(self.position)?;
            // SAFETY: record headers are 8-byte aligned, and the window reaches beyond them.
            let head = unsafe { &*record.cast::<AtomicU32>() }.load(Ordering::Acquire);
            if head & BUSY != 0 {
                break;
            }
            let len = u64::from(head & !(BUSY | DISCARD));
            if head & DISCARD == 0 {
                // The kernel side's own bound; anything else would be damage, which must not be read.
                if len + HEADER > OVERLAP {
                    return Err(io::Error::other(format!(
                        "a record of {len} bytes in a ring of the kernel side"
                    )));
                }
                // SAFETY: the record lies within the window, whose overlap is longer than any; the kernel does not write to a
                // committed record before our position has passed it, and the window stays until `each` has returned.
                each(unsafe { std::slice::from_raw_parts(record.add(HEADER as usize), len as usize) });
                count += 1;
            }
            self.position += (len + HEADER + 7) & !7;
            if self.position - given_back >= GIVE_BACK {
                given_back = self.position;
                self.consumer_word().store(self.position, Ordering::Release);
            }
        }
        self.consumer_word().store(self.position, Ordering::SeqCst);
        Ok(count)
    }

    fn consumer_word(&self) -> &AtomicU64 {
        // SAFETY: as in `produced`.
        unsafe { &*self.consumer.at.as_ptr().cast::<AtomicU64>() }
    }

    /// The byte at this position, with the longest record's length mapped behind it.
    fn at(&mut self, position: u64) -> io::Result<*const u8> {
        let offset = position & (self.size - 1);
        let begin = offset & !(WINDOW - 1);
        if begin != self.window.begin {
            self.window = Window::map(&self.fd, self.page, self.size, begin)?;
        }
        // SAFETY: `offset` is less than WINDOW behind `begin`, and the window is longer than that.
        Ok(unsafe { self.window.mapping.at.as_ptr().add((offset - begin) as usize) })
    }
}

impl Window {
    fn map(fd: &OwnedFd, page: usize, size: u64, begin: u64) -> io::Result<Self> {
        // consumer's page, producer's page, the data area, the same pages again
        let behind = (2 * size - begin).min(WINDOW + OVERLAP);
        let mapping = Mapping::new(fd, behind as usize, 2 * page + begin as usize, libc::PROT_READ)?;
        Ok(Self { mapping, begin })
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
