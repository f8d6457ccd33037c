//! cron, sshd, PostgreSQL and nginx, as they run on ordinary machines, each with ordinary use.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use super::ground::{Ground, Rounds, Service};
use crate::progress::output;

const SSH_PORT: u16 = 22_022;
const DATABASE_PORT: u16 = 25_432;
const WEB_PORT: u16 = 28_080;
const APPLICATION_PORT: u16 = 28_081;

/// A cron daemon with jobs each minute.
struct Cron {
    service: Service,
    _table: CronTable,
    stamp: PathBuf,
}

pub(super) fn cron(ground: &Ground) -> Result<Box<dyn Rounds>> {
    ground.need(&["cron"])?;
    let folder = ground.folder("cron")?;
    fs::create_dir_all(folder.join("hourly")).context("make a folder of jobs")?;
    let job = folder.join("hourly/rotate");
    write_program(
        &job,
        "#!/bin/sh\nset -e\ncd \"$(dirname \"$0\")/..\"\nls -la > list.new\nmv list.new list\ngzip -kf list\nfind . -name '*.old' -mmin +60 -delete\n",
    )?;
    let stamp = folder.join("stamp");
    let table = CronTable::write(&folder, &stamp)?;
    let mut command = ground.command("cron", "cron")?;
    let service = Service(command.arg("-f").spawn().context("start cron")?);
    Ok(Box::new(Cron { service, _table: table, stamp }))
}

impl Rounds for Cron {
    /// A minute, after which each job has run.
    fn round(&mut self, ground: &Ground, _number: u64) -> Result<()> {
        let before = fs::read_to_string(&self.stamp).unwrap_or_default();
        ground.sleep(Duration::from_secs(62));
        if let Some(status) = self.service.0.try_wait().context("look after cron")? {
            bail!("cron ended with {status}: does another one run?");
        }
        let after = fs::read_to_string(&self.stamp).unwrap_or_default();
        ensure!(after.len() > before.len() || ground.is_over(), "no job ran within a minute");
        Ok(())
    }
}

/// Our table of jobs, in the folder where packages put theirs.
struct CronTable;

impl CronTable {
    const PATH: &str = "/etc/cron.d/hemostat-benign";

    fn write(folder: &Path, stamp: &Path) -> Result<Self> {
        let folder = folder.display();
        let table = format!(
            "SHELL=/bin/sh\nPATH=/usr/local/sbin:/usr/local/bin:/sbin:/bin:/usr/sbin:/usr/bin\n\
             * * * * * root cd / && run-parts --report {folder}/hourly\n\
             * * * * * root tar czf {folder}/etc-apt.tgz -C /etc apt && find {folder} -name '*.tgz' -mtime +7 -delete\n\
             * * * * * root df -h / > {folder}/df && uptime >> {folder}/df && date >> {}\n\
             * * * * * nobody test -r /etc/hostname && id > /dev/null\n",
            stamp.display()
        );
        fs::write(Self::PATH, table).with_context(|| format!("write {}", Self::PATH))?;
        Ok(Self)
    }
}

impl Drop for CronTable {
    fn drop(&mut self) {
        let _best_effort = fs::remove_file(Self::PATH);
    }
}

/// An ssh server on loopback, and a person who logs in with a key that only this bench knows.
struct Ssh {
    service: Service,
    folder: PathBuf,
}

pub(super) fn ssh(ground: &Ground) -> Result<Box<dyn Rounds>> {
    ground.need(&["openssh-server", "openssh-client"])?;
    let folder = ground.folder("ssh")?;
    let at = folder.display().to_string();
    for key in ["host", "user", "stranger"] {
        ground.shell("ssh", &format!("ssh-keygen -q -t ed25519 -N '' -f {at}/{key}"))?;
    }
    fs::copy(folder.join("user.pub"), folder.join("authorized_keys")).context("let the key in")?;
    fs::create_dir_all("/run/sshd").context("make /run/sshd")?;
    fs::write(
        folder.join("sshd_config"),
        format!(
            "Port {SSH_PORT}\nListenAddress 127.0.0.1\nHostKey {at}/host\nAuthorizedKeysFile {at}/authorized_keys\nStrictModes no\nUsePAM yes\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nPidFile {at}/sshd.pid\n\
             Subsystem sftp /usr/lib/openssh/sftp-server\nAcceptEnv LANG LC_*\n"
        ),
    )
    .context("write sshd's configuration")?;
    let mut command = ground.command("ssh", "/usr/sbin/sshd")?;
    command.args(["-D", "-e", "-f"]).arg(folder.join("sshd_config"));
    let service = Service(command.spawn().context("start sshd")?);
    ground.sleep(Duration::from_secs(1));
    Ok(Box::new(Ssh { service, folder }))
}

