//! A real sshd at one address of the machine, in a mount namespace of its own: the machine's accounts and /run stay as they are. Its words go
//! into a log as a syslog daemon writes it.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "for tests: what cannot be done fails them; a skip is said"
)]

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{IpAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// The account of privilege separation, where the package did not make it, and the folder that its service makes; then sshd.
const SCRIPT: &str = r#"
set -e
mount -t tmpfs none /run
mkdir -m 0755 /run/sshd
if ! getent passwd sshd >/dev/null; then
    { cat /etc/passwd; echo 'sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin'; } >"$FOLDER/passwd"
    mount --bind "$FOLDER/passwd" /etc/passwd
fi
exec "$SSHD" -D -e -f "$FOLDER/config"
"#;

/// sshd, its keys and its log; ended with the test.
pub struct Sshd {
    folder: tempfile::TempDir,
    address: IpAddr,
    port: u16,
    child: Child,
}

impl Sshd {
    /// `None`, said aloud, where there is none to be had.
    #[must_use]
    pub fn at(address: IpAddr) -> Option<Self> {
        let Some((program, libraries)) = program() else {
            println!("SKIPPED: there is no sshd here, and Debian's package openssh-server cannot be fetched");
            return None;
        };
        if Command::new("ssh").arg("-V").stderr(Stdio::null()).status().is_err() {
            println!("SKIPPED: there is no ssh here (apt-get install openssh-client)");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name).display().to_string();
        for name in ["host", "user", "stranger"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f", &file(name)])
                .status();
            assert!(made.unwrap().success());
        }
        fs::copy(file("user.pub"), file("authorized")).unwrap();
        let port = TcpListener::bind((address, 0)).unwrap().local_addr().unwrap().port();
        let config = format!(
            "ListenAddress {address}\nPort {port}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\nLogLevel VERBOSE\nMaxAuthTries 2\n",
            file("host"),
            file("authorized")
        );
        fs::write(file("config"), config).unwrap();
        fs::write(file("auth.log"), "").unwrap();
        let mut child = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", SCRIPT])
            .env("SSHD", program)
            .env("FOLDER", folder.path())
            .env("LD_LIBRARY_PATH", libraries)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let words = BufReader::new(child.stderr.take().unwrap());
        let mut log = fs::OpenOptions::new().append(true).open(file("auth.log")).unwrap();
        let pid = child.id();
        // Ends with the last process of sshd.
        thread::spawn(move || {
            for line in words.lines().map_while(Result::ok) {
                let now = (controller::wall_clock())();
                if writeln!(log, "{now} bastion sshd[{pid}]: {}", line.trim_end()).is_err() {
                    break;
                }
            }
        });
        let this = Self { folder, address, port, child };
        this.until(|log| log.contains("Server listening"));
        Some(this)
    }

    /// Its log.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.folder.path().join("auth.log")
    }

    /// Logs in with the key `user`, which is known, or `stranger`, which is not. Whether it was let in.
    #[must_use]
    pub fn login(&self, user: &str, key: &str) -> bool {
        let file = |name: &str| self.folder.path().join(name).display().to_string();
        let options = [
            "BatchMode=yes".to_owned(),
            "StrictHostKeyChecking=no".to_owned(),
            "IdentitiesOnly=yes".to_owned(),
            format!("UserKnownHostsFile={}", file("known")),
        ];
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "none"]);
        for option in &options {
            ssh.args(["-o", option]);
        }
        ssh.args(["-i", &file(key), "-p", &self.port.to_string(), "-l", user])
            .args([self.address.to_string(), "true".to_owned()])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .env_remove("SSH_AUTH_SOCK")
            .status()
            .unwrap()
            .success()
    }

    /// The log once it is as it is waited for.
    pub fn until(&self, fits: impl Fn(&str) -> bool) -> String {
        let until = Instant::now() + Duration::from_secs(120);
        loop {
            let log = fs::read_to_string(self.log()).unwrap_or_default();
            if fits(&log) {
                return log;
            }
            assert!(Instant::now() < until, "sshd never said it:\n{log}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// sshd and where its libraries are: the machine's own, or Debian's packages, unpacked into the cache and not installed.
fn program() -> Option<(PathBuf, PathBuf)> {
    let own = ["/usr/sbin/sshd", "/usr/bin/sshd"].map(Path::new);
    if let Some(own) = own.into_iter().find(|path| path.exists()) {
        return Some((own.to_owned(), PathBuf::new()));
    }
    let cache = std::env::var_os("HEMOSTAT_CACHE")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/hemostat")))?;
    let unpacked = cache.join("sshd");
    let (program, libraries) = (
        unpacked.join("usr/sbin/sshd"),
        unpacked.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH)),
    );
    if !program.exists() {
        fs::create_dir_all(&cache).ok()?;
        let made = tempfile::tempdir_in(&cache).ok()?;
        let done = Command::new("sh")
            .args(["-ec", "apt-get download -o APT::Sandbox::User=root openssh-server libwrap0; for each in *.deb; do dpkg-deb -x $each .; done; rm *.deb"])
            .current_dir(made.path())
            .stdin(Stdio::null())
            .output()
            .ok()?;
        if !done.status.success() {
            println!("{}", String::from_utf8_lossy(&done.stderr));
            return None;
        }
        // Another test may have been quicker.
        let _there_already = fs::rename(made.path(), &unpacked);
    }
    program.exists().then_some((program, libraries))
}
