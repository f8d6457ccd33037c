//! What sshd, sudo and PAM's programs log. Each message's form is that of the program's own source (OpenSSH auth.c and monitor.c, sudo's
//! logging.c, Linux-PAM's pam_unix, shadow).
//!
//! Names in these messages are chosen by who logs in and may imitate the rest of the line (`root from 10.0.0.1 port 22`): what the program
//! itself writes is therefore read from the end, where the name cannot reach. Where that does not help, the line is told as ambiguous.

use std::net::IpAddr;

use detect::schema::{Field, RecordBuilder};
use model::RecordKind;

use super::{
    Told, outcome_word,
    syslog::{Said, Trust},
    told,
};

/// What the kernel says of who sent a line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sender<'a> {
    /// User id; empty where it is not known.
    pub(super) uid: &'a str,
    /// Path of the executable, or the name of the process where there is none.
    pub(super) exe: &'a str,
}

/// How far `program` can have sent it. sshd speaks as root, but for a session's own last words; sudo and su may keep the user id of who called
/// them, so for them it is the executable that counts, which nobody chooses who is not root. Of other programs many are scripts and
/// helpers under other names: root's word is taken for them.
pub(super) fn trust<'a>(program: &str, sender: &Sender<'a>) -> Trust<'a> {
    let Sender { uid, exe } = *sender;
    let name = exe.rsplit('/').next().unwrap_or(exe);
    let is_of_the_system =
        !["/tmp/", "/home/", "/dev/", "/var/tmp/", "/run/user/"].iter().any(|folder| exe.starts_with(folder));
    let known: &[&str] = match program {
        "sshd" | "sshd-session" | "sshd-auth" => &["sshd", "sshd-session", "sshd-auth"],
        "sudo" => &["sudo", "sudo-rs", "sudoedit", "visudo"],
        "su" => &["su", "su-rs", "busybox", "runuser"],
        _ if uid == "0" => return Trust::Vouched,
        _ => return Trust::Claimed,
    };
    let fits = known.contains(&name) && is_of_the_system;
    match (exe.is_empty(), fits) {
        (false, false) => Trust::Contradicted { uid, exe },
        // A session's own last words, or a process that was gone before journald could look.
        _ if uid != "0" && (exe.is_empty() || known.contains(&"sshd")) => Trust::Claimed,
        _ => Trust::Vouched,
    }
}

/// The record of a line, if its program is one of those.
pub(super) fn read(said: &Said<'_>) -> Option<Told> {
    let kind = kind_of(said)?;
    let mut builder = RecordBuilder::new(kind);
    builder.maybe(Field::Computer, Some(said.host).filter(|host| !host.is_empty()));
    // OpenSSH splits itself into more programs with each release; rules know one.
    let service = if kind == RecordKind::Sshd { "sshd" } else { said.program };
    builder.text(Field::Message, said.message).text(Field::AuthService, service);
    let trust = match said.trust {
        Trust::Vouched => "vouched",
        Trust::Claimed => "claimed",
        Trust::Contradicted { uid, exe } => return Some(imitated(builder, said, uid, exe)),
    };
    builder.text(Field::AuthTrust, trust);
    let mut line = Line { builder: &mut builder, host: said.host, action: "other" };
    let message = said.message.trim();
    if message.starts_with("pam_") || message.starts_with("PAM ") {
        line.pam(message);
    } else {
        match kind {
            RecordKind::Sshd => line.sshd(message),
            RecordKind::Sudo => line.sudo(message),
            _ => line.other(said.program, message),
        }
    }
    let action = line.action;
    builder.text(Field::AuthAction, action);
    if !said.host.is_empty() {
        builder.object("host", None, said.host);
    }
    Some(told(builder, said.time))
}

fn kind_of(said: &Said<'_>) -> Option<RecordKind> {
    Some(match said.program {
        "sshd" | "sshd-session" | "sshd-auth" => RecordKind::Sshd,
        "sudo" => RecordKind::Sudo,
        "su" | "login" | "passwd" | "chpasswd" | "useradd" | "usermod" | "userdel" | "groupadd"
        | "groupmod" | "groupdel" | "gpasswd" | "chage" | "chfn" | "chsh" | "newgrp" | "systemd-logind"
        | "pkexec" | "polkitd" | "doas" | "runuser" | "cron" | "crond" | "CRON" | "atd" | "gdm-password]"
        | "gdm-password" | "lightdm" => RecordKind::Pam,
        _ if said.message.starts_with("pam_") => RecordKind::Pam,
        _ => return None,
    })
}

