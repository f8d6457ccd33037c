//! One kind of work, as fast as it goes.

use std::{
    fs::{self, File},
    io::Read,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, Result};

/// Starts this very program `count` times; each start has an argument of its own.
pub(crate) fn exec(count: u64) -> Result<u64> {
    let this = std::env::current_exe().context("find this program")?;
    for index in 0..count {
        start_one(&this, &format!("exec-{index}"))?;
    }
    Ok(count)
}

pub(crate) fn start_one(program: &Path, mark: &str) -> Result<()> {
    let status = Command::new(program)
        .args(["nothing", mark])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .with_context(|| format!("start {}", program.display()))?;
    anyhow::ensure!(status.success(), "{} ended with {status}", program.display());
    Ok(())
}

pub(crate) fn open(count: u64) -> Result<u64> {
    for _ in 0..count {
        File::open("/etc/hostname").or_else(|_| File::open("/etc/passwd")).context("open a file of /etc")?;
    }
    Ok(count)
}

pub(crate) fn create(count: u64, folder: &Path) -> Result<u64> {
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    for index in 0..count {
        create_one(&folder.join(format!("file-{index}")))?;
    }
    Ok(count)
}

pub(crate) fn create_one(path: &Path) -> Result<()> {
    File::create(path).with_context(|| format!("create {}", path.display()))?;
    fs::remove_file(path).with_context(|| format!("remove {}", path.display()))
}

pub(crate) fn connect(count: u64) -> Result<u64> {
    let listener = TcpListener::bind("127.0.0.1:0").context("listen on loopback")?;
    let address = listener.local_addr().context("ask for the port")?;
    let server = thread::spawn(move || {
        for stream in listener.incoming().take(usize::try_from(count).unwrap_or(usize::MAX)).flatten() {
            drop(stream);
        }
    });
    for _ in 0..count {
        // The accepting side closes first, so that no port of ours waits in TIME_WAIT.
        let mut stream = TcpStream::connect(address).context("connect on loopback")?;
        let _closed = stream.read(&mut [0]);
    }
    let _ended = server.join();
    Ok(count)
}