impl Rounds for Ssh {
    fn round(&mut self, ground: &Ground, number: u64) -> Result<()> {
        if let Some(status) = self.service.0.try_wait().context("look after sshd")? {
            bail!("sshd ended with {status}");
        }
        let at = self.folder.display();
        let options = format!(
            "-F none -i {at}/user -o StrictHostKeyChecking=no -o UserKnownHostsFile={at}/known_hosts -o BatchMode=yes"
        );
        let login = format!("ssh {options} -p {SSH_PORT} root@127.0.0.1");
        ground.shell(
            "ssh",
            &format!("{login} 'uptime; who; df -h /; free -m; last -n 3 2>/dev/null; tail -n 2 /etc/hosts'"),
        )?;
        // With a terminal, as a person has.
        ground.shell(
            "ssh",
            &format!("printf 'ls -la\\ncd /var/log\\nls | head\\nps aux | head -3\\nexit\\n' | {login} -tt"),
        )?;
        ground.shell("ssh", &format!("dd if=/dev/urandom of={at}/file bs=64k count=16 2>/dev/null && scp {options} -P {SSH_PORT} {at}/file root@127.0.0.1:{at}/copy && cmp {at}/file {at}/copy"))?;
        if output("rsync", &["--version"]).is_some() {
            ground.shell(
                "ssh",
                &format!("rsync -a -e 'ssh {options} -p {SSH_PORT}' {at}/file root@127.0.0.1:{at}/synced"),
            )?;
        }
        if number % 10 == 9 {
            // The wrong key, now and then.
            ground.shell("ssh", &format!("! ssh -F none -i {at}/stranger -o IdentitiesOnly=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile={at}/known_hosts -o BatchMode=yes -p {SSH_PORT} root@127.0.0.1 true"))?;
        }
        Ok(())
    }

    fn pause(&self) -> Duration {
        Duration::from_secs(20)
    }
}

/// PostgreSQL under pgbench, with backups and maintenance.
struct Database {
    service: Service,
    folder: PathBuf,
    programs: PathBuf,
}