/// A line that another than its program wrote: nothing that it says is taken for true, but who wrote it is known.
fn imitated(mut builder: RecordBuilder, said: &Said<'_>, uid: &str, exe: &str) -> Told {
    builder.text(Field::AuthTrust, "contradicted").text(Field::AuthAction, "other");
    builder.text(Field::AuthReason, &format!("written by {exe} of user id {uid}"));
    if !uid.is_empty() {
        builder.principal(said.host, &format!("uid {uid}"));
    }
    if !said.host.is_empty() {
        builder.object("host", None, said.host);
    }
    told(builder, said.time)
}

struct Line<'a> {
    builder: &'a mut RecordBuilder,
    host: &'a str,
    action: &'static str,
}

impl Line<'_> {
    fn user(&mut self, name: &str) {
        self.builder.text(Field::AuthUser, name).principal(self.host, name);
    }

    fn outcome(&mut self, success: bool) {
        self.builder.text(Field::AuthOutcome, outcome_word(success));
    }

    fn from(&mut self, host: &str) {
        match host.parse::<IpAddr>() {
            Ok(addr) => {
                self.builder.address(Field::AuthSourceIp, addr).origin(Some(addr));
            }
            Err(_) => {
                self.builder.text(Field::AuthRemoteHost, host);
            }
        }
    }

    fn sshd(&mut self, message: &str) {
        let message = message.strip_suffix(" [preauth]").unwrap_or(message);
        let message = message.strip_prefix("error: ").unwrap_or(message);
        if let Some(rest) = message.strip_prefix("Accepted ") {
            self.login(rest, true);
        } else if let Some(rest) = message.strip_prefix("Failed ") {
            self.login(rest, false);
        } else if let Some(rest) = message.strip_prefix("Invalid user ") {
            if let Some(end) = End::of(rest) {
                self.builder.truth(Field::AuthInvalidUser, true);
                self.attempt(&end, "no such user");
            }
        } else if let Some(rest) = message.strip_prefix("maximum authentication attempts exceeded for ") {
            if let Some(end) = End::of(rest) {
                let (name, invalid) = strip_invalid(end.before);
                self.builder.truth(Field::AuthInvalidUser, invalid);
                self.attempt(&End { before: name, ..end }, "too many attempts");
            }
        } else if let Some((before, reason)) = message.split_once(" not allowed because ") {
            if let Some((name, host)) =
                before.strip_prefix("User ").and_then(|rest| rest.rsplit_once(" from "))
            {
                self.action = "login";
                self.outcome(false);
                self.user(name);
                self.from(host);
                self.builder.text(Field::AuthReason, reason);
            }
        } else if let Some(rest) = message.strip_prefix("Disconnected from user ") {
            if let Some((name, host, port)) = name_host_port(rest) {
                self.action = "logout";
                self.user(name);
                self.from(host);
                self.builder.maybe(Field::AuthSourcePort, port);
            }
        } else if let Some(rest) = ["Connection closed by ", "Connection reset by ", "Disconnected from "]
            .iter()
            .find_map(|prefix| message.strip_prefix(prefix))
        {
            self.gone_before_login(rest);
        }
    }

    /// `publickey for alice from 192.0.2.1 port 50022 ssh2: ED25519 SHA256:…`
    fn login(&mut self, rest: &str, success: bool) {
        let Some((method, rest)) = rest.split_once(" for ") else { return };
        // Only an account that exists is let in or has its key looked at, and no such name holds ` from `; behind the address come words that
        // the client chose (a certificate's key id). Any other name may hold anything, and nothing comes behind the address.
        let exists =
            success || (["publickey", "hostbased"].contains(&method) && !rest.starts_with("invalid user "));
        let end = if exists { End::first_of(rest) } else { End::of(rest) };
        let Some(end) = end else { return };
        let (name, invalid) = if success { (end.before, false) } else { strip_invalid(end.before) };
        self.builder.text(Field::AuthMethod, method).truth(Field::AuthInvalidUser, invalid);
        self.action = "login";
        self.outcome(success);
        self.user(name);
        self.from(end.host);
        self.builder.maybe(Field::AuthSourcePort, Some(end.port));
        let key =
            end.after.split_once(": ").and_then(|(_, key)| key.split(' ').find(|word| word.contains(':')));
        self.builder.maybe(Field::AuthKey, key);
        if !success {
            self.builder.text(Field::AuthReason, if invalid { "no such user" } else { "refused" });
        }
    }

    fn attempt(&mut self, end: &End<'_>, reason: &str) {
        self.action = "login";
        self.outcome(false);
        self.user(end.before);
        self.from(end.host);
        self.builder.text(Field::AuthSourcePort, end.port).text(Field::AuthReason, reason);
    }

    /// `authenticating user root 192.0.2.1 port 22`, `invalid user admin 192.0.2.1 port 22`, `192.0.2.1 port 22`
    fn gone_before_login(&mut self, rest: &str) {
        let named = rest.strip_prefix("authenticating user ").map(|rest| (rest, false));
        let named = named.or_else(|| rest.strip_prefix("invalid user ").map(|rest| (rest, true)));
        match named {
            Some((rest, invalid)) => {
                let Some((name, host, port)) = name_host_port(rest) else { return };
                self.builder.truth(Field::AuthInvalidUser, invalid);
                self.user(name);
                self.from(host);
                self.builder.maybe(Field::AuthSourcePort, port);
            }
            None => {
                let mut words = rest.split(' ');
                if let Some(host) = words.next() {
                    self.from(host);
                }
            }
        }
    }

    /// `alice : TTY=pts/0 ; PWD=/home/alice ; USER=root ; COMMAND=/usr/bin/id`, with a reason in front where it was refused.
    fn sudo(&mut self, message: &str) {
        let Some((name, rest)) = message.split_once(" : ") else { return };
        self.action = "elevate";
        self.user(name.trim());
        // The folder where sudo is called and the command's arguments are the caller's choice and may hold what looks like the other fields:
        // where a folder's name could end is then not certain, and the line is told as one that can be read in several ways. All that may be
        // the command is taken for it, and the first that may be the user.
        if rest.matches(" ; COMMAND=").count() > 1 || rest.matches(" ; USER=").count() > 1 {
            self.builder.text(Field::AuthTrust, "ambiguous");
        }
        // The command is last and may hold anything.
        let (rest, command) = match rest.split_once("COMMAND=") {
            Some((rest, command)) => (rest, Some(command)),
            None => (rest, None),
        };
        self.builder.maybe(Field::AuthCommand, command);
        let mut refused = None;
        for part in rest.split(" ; ").map(|part| part.trim().trim_end_matches(" ;")) {
            match part.split_once('=') {
                Some(("TTY", tty)) => self.builder.text(Field::AuthTerminal, tty),
                Some(("PWD", folder)) => self.builder.text(Field::AuthDirectory, folder),
                Some(("USER", name)) => self.builder.text(Field::AuthRunAs, name),
                Some(_) => continue,
                None if !part.is_empty() && refused.is_none() => {
                    refused = Some(part);
                    continue;
                }
                None => continue,
            };
        }
        self.builder.maybe(Field::AuthReason, refused);
        self.outcome(refused.is_none());
    }

    /// `pam_unix(sshd:auth): authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost=192.0.2.7  user=root`
    fn pam(&mut self, message: &str) {
        let rest = message.split_once(": ").map_or(message, |(_, rest)| rest);
        if let Some((what, pairs)) =
            rest.split_once(';').filter(|(what, _)| what.contains("authentication failure"))
        {
            self.action = "login";
            self.outcome(false);
            self.builder.text(Field::AuthReason, what.trim());
            // The name is last, two spaces before it, and may hold anything.
            let (pairs, name) = pairs.split_once("  user=").unwrap_or((pairs, ""));
            if !name.is_empty() {
                self.user(name);
            }
            for pair in pairs.split_ascii_whitespace() {
                match pair.split_once('=') {
                    Some(("rhost", host)) if !host.is_empty() => self.from(host),
                    Some(("tty", tty)) if !tty.is_empty() => {
                        self.builder.text(Field::AuthTerminal, tty);
                    }
                    _ => {}
                }
            }
        } else if let Some(rest) = rest.strip_prefix("session opened for user ") {
            self.action = "session";
            self.outcome(true);
            let (name, by) = rest.split_once(" by ").unwrap_or((rest, ""));
            let (name, by) = (without_uid(name), without_uid(by));
            if matches!(self.kind(), Kind::Elevation) && !by.is_empty() {
                self.action = "elevate";
                self.user(by);
                self.builder.text(Field::AuthRunAs, name);
            } else {
                self.user(name);
            }
        } else if let Some(name) = rest.strip_prefix("session closed for user ") {
            self.action = "logout";
            self.user(without_uid(name));
        } else if let Some(name) = rest.strip_prefix("password changed for ") {
            self.action = "credential";
            self.outcome(true);
            self.user(name.trim());
        }
    }

    fn kind(&self) -> Kind {
        match self.builder.get(Field::AuthService) {
            detect::schema::FieldValue::Str("su" | "sudo" | "pkexec" | "doas" | "runuser") => Kind::Elevation,
            _ => Kind::Login,
        }
    }

    fn other(&mut self, program: &str, message: &str) {
        match program {
            "su" => self.su(message),
            "login" if message.starts_with("FAILED LOGIN") => {
                self.action = "login";
                self.outcome(false);
                if let Some((_, rest)) = message.split_once(" FOR ") {
                    let name = rest.split(',').next().unwrap_or(rest);
                    self.user(name.trim_matches(['\'', '`', '"']));
                }
            }
            "useradd" | "usermod" | "userdel" | "groupadd" | "groupmod" | "groupdel" | "gpasswd"
            | "chage" | "chsh" | "passwd" | "chpasswd" => {
                self.action = "account";
                let name = message
                    .split_once("name=")
                    .map(|(_, rest)| rest.split([',', ' ']).next().unwrap_or(rest))
                    .or_else(|| message.split('\'').nth(1));
                if let Some(name) = name.filter(|name| !name.is_empty()) {
                    self.user(name);
                }
            }
            _ => {}
        }
    }

    /// `(to root) alice on pts/1`, `FAILED SU (to root) alice on pts/1`
    fn su(&mut self, message: &str) {
        let (rest, success) = match message.strip_prefix("FAILED SU ") {
            Some(rest) => (rest, false),
            None => (message, true),
        };
        let Some((to, rest)) = rest.strip_prefix("(to ").and_then(|rest| rest.split_once(") ")) else {
            return;
        };
        let (name, tty) = rest.rsplit_once(" on ").unwrap_or((rest, ""));
        self.action = "elevate";
        self.outcome(success);
        self.user(name);
        self.builder.text(Field::AuthRunAs, to);
        self.builder.maybe(Field::AuthTerminal, Some(tty).filter(|tty| !tty.is_empty() && *tty != "none"));
    }
}

