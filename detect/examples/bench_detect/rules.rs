//! Made-up rules with the shapes of the public ones: 98 % of the items literal texts and lists of them, 1.6 % regular
//! expressions, 0.3 % networks; half of the conditions one identifier, the rest `1 of`, `all of`, `not`, `or`. Two thirds are
//! for process creation, as among the public rules. No public rule is copied.

use fuzzing::Chance;

/// Programs that attacks are made with; ordinary events use some of them too.
const TOOLS: [&str; 96] = [
    "bash",
    "sh",
    "dash",
    "zsh",
    "python",
    "python3",
    "perl",
    "ruby",
    "php",
    "node",
    "lua",
    "curl",
    "wget",
    "nc",
    "ncat",
    "socat",
    "ssh",
    "scp",
    "sftp",
    "rsync",
    "tar",
    "gzip",
    "zip",
    "base64",
    "xxd",
    "openssl",
    "gpg",
    "dd",
    "cp",
    "mv",
    "rm",
    "chmod",
    "chown",
    "chattr",
    "setfacl",
    "useradd",
    "usermod",
    "passwd",
    "crontab",
    "at",
    "systemctl",
    "service",
    "kill",
    "pkill",
    "killall",
    "iptables",
    "nft",
    "ip",
    "ss",
    "netstat",
    "tcpdump",
    "nmap",
    "masscan",
    "dig",
    "nslookup",
    "host",
    "id",
    "whoami",
    "uname",
    "hostname",
    "last",
    "w",
    "ps",
    "lsof",
    "lsmod",
    "insmod",
    "modprobe",
    "rmmod",
    "mount",
    "umount",
    "unshare",
    "nsenter",
    "chroot",
    "docker",
    "kubectl",
    "crictl",
    "ctr",
    "runc",
    "gdb",
    "strace",
    "ltrace",
    "ld",
    "gcc",
    "make",
    "git",
    "find",
    "grep",
    "awk",
    "sed",
    "xargs",
    "tee",
    "cat",
    "head",
    "env",
    "sudo",
    "su",
];
const FLAGS: [&str; 40] = [
    " -e ",
    " -c ",
    " -l ",
    "-enc",
    " --exec",
    " -O ",
    " -o /tmp/",
    " -d ",
    " -x ",
    " --upload-file",
    " -T ",
    " -i ",
    "-lvp",
    " -p ",
    " --insecure",
    " -k ",
    " --data",
    " -X POST",
    " +s",
    " u+s",
    " 777 ",
    " +x /tmp",
    " --privileged",
    " --pid=host",
    " -v /:/",
    " -it ",
    " --rm",
    " -R ",
    " -D ",
    " -L ",
    " -f ",
    " -n ",
    " -z ",
    " --decode",
    " -r ",
    " -rf ",
    " --no-check",
    " --user ",
    " -s ",
    " -u ",
];
const PLACES: [&str; 40] = [
    "/tmp/",
    "/var/tmp/",
    "/dev/shm/",
    "/etc/passwd",
    "/etc/shadow",
    "/etc/sudoers",
    "/root/.ssh/",
    "/.ssh/authorized_keys",
    "/etc/cron",
    "/var/spool/cron/",
    "/etc/systemd/system/",
    "/etc/ld.so.preload",
    "/proc/self/",
    "/proc/1/root",
    "/var/run/docker.sock",
    "/etc/rc.local",
    "/etc/init.d/",
    "/.bashrc",
    "/.profile",
    "/.bash_history",
    "/var/log/auth.log",
    "/var/log/wtmp",
    "/usr/lib/security/",
    "/etc/pam.d/",
    "/boot/",
    "/lib/modules/",
    "/sys/kernel/",
    "/etc/kubernetes/",
    "/var/lib/kubelet/",
    "/var/run/secrets/",
    "/.aws/credentials",
    "/.kube/config",
    "/.docker/config.json",
    "/.netrc",
    "/etc/hosts",
    "/etc/resolv.conf",
    "/etc/profile.d/",
    "/etc/apt/",
    "/var/www/",
    "/opt/",
];
const WORDS: [&str; 40] = [
    "xmrig",
    "stratum+tcp",
    "minerd",
    "linpeas",
    "pspy",
    "meterpreter",
    "/dev/tcp/",
    "/dev/udp/",
    "mkfifo",
    "pty.spawn",
    "socket.socket",
    "subprocess",
    "os.system",
    "base64_decode",
    "eval(",
    "exec(",
    "LD_PRELOAD",
    "HISTFILE",
    "history -c",
    "authorized_keys",
    "shadow",
    "sudoers",
    "docker.sock",
    "kubeconfig",
    "serviceaccount",
    "169.254.169.254",
    ".onion",
    "pastebin.com",
    "transfer.sh",
    "ngrok",
    "raw.githubusercontent",
    "interact.sh",
    "burpcollaborator",
    "nohup",
    "setsid",
    "disown",
    "chisel",
    "frpc",
    "rclone",
    "megasync",
];