pub(super) fn database(ground: &Ground) -> Result<Box<dyn Rounds>> {
    let programs = || {
        let mut found: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
            .filter(|folder| folder.join("pgbench").exists())
            .collect();
        found.sort();
        found.pop()
    };
    if programs().is_none() {
        ground.need(&["postgresql"])?;
    }
    let programs = programs().context("PostgreSQL has no pgbench below /usr/lib/postgresql")?;
    let folder = ground.folder("database")?;
    ground.shell("database", &format!("chown postgres {}", folder.display()))?;
    let (bin, at) = (programs.display(), folder.display());
    ground.shell(
        "database",
        &format!("runuser -u postgres -- {bin}/initdb -D {at}/data --auth=trust -U postgres"),
    )?;
    let mut command = ground.command("database", "runuser")?;
    command
        .args(["-u", "postgres", "--"])
        .arg(programs.join("postgres"))
        .arg("-D")
        .arg(folder.join("data"))
        .args(["-p", &DATABASE_PORT.to_string(), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"])
        .arg("-k")
        .arg(&folder);
    let service = Service(command.spawn().context("start PostgreSQL")?);
    ground.shell("database", &format!("for i in $(seq 100); do {bin}/pg_isready -h 127.0.0.1 -p {DATABASE_PORT} && exit 0; sleep 0.2; done; exit 1"))?;
    ground.shell(
        "database",
        &format!("{bin}/pgbench -h 127.0.0.1 -p {DATABASE_PORT} -U postgres -i -s 2 postgres"),
    )?;
    Ok(Box::new(Database { service, folder, programs }))
}

impl Rounds for Database {
    fn round(&mut self, ground: &Ground, _number: u64) -> Result<()> {
        if let Some(status) = self.service.0.try_wait().context("look after PostgreSQL")? {
            bail!("PostgreSQL ended with {status}");
        }
        let bin = self.programs.display();
        let to = format!("-h 127.0.0.1 -p {DATABASE_PORT} -U postgres");
        ground.shell("database", &format!("{bin}/pgbench {to} -c 4 -j 2 -T 15 -R 400 postgres"))?;
        ground.shell(
            "database",
            &format!(
                "{bin}/psql {to} -c 'select count(*) from pgbench_accounts' -c 'vacuum analyze' postgres"
            ),
        )?;
        let folder = self.folder.display();
        ground.shell("database", &format!("runuser -u postgres -- {bin}/pg_dump {to} -Fc -f {folder}/backup postgres && gzip -kf {folder}/backup"))?;
        if output("sqlite3", &["--version"]).is_some() {
            ground.shell(
                "database",
                &format!(
                    "rm -f {folder}/x.db && sqlite3 {folder}/x.db 'create table t (a); with recursive n(x) as (select 1 union all select x + 1 from n limit 20000) \
                     insert into t select x from n; select count(*) from t;' '.backup {folder}/y.db'"
                ),
            )?;
        }
        Ok(())
    }
}

/// nginx before an application, with pages asked for all the time, reloads and rotated logs.
struct Web {
    nginx: Service,
    _application: Service,
    folder: PathBuf,
}

pub(super) fn web(ground: &Ground) -> Result<Box<dyn Rounds>> {
    ground.need(&["nginx"])?;
    let folder = ground.folder("web")?;
    let at = folder.display().to_string();
    fs::create_dir_all(folder.join("pages")).context("make a folder of pages")?;
    for n in 0..20 {
        fs::write(folder.join(format!("pages/{n}.html")), format!("<p>{}</p>", "page ".repeat(n * 50)))
            .context("write a page")?;
    }
    fs::write(
        folder.join("nginx.conf"),
        format!(
            "user www-data;\nworker_processes 2;\npid {at}/nginx.pid;\nerror_log {at}/error.log;\nevents {{ worker_connections 256; }}\n\
             http {{\n  include /etc/nginx/mime.types;\n  access_log {at}/access.log;\n  client_body_temp_path {at}/body;\n  proxy_temp_path {at}/proxy;\n  \
             fastcgi_temp_path {at}/fastcgi;\n  uwsgi_temp_path {at}/uwsgi;\n  scgi_temp_path {at}/scgi;\n  gzip on;\n  server {{\n    listen 127.0.0.1:{WEB_PORT};\n    \
             root {at}/pages;\n    location /app/ {{ proxy_pass http://127.0.0.1:{APPLICATION_PORT}/; }}\n  }}\n}}\n"
        ),
    )
    .context("write nginx's configuration")?;
    fs::write(folder.join("app.py"), APPLICATION).context("write the application")?;
    fs::write(folder.join("load.py"), LOAD).context("write the load")?;
    let mut command = ground.command("web", "runuser")?;
    command
        .args(["-u", "www-data", "--", "/usr/bin/python3"])
        .arg(folder.join("app.py"))
        .arg(APPLICATION_PORT.to_string());
    let application = Service(command.stdin(Stdio::null()).spawn().context("start the application")?);
    let mut command = ground.command("web", "nginx")?;
    command.args(["-g", "daemon off;", "-c"]).arg(folder.join("nginx.conf"));
    let nginx = Service(command.spawn().context("start nginx")?);
    ground.sleep(Duration::from_secs(1));
    Ok(Box::new(Web { nginx, _application: application, folder }))
}

impl Rounds for Web {
    fn round(&mut self, ground: &Ground, number: u64) -> Result<()> {
        if let Some(status) = self.nginx.0.try_wait().context("look after nginx")? {
            bail!("nginx ended with {status}");
        }
        let at = self.folder.display();
        ground.shell("web", &format!("/usr/bin/python3 {at}/load.py http://127.0.0.1:{WEB_PORT} 15"))?;
        ground.shell("web", &format!("curl -fsS http://127.0.0.1:{WEB_PORT}/1.html http://127.0.0.1:{WEB_PORT}/app/x -o /dev/null -o /dev/null"))?;
        if number % 5 == 4 {
            ground.shell("web", &format!("nginx -t -c {at}/nginx.conf && mv {at}/access.log {at}/access.log.1 && kill -USR1 $(cat {at}/nginx.pid) && gzip -f {at}/access.log.1"))?;
            ground.shell("web", &format!("nginx -s reload -c {at}/nginx.conf"))?;
        }
        Ok(())
    }

    fn pause(&self) -> Duration {
        Duration::from_secs(2)
    }
}

/// A small application: answers, keeps sessions in files, asks a program for something now and then, as many do.
const APPLICATION: &str = r#"
import http.server, json, os, socketserver, subprocess, sys, tempfile, time

class Application(http.server.BaseHTTPRequestHandler):
    count = 0
    def do_GET(self):
        Application.count += 1
        with tempfile.NamedTemporaryFile("w", prefix="session-", delete=True) as session:
            json.dump({"at": time.time()}, session)
            session.flush()
        if Application.count % 500 == 0:
            subprocess.run(["/usr/bin/file", "--brief", "/etc/hostname"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False) if os.path.exists("/usr/bin/file") else None
        body = json.dumps({"count": Application.count}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass

class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True

Server(("127.0.0.1", int(sys.argv[1])), Application).serve_forever()
"#;

/// Visitors: four at once, some tens of pages a second each.
const LOAD: &str = r#"
import sys, threading, time, urllib.request

base, until = sys.argv[1], time.time() + float(sys.argv[2])
failed = []

def visit(which):
    n = 0
    while time.time() < until:
        path = f"/{n % 20}.html" if n % 3 else "/app/page"
        try:
            urllib.request.urlopen(base + path, timeout=5).read()
        except Exception as error:
            failed.append(str(error))
        n += 1
        time.sleep(0.02)

visitors = [threading.Thread(target=visit, args=(which,)) for which in range(4)]
[visitor.start() for visitor in visitors]
[visitor.join() for visitor in visitors]
if len(failed) > 5:
    sys.exit(f"{len(failed)} failed, for example {failed[0]}")
"#;

fn write_program(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(path, text)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("write {}", path.display()))
}
