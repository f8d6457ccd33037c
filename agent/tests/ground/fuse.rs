//! A filesystem whose server is ours: one file, and silence from a moment on. By hand through /dev/fuse (include/uapi/linux/fuse.h).

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;

const ENOSYS: i32 = 38;
const ROOT: u64 = 1;
const TOOL: u64 = 2;
/// How long what was said of a file holds, in seconds: whoever wants to know asks again.
const VALID: u64 = 0;

/// A mounted filesystem with one program, `tool`.
pub struct Fuse {
    at: PathBuf,
    silent: Arc<AtomicBool>,
}

impl Fuse {
    /// `None`, said aloud, where there is no FUSE. The server is a thread of this process, which ends with the mount.
    pub fn serve(at: &Path, content: Vec<u8>) -> Option<Self> {
        let skip = |why: String| println!("SKIPPED: a filesystem that does not answer: {why}");
        let device = match File::options().read(true).write(true).open("/dev/fuse") {
            Ok(device) => device,
            Err(error) => {
                skip(format!("/dev/fuse: {error}"));
                return None;
            }
        };
        std::fs::create_dir_all(at).unwrap();
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let options = std::ffi::CString::new(options).unwrap();
        if let Err(error) = mount("hemostat-test", at, "fuse", MountFlags::empty(), options.as_c_str()) {
            skip(format!("mount: {error}"));
            return None;
        }
        let silent = Arc::new(AtomicBool::new(false));
        let of_server = silent.clone();
        std::thread::spawn(move || serve(device, &content, &of_server));
        Some(Self { at: at.to_owned(), silent })
    }

    pub fn tool(&self) -> PathBuf {
        self.at.join("tool")
    }

    /// From now on nothing is answered.
    pub fn fall_silent(&self) {
        self.silent.store(true, Ordering::SeqCst);
    }

    /// The connection ends, and with it everybody's waiting.
    fn abort(&self) {
        // by the device number as /proc knows it: asking the filesystem would wait
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let device = mounts.lines().find_map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            (Path::new(words.get(4)?) == self.at)
                .then(|| words[2].rsplit(':').next().unwrap_or("").to_owned())
        });
        let control = PathBuf::from("/sys/fs/fuse/connections");
        let fusectl = control.read_dir().is_ok_and(|mut entries| entries.next().is_some());
        let mounted = !fusectl && mount("fusectl", &control, "fusectl", MountFlags::empty(), None).is_ok();
        if let Some(device) = device {
            let _aborted = std::fs::write(control.join(device).join("abort"), "1");
        }
        if mounted {
            let _unmounted = unmount(&control, UnmountFlags::DETACH);
        }
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        self.abort();
        let _unmounted = unmount(&self.at, UnmountFlags::DETACH);
    }
}

fn serve(mut device: File, content: &[u8], silent: &AtomicBool) {
    let mut request = vec![0; 1 << 20];
    // Ends with an error when the mount goes.
    while let Ok(length) = device.read(&mut request) {
        if silent.load(Ordering::SeqCst) {
            continue;
        }
        let number = |at: usize, bytes: usize| {
            let mut whole = [0; 8];
            whole[..bytes].copy_from_slice(&request[at..at + bytes]);
            u64::from_le_bytes(whole)
        };
        assert!(length >= 40);
        let (opcode, unique, node) = (number(4, 4) as u32, number(8, 8), number(16, 8));
        let body = match opcode {
            FORGET | BATCH_FORGET | INTERRUPT => continue,
            INIT => Ok([7_u32, 31, 0, 0, 0, 4096, 1, 0]
                .into_iter()
                .chain([0; 8])
                .flat_map(u32::to_le_bytes)
                .collect()),
            LOOKUP if node == ROOT && request[40..].starts_with(b"tool\0") => {
                let mut body: Vec<u8> =
                    [TOOL, 0, VALID, VALID, 0].into_iter().flat_map(u64::to_le_bytes).collect();
                body.extend(attributes(TOOL, content.len()));
                Ok(body)
            }
            LOOKUP => Err(2),
            GETATTR => {
                let mut body: Vec<u8> = [VALID, 0].into_iter().flat_map(u64::to_le_bytes).collect();
                body.extend(attributes(node, content.len()));
                Ok(body)
            }
            OPEN => Ok(vec![0; 16]),
            READ => {
                let (offset, size) = (number(48, 8) as usize, number(56, 4) as usize);
                let end = content.len().min(offset + size);
                Ok(content[offset.min(end)..end].to_vec())
            }
            RELEASE | FLUSH => Ok(Vec::new()),
            _ => Err(ENOSYS),
        };
        let (error, body) = body.map_or_else(|error| (-error, Vec::new()), |body| (0, body));
        let mut reply = (16 + body.len() as u32).to_le_bytes().to_vec();
        reply.extend(error.to_le_bytes());
        reply.extend(unique.to_le_bytes());
        reply.extend(body);
        let _answered = device.write_all(&reply);
    }
}

fn attributes(node: u64, length: usize) -> Vec<u8> {
    let (size, mode) = if node == ROOT { (0, 0o040_755) } else { (length as u64, 0o100_755_u32) };
    let mut bytes: Vec<u8> =
        [node, size, size.div_ceil(512), 0, 0, 0].into_iter().flat_map(u64::to_le_bytes).collect();
    bytes.extend([0_u32, 0, 0, mode, 1, 0, 0, 0, 4096, 0].into_iter().flat_map(u32::to_le_bytes));
    bytes
}