/// Rules as a multi-document YAML text, which every engine parses by itself.
pub(crate) fn yaml(count: usize, seed: u64) -> String {
    let mut chance = Chance::new(seed);
    let rules: Vec<_> = (0..count)
        .map(|number| {
            let body = match chance.below(100) {
                0..67 => process(&mut chance),
                67..85 => file(&mut chance),
                _ => network(&mut chance),
            };
            let level = chance.pick(&["low", "medium", "high", "critical"]);
            format!("title: Generated rule {number}\nid: 00000000-0000-4000-8000-{number:012}\nstatus: test\nlevel: {level}\n{body}")
        })
        .collect();
    rules.join("---\n")
}

fn process(chance: &mut Chance) -> String {
    let image = |chance: &mut Chance| {
        let count = 1 + chance.below(3);
        item("Image|endswith", &several(chance, count, tool))
    };
    let words = |chance: &mut Chance, most: usize| {
        let count = 1 + chance.below(most);
        item("CommandLine|contains", &several(chance, count, fragment))
    };
    let detection = match chance.below(100) {
        0..28 => format!("    selection:\n{}{}    condition: selection\n", image(chance), words(chance, 8)),
        28..42 => {
            let count = 2 + chance.below(2);
            let all = item("CommandLine|contains|all", &several(chance, count, fragment));
            format!(
                "    selection_img:\n{}    selection_cli:\n{all}    condition: all of selection_*\n",
                image(chance)
            )
        }
        42..56 => format!("    selection:\n{}    condition: selection\n", words(chance, 10)),
        56..66 => {
            let count = 1 + chance.below(3);
            let parent = item("ParentImage|endswith", &several(chance, count, service));
            format!("    selection:\n{parent}{}    condition: selection\n", image(chance))
        }
        66..78 => {
            let parent = item("ParentImage|startswith", &[format!("/opt/{}/", chance.word())]);
            let filter = item("CommandLine|contains", &[rare(chance)]);
            format!(
                "    selection:\n{}{}    filter_main_parent:\n{parent}    filter_main_cli:\n{filter}    condition: selection and not 1 of filter_main_*\n",
                image(chance),
                words(chance, 5)
            )
        }
        78..85 => {
            let parent = item("ParentCommandLine|contains", &[rare(chance)]);
            format!(
                "    selection_a:\n{}    selection_b:\n{}{parent}    condition: 1 of selection_*\n",
                item("CommandLine|contains|all", &[fragment(chance), rare(chance)]),
                image(chance)
            )
        }
        85..91 => {
            let place = chance.pick(&["/tmp/", "/var/tmp/", "/dev/shm/"]).to_string();
            let start = item("Image|startswith", &[place]);
            format!("    selection:\n{start}{}    condition: selection\n", words(chance, 4))
        }
        91..96 => {
            let expression = match chance.below(3) {
                0 => format!("(?:{}|{})\\s+-[a-z]{{1,3}}\\s", chance.word(), chance.word()),
                1 => format!("{}[0-9]{{2,5}}\\.{}", chance.word(), chance.pick(&["sh", "py", "pl"])),
                _ => format!("\\b{}\\s.*\\|\\s*(?:ba)?sh\\b", chance.word()),
            };
            format!(
                "    selection:\n{}{}    condition: selection\n",
                image(chance),
                item("CommandLine|re", &[expression])
            )
        }
        96..98 => {
            let whole = item("Image", &[format!("/usr/bin/{}", chance.pick(&TOOLS))]);
            format!(
                "    selection:\n{whole}        User: root\n{}    condition: selection\n",
                words(chance, 3)
            )
        }
        _ => {
            let end = item("CommandLine|endswith", &several(chance, 2, rare));
            let folder = item("CurrentDirectory|startswith", &[chance.pick(&PLACES).to_string()]);
            format!(
                "    selection:\n{end}    other:\n{folder}{}    condition: selection or other\n",
                words(chance, 2)
            )
        }
    };
    logsource("process_creation", &detection)
}

fn file(chance: &mut Chance) -> String {
    let count = 1 + chance.below(5);
    let detection = match chance.below(100) {
        0..35 => {
            let ends = several(chance, count, |chance| match chance.below(3) {
                0 => format!(
                    "/{}.{}",
                    chance.word(),
                    chance.pick(&["sh", "so", "service", "conf", "py", "elf"])
                ),
                1 => format!("{}{}", chance.pick(&PLACES), chance.word()),
                _ => format!(".{}", chance.word()),
            });
            format!("    selection:\n{}    condition: selection\n", item("TargetFilename|endswith", &ends))
        }
        35..65 => {
            let starts =
                several(chance, count, |chance| format!("{}{}", chance.pick(&PLACES), chance.word()));
            let filter = item("Image|endswith", &several(chance, 2, tool));
            format!(
                "    selection:\n{}    filter_optional_tool:\n{filter}    condition: selection and not 1 of filter_optional_*\n",
                item("TargetFilename|startswith", &starts)
            )
        }
        65..90 => {
            let words = several(chance, count, rare);
            format!("    selection:\n{}    condition: selection\n", item("TargetFilename|contains", &words))
        }
        _ => {
            let image = item("Image|endswith", &several(chance, 2, tool));
            let start = item("TargetFilename|startswith", &[chance.pick(&PLACES).to_string()]);
            let end = item("TargetFilename|endswith", &[format!(".{}", chance.word())]);
            format!("    selection:\n{image}{start}{end}    condition: selection\n")
        }
    };
    logsource("file_event", &detection)
}

