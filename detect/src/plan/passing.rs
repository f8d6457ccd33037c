//! How much of an ordinary machine's events a kernel test lets pass. A wrong guess costs work, never a match.

use model::KernelTest;

/// Share of the opens that can write.
const WRITES: f32 = 0.1;
/// Share of all file events below each folder, on ordinary machines: runtimes, libraries, /proc and logs make most of them. What is
/// not listed is taken to be rare. Folders before those that lie in them.
const FOLDERS: [(&str, f32); 22] = [
    ("/", 1.0),
    ("/usr/", 0.35),
    ("/usr/lib/", 0.2),
    ("/usr/share/", 0.1),
    ("/usr/bin/", 0.05),
    ("/proc/", 0.25),
    ("/sys/", 0.1),
    ("/var/", 0.2),
    ("/var/lib/", 0.1),
    ("/var/log/", 0.04),
    ("/lib/", 0.05),
    ("/etc/", 0.06),
    ("/dev/", 0.05),
    ("/dev/shm/", 0.002),
    ("/home/", 0.1),
    ("/run/", 0.05),
    ("/tmp/", 0.05),
    ("/opt/", 0.03),
    ("/root/", 0.01),
    ("/srv/", 0.02),
    ("/bin/", 0.01),
    ("/sbin/", 0.01),
];
/// Share below a folder that is not listed, of that below the listed one it lies in.
const UNLISTED: f32 = 0.1;
/// What each further character of a name leaves of what passed before.
const PER_CHARACTER: f32 = 0.7;
/// Ends of very many files.
const COMMON_ENDS: [(&str, f32); 8] = [
    (".so", 0.1),
    (".py", 0.05),
    (".pyc", 0.05),
    (".log", 0.03),
    (".conf", 0.02),
    (".json", 0.02),
    ("/status", 0.02),
    ("/null", 0.02),
];

/// Estimated share that passes, above 0 and at most 1.
pub(super) fn share(test: &KernelTest) -> f32 {
    match test {
        KernelTest::PathIs(_) => 0.0005,
        KernelTest::Port(port) => match port {
            80 | 443 | 53 => 0.3,
            _ => 0.005,
        },
        KernelTest::Net(net) => 0.5_f32.powi(i32::from(net.prefix_len()).min(12)),
        KernelTest::PathPrefix(text) => prefix(text),
        KernelTest::PathSuffix(text) => suffix(text),
        KernelTest::PathContains(text) => contained(text),
        KernelTest::Write => WRITES,
        KernelTest::BpfCommand(_) => 0.1,
        // As if one had nothing to do with the other.
        KernelTest::AllOf(parts) => parts.iter().map(share).product(),
    }
}

fn prefix(text: &str) -> f32 {
    // The narrowest listed folder that holds all the paths, and those listed ones that only some of the paths lie in.
    let holding = FOLDERS.iter().rfind(|(folder, _)| text.starts_with(folder));
    let within: f32 = FOLDERS
        .iter()
        .filter(|(folder, _)| folder.starts_with(text) && *folder != text)
        .map(|(_, of)| of)
        .fold(0.0, |a, b| a.max(*b));
    let (folder, of_folder) = holding.copied().unwrap_or(("", 1.0));
    let rest = text.get(folder.len()..).unwrap_or("");
    if rest.is_empty() {
        return of_folder;
    }
    let deeper = UNLISTED.powi(rest.matches('/').count().min(3) as i32);
    let name = rest.rsplit('/').next().unwrap_or("").len().min(12);
    (of_folder * deeper * PER_CHARACTER.powi(name as i32)).max(within).max(f32::MIN_POSITIVE)
}

/// A text may stand in any place, so it is more common than an end of as many characters; and the kernel looks for four of them.
fn contained(text: &str) -> f32 {
    (2.0 * PER_CHARACTER.powi(text.len().min(6) as i32)).min(1.0)
}

/// A name is rarer than a kind of file, and the more of the name is asked for the rarer.
fn suffix(text: &str) -> f32 {
    let common = COMMON_ENDS.iter().filter(|(end, _)| end.ends_with(text) || text == *end).map(|(_, of)| *of);
    let whole_name = if text.starts_with('/') { 0.02 } else { 0.2 };
    let guess = whole_name * PER_CHARACTER.powi(text.len().min(16) as i32);
    common.fold(guess, f32::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_rarer_than_a_folder_and_a_deep_folder_than_a_shallow_one() {
        let prefix = |text: &str| share(&KernelTest::PathPrefix(text.into()));
        let suffix = |text: &str| share(&KernelTest::PathSuffix(text.into()));
        assert!(prefix("/u") >= prefix("/usr/") && prefix("/usr/") > prefix("/usr/lib/"));
        assert!(
            prefix("/etc/") > prefix("/etc/ssh/") && prefix("/etc/ssh/") > prefix("/etc/ssh/sshd_config")
        );
        assert!(
            suffix("/authorized_keys") < prefix("/home/") && suffix("/authorized_keys") < prefix("/root/")
        );
        assert!(suffix(".bashrc") < prefix("/home/"));
        assert!(suffix("s") > suffix(".so") || suffix(".so") >= 0.1);
        assert!(prefix("/dev/sh") >= prefix("/dev/shm/") && prefix("/dev/shm/") < prefix("/tmp/"));
        for folder in ["/", "/var/", "/home/u/", "/p"] {
            assert!(prefix(folder) > 0.0 && prefix(folder) <= 1.0);
        }
    }
}
