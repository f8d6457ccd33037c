//! Packages, compilers and a Kubernetes with pods that come and go. The services are beside.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{
    ground::{Begin, Done, Ground, Rounds},
    services,
};
use crate::{
    cluster::{Cluster, Cni, Place, binaries::Binaries},
    progress::output,
};

/// All work but the packages, which end first.
pub(super) const ALL: &[(&str, Begin)] = &[
    ("compile", compile),
    ("cluster", cluster),
    ("cron", services::cron),
    ("ssh", services::ssh),
    ("database", services::database),
    ("web", services::web),
];

pub(super) fn packages(ground: &Ground) -> Done {
    ground.repeat("packages", |_ground| Ok(Box::new(PackageRounds)))
}

/// Small Debian packages in and out; Python and Node packages into a folder.
struct PackageRounds;

impl Rounds for PackageRounds {
    fn round(&mut self, ground: &Ground, number: u64) -> Result<()> {
        const SMALL: [&str; 5] = ["hello", "tree", "sl", "cowsay", "figlet"];
        let folder = ground.folder("packages")?;
        match number % 4 {
            1 if output("python3", &["--version"]).is_some() => {
                let venv = folder.join("venv");
                let _fresh = fs::remove_dir_all(&venv);
                ground.shell(
                    "packages",
                    &format!("python3 -m venv {0} && {0}/bin/pip install requests pyyaml && {0}/bin/python -c 'import requests, yaml'", venv.display()),
                )
            }
            3 if output("npm", &["--version"]).is_some() => {
                let project = folder.join("npm");
                let _fresh = fs::remove_dir_all(&project);
                fs::create_dir_all(&project).with_context(|| format!("make {}", project.display()))?;
                ground.shell(
                    "packages",
                    &format!("cd {} && npm init -y && npm install lodash express && node -e \"require('express')()\"", project.display()),
                )
            }
            _ => {
                let at = usize::try_from(number / 2).unwrap_or(0) % SMALL.len();
                let package = SMALL[at];
                ground.need(&[package])?;
                ground.shell(
                    "packages",
                    &format!("dpkg -L {package} | head -3; dpkg -V {package}; apt-cache policy {package}"),
                )?;
                ground.drop_packages(&[package])
            }
        }
    }

    fn pause(&self) -> Duration {
        Duration::from_secs(15)
    }
}

/// A C project by make, checks as `configure` makes them, a Rust crate with a procedural macro, a Go program, and git.
struct Compile {
    folder: PathBuf,
}

fn compile(ground: &Ground) -> Result<Box<dyn Rounds>> {
    let folder = ground.folder("compile")?;
    if output("gcc", &["--version"]).is_none() || output("make", &["--version"]).is_none() {
        ground.need(&["gcc", "make", "libc6-dev"])?;
    }
    let c = folder.join("c");
    fs::create_dir_all(&c).with_context(|| format!("make {}", c.display()))?;
    for n in 0..30 {
        fs::write(
            c.join(format!("part{n}.c")),
            format!("#include <stdio.h>\n#include <string.h>\nint part{n}(const char *s) {{ return (int)strlen(s) * {n} + printf(\"%s\", s); }}\n"),
        )
        .context("write a C file")?;
    }
    fs::write(c.join("main.c"), "int part0(const char *);\nint main(void) { return part0(\"\"); }\n")
        .context("write main.c")?;
    fs::write(
        c.join("Makefile"),
        "OBJECTS := $(patsubst %.c,%.o,$(wildcard *.c))\nall: program test\nprogram: $(OBJECTS)\n\t$(CC) -o $@ $^\ntest: program\n\t./program\nclean:\n\trm -f *.o program\n",
    )
    .context("write the Makefile")?;
    fs::write(
        folder.join("configure"),
        "#!/bin/sh\n# As autoconf does: tries small programs, compiles and runs them.\nset -e\nd=$(mktemp -d)\ncd \"$d\"\n\
         for f in strlcpy getrandom epoll_create1 memfd_create; do\n  echo \"int $f(); int main(void) { return &$f == 0; }\" > conftest.c\n  \
         if gcc -o conftest conftest.c 2>/dev/null && ./conftest; then echo \"$f yes\"; else echo \"$f no\"; fi\ndone\n\
         uname -m; uname -s; hostname; id -u; cc --version | head -1\ncd /; rm -rf \"$d\"\n",
    )
    .context("write configure")?;
    Ok(Box::new(Compile { folder }))
}

impl Rounds for Compile {
    fn round(&mut self, ground: &Ground, number: u64) -> Result<()> {
        let folder = self.folder.display();
        ground.shell(
            "compile",
            &format!("cd {folder} && sh configure && make -C c clean && nice make -C c -j2"),
        )?;
        if output("cargo", &["--version"]).is_some() {
            ground.shell(
                "compile",
                &format!(
                    "cd {folder} && rm -rf example && cargo new --quiet --vcs none example && cd example && unset CARGO_TARGET_DIR && \
                     printf 'serde = {{ version = \"1\", features = [\"derive\"] }}\\nserde_json = \"1\"\\n' >> Cargo.toml && nice cargo build --quiet -j2 && \
                     nice cargo test --quiet -j2"
                ),
            )?;
        }
        if output("go", &["version"]).is_some() {
            ground.shell(
                "compile",
                &format!(
                    "mkdir -p {folder}/go && cd {folder}/go && rm -f go.mod && printf 'package main\\nimport \"net/http\"\\nfunc main() {{ _ = http.DefaultClient }}\\n' > main.go && \
                     printf 'package main\\nimport \"testing\"\\nfunc TestNothing(t *testing.T) {{ _ = {number} }}\\n' > main_test.go && \
                     go mod init example.com/x && nice go build -p 2 -o x . && ./x && nice go test ./..."
                ),
            )?;
        }
        ground.shell(
            "compile",
            &format!(
                "cd {folder} && rm -rf repo clone && git init -q repo && cd repo && git config user.email a@example.com && git config user.name a && \
                 cp ../c/*.c . && git add . && git commit -q -m first && git gc -q && cd .. && git clone -q repo clone && git -C clone log --oneline | cat"
            ),
        )
    }