enum Kind {
    Elevation,
    Login,
}

/// The end of `NAME from HOST port PORT ssh2…`, read from behind.
struct End<'a> {
    before: &'a str,
    host: &'a str,
    port: &'a str,
    after: &'a str,
}

impl<'a> End<'a> {
    fn of(text: &'a str) -> Option<Self> {
        let (before, rest) = text.rsplit_once(" from ")?;
        Self::between(before, rest)
    }

    /// The same read from the front.
    fn first_of(text: &'a str) -> Option<Self> {
        let (before, rest) = text.split_once(" from ")?;
        Self::between(before, rest)
    }

    fn between(before: &'a str, rest: &'a str) -> Option<Self> {
        let mut words = rest.splitn(4, ' ');
        let (host, port_word, port) = (words.next()?, words.next()?, words.next()?);
        let port = port.trim_end_matches(':');
        let is_end = port_word == "port" && port.parse::<u16>().is_ok();
        is_end.then(|| Self { before, host, port, after: words.next().unwrap_or("") })
    }
}

/// `NAME HOST port PORT`, read from behind.
fn name_host_port(text: &str) -> Option<(&str, &str, Option<&str>)> {
    let (rest, port) = text.rsplit_once(" port ")?;
    let (name, host) = rest.rsplit_once(' ')?;
    let port = port.split([' ', ':']).next().filter(|port| port.parse::<u16>().is_ok());
    Some((name, host, port))
}

fn strip_invalid(name: &str) -> (&str, bool) {
    name.strip_prefix("invalid user ").map_or((name, false), |name| (name, true))
}

/// `root(uid=0)` is `root`.
fn without_uid(name: &str) -> &str {
    name.trim().split("(uid=").next().unwrap_or(name).trim()
}