fn network(chance: &mut Chance) -> String {
    let count = 1 + chance.below(3);
    let image = item("Image|endswith", &several(chance, count, tool));
    let detection = match chance.below(100) {
        0..40 => {
            let ports = several(chance, 1 + chance.clone().below(6), |chance| {
                (1024 + chance.below(60_000)).to_string()
            });
            format!(
                "    selection:\n        Initiated: 'true'\n{image}{}    condition: selection\n",
                numbers("DestinationPort", &ports)
            )
        }
        40..55 => {
            let nets = several(chance, 2, |chance| {
                format!("{}.{}.{}.0/24", 20 + chance.below(180), chance.below(256), chance.below(256))
            });
            format!("    selection:\n{}    condition: selection\n", item("DestinationIp|cidr", &nets))
        }
        55..75 => {
            let addresses = several(chance, 4, |chance| {
                format!(
                    "{}.{}.{}.{}",
                    20 + chance.below(180),
                    chance.below(256),
                    chance.below(256),
                    chance.below(256)
                )
            });
            format!("    selection:\n{}    condition: selection\n", item("DestinationIp", &addresses))
        }
        75..90 => {
            let start = item(
                "Image|startswith",
                &[format!("{}{}", chance.pick(&["/tmp/", "/dev/shm/", "/var/tmp/"]), chance.word())],
            );
            format!("    selection:\n{start}        Initiated: 'true'\n    condition: selection\n")
        }
        _ => {
            let words = item("CommandLine|contains", &several(chance, 3, rare));
            let filter = item(
                "DestinationIp|cidr",
                &["10.0.0.0/8".into(), "127.0.0.0/8".into(), "192.168.0.0/16".into()],
            );
            format!(
                "    selection:\n{image}{words}    filter_main_local:\n{filter}    condition: selection and not filter_main_local\n"
            )
        }
    };
    logsource("network_connection", &detection)
}

fn logsource(category: &str, detection: &str) -> String {
    format!("logsource:\n    product: linux\n    category: {category}\ndetection:\n{detection}")
}

fn several(chance: &mut Chance, count: usize, mut one: impl FnMut(&mut Chance) -> String) -> Vec<String> {
    let mut values: Vec<_> = (0..count).map(|_| one(chance)).collect();
    values.sort();
    values.dedup();
    values
}

/// A program by its end: known, or made up.
fn tool(chance: &mut Chance) -> String {
    if chance.percent(60) { format!("/{}", chance.pick(&TOOLS)) } else { format!("/{}", chance.word()) }
}

/// A service by its end: what parents are asked for, since a shell as a parent says nothing.
fn service(chance: &mut Chance) -> String {
    const SERVICES: [&str; 12] = [
        "nginx",
        "apache2",
        "httpd",
        "java",
        "php-fpm",
        "tomcat",
        "mysqld",
        "postgres",
        "redis-server",
        "sshd",
        "node",
        "gunicorn",
    ];
    if chance.percent(40) { format!("/{}", chance.pick(&SERVICES)) } else { format!("/{}", chance.word()) }
}

/// What command lines are searched for: mostly particular, sometimes a common flag or place.
fn fragment(chance: &mut Chance) -> String {
    match chance.below(100) {
        0..2 => chance.pick(&FLAGS).to_string(),
        2..6 => chance.pick(&PLACES).to_string(),
        6..30 => chance.pick(&WORDS).to_string(),
        30..55 => format!("{}{}", chance.pick(&PLACES), chance.word()),
        55..70 => format!(" --{}", chance.word()),
        _ => rare(chance),
    }
}

fn rare(chance: &mut Chance) -> String {
    match chance.below(4) {
        0 => format!("{}-{}", chance.word(), chance.word()),
        1 => format!("{}.{}", chance.word(), chance.pick(&["sh", "py", "so", "elf", "com", "xyz"])),
        2 => format!("{} {}", chance.word(), chance.word()),
        _ => format!("{}{}", chance.word(), chance.word()),
    }
}

fn item(key: &str, values: &[String]) -> String {
    let quoted = |value: &String| format!("'{}'", value.replace('\'', "''"));
    match values {
        [one] => format!("        {key}: {}\n", quoted(one)),
        many => {
            let lines: String =
                many.iter().map(|value| format!("            - {}\n", quoted(value))).collect();
            format!("        {key}:\n{lines}")
        }
    }
}

fn numbers(key: &str, values: &[String]) -> String {
    let lines: String = values.iter().map(|value| format!("            - {value}\n")).collect();
    format!("        {key}:\n{lines}")
}