    fn pause(&self) -> Duration {
        Duration::from_secs(15)
    }
}

/// Deployments, Jobs, CronJobs, pods that crash, exec sessions.
struct Pods {
    cluster: Cluster,
    folder: PathBuf,
}

fn cluster(ground: &Ground) -> Result<Box<dyn Rounds>> {
    if Binaries::cached()?.is_none() {
        bail!("its programs are not built yet (cargo xtask cluster build)");
    }
    let folder = ground.folder("cluster")?;
    Ok(Box::new(Pods { cluster: Cluster::up(Place::OF_BENCHES, Cni::Bridge)?, folder }))
}

impl Pods {
    fn kubectl(&self, ground: &Ground, arguments: &str) -> Result<()> {
        let kubectl = self.cluster.kubectl();
        let (program, kubeconfig) = kubectl.places();
        ground.shell(
            "cluster",
            &format!("{} --kubeconfig {} {arguments}", program.display(), kubeconfig.display()),
        )
    }
}

impl Rounds for Pods {
    fn round(&mut self, ground: &Ground, number: u64) -> Result<()> {
        let manifest = self.folder.join("manifest.json");
        fs::write(&manifest, workloads(number).to_string()).context("write a manifest")?;
        let space = format!("--namespace shop-{number}");
        self.kubectl(ground, &format!("apply --filename {}", manifest.display()))?;
        self.kubectl(ground, &format!("rollout status deployment/web {space} --timeout=90s"))?;
        self.kubectl(ground, &format!("wait --for=condition=complete job/report {space} --timeout=90s"))?;
        self.kubectl(ground, &format!("exec {space} deployment/web -- ls -l /"))?;
        self.kubectl(
            ground,
            &format!("exec {space} deployment/web -- sh -c 'ps; df; cat /etc/passwd | head -1'"),
        )?;
        self.kubectl(ground, &format!("logs {space} job/report"))?;
        self.kubectl(ground, &format!("get pods,events {space}"))?;
        self.kubectl(ground, &format!("rollout restart deployment/web {space}"))?;
        self.kubectl(ground, &format!("rollout status deployment/web {space} --timeout=90s"))?;
        self.kubectl(ground, &format!("scale deployment/web {space} --replicas=1"))?;
        // So long that CronJobs come around.
        ground.sleep(Duration::from_secs(30));
        self.kubectl(ground, &format!("delete namespace shop-{number} --wait=true --timeout=120s"))
    }
}

fn workloads(number: u64) -> Value {
    const IMAGE: &str = "hemostat.dev/busybox:1";
    let space = format!("shop-{number}");
    let container = |name: &str, script: &str| json!({"name": name, "image": IMAGE, "imagePullPolicy": "Never", "command": ["sh", "-c", script]});
    let about = |name: &str| json!({"name": name, "namespace": space});
    let mut web = container(
        "web",
        "mkdir -p /tmp/www && echo hello > /tmp/www/index.html && exec httpd -f -p 8080 -h /tmp/www",
    );
    web["readinessProbe"] = json!({"exec": {"command": ["wget", "-q", "-O", "/dev/null", "http://127.0.0.1:8080/"]}, "periodSeconds": 2});
    web["livenessProbe"] = json!({"exec": {"command": ["sh", "-c", "test -d /tmp/www"]}, "periodSeconds": 5});
    let once = json!({"template": {"spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
        "containers": [container("report", "date; ls /var /etc; for i in 1 2 3; do echo line $i; sleep 1; done | sort | tee /tmp/report")]}}});
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": about("settings"), "data": {"colour": "green"}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": about("login"), "stringData": {"user": "shop"}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": about("web"), "spec": {
            "replicas": 3,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {
                "terminationGracePeriodSeconds": 1,
                "initContainers": [container("prepare", "cat /settings/colour; ls -la /login; touch /tmp/prepared")
                    .as_object().map(|init| { let mut init = init.clone(); init.insert("volumeMounts".into(),
                        json!([{"name": "settings", "mountPath": "/settings"}, {"name": "login", "mountPath": "/login"}])); init })],
                "containers": [web],
                "volumes": [{"name": "settings", "configMap": {"name": "settings"}}, {"name": "login", "secret": {"secretName": "login"}}],
            }},
        }},
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": about("report"), "spec": once},
        {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": about("nightly"), "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": once}}},
        {"apiVersion": "v1", "kind": "Pod", "metadata": about("crashes"), "spec": {"terminationGracePeriodSeconds": 0, "containers": [container("crashes", "echo no; exit 1")]}},
    ]})
}
