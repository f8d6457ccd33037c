//! Event categories: the unit of routing and of field availability.

use std::fmt;

use model::{Activity, Created, Event, EventClass, RecordKind};

macro_rules! categories {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $class:expr;)*) => {
        /// What kind of thing happened. An event has exactly one category.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Category { $($(#[$doc])* $name,)* }

        impl Category {
            /// All, in order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name that rules (`logsource.category`) and rule tests use.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The class of kernel events behind it; `None` for categories that other sources feed.
            #[must_use]
            pub fn class(self) -> Option<EventClass> {
                match self { $(Self::$name => $class,)* }
            }
        }
    };
}

categories! {
    /// A new program image.
    ProcessCreation = "process_creation", Some(EventClass::Exec);
    /// A new process without a new image.
    ProcessFork = "process_fork", Some(EventClass::Fork);
    /// The end of a process.
    ProcessTermination = "process_termination", Some(EventClass::Exit);
    /// setuid, capset, a setuid binary.
    CredentialChange = "credential_change", Some(EventClass::Credentials);
    /// setns, unshare.
    NamespaceChange = "namespace_change", Some(EventClass::Namespaces);
    /// A file was created or opened for writing.
    FileEvent = "file_event", Some(EventClass::FileOpen);
    /// A file was opened for reading.
    FileAccess = "file_access", Some(EventClass::FileOpen);
    /// unlink, rmdir.
    FileDelete = "file_delete", Some(EventClass::FileDelete);
    /// rename.
    FileRename = "file_rename", Some(EventClass::FileRename);
    /// link, symlink.
    FileLink = "file_link", Some(EventClass::FileLink);
    /// chmod.
    FileMode = "file_mode", Some(EventClass::FileMode);
    /// chown.
    FileOwner = "file_owner", Some(EventClass::FileOwner);
    /// connect.
    NetworkConnection = "network_connection", Some(EventClass::Connect);
    /// accept.
    NetworkAccept = "network_accept", Some(EventClass::Accept);
    /// bind.
    NetworkBind = "network_bind", Some(EventClass::Bind);
    /// listen.
    NetworkListen = "network_listen", Some(EventClass::Listen);
    /// A connected socket was closed.
    NetworkClose = "network_close", Some(EventClass::SocketClose);
    /// A DNS question.
    DnsQuery = "dns_query", Some(EventClass::Dns);
    /// A kernel module was loaded.
    DriverLoad = "driver_load", Some(EventClass::Module);
    /// bpf(2).
    Bpf = "bpf", Some(EventClass::Bpf);
    /// ptrace of another process.
    Ptrace = "ptrace", Some(EventClass::Ptrace);
    /// process_vm_writev into another process.
    ProcessVmWrite = "process_vm_write", Some(EventClass::ProcessVmWrite);
    /// memfd_create.
    Memfd = "memfd_create", Some(EventClass::Memfd);
    /// mount.
    Mount = "mount", Some(EventClass::Mount);
    /// io_uring_setup.
    IoUring = "io_uring_setup", Some(EventClass::IoUring);
    /// A request in the Kubernetes API server's audit log.
    KubernetesAudit = "kubernetes_audit", None;
    /// What OpenSSH's server logs.
    Sshd = "sshd", None;
    /// What sudo logs.
    Sudo = "sudo", None;
    /// What other programs log that log in through PAM: su, login, cron, systemd.
    Pam = "pam", None;
    /// An event of Okta's System Log.
    Okta = "okta", None;
    /// A user or admin event of Keycloak.
    Keycloak = "keycloak", None;
    /// A sign-in at Entra ID.
    Entra = "entra", None;
    /// A login, or another event of an account, that another source tells (OCSF class 3002, security events).
    Authentication = "authentication", None;
    /// A flow that Cilium's Hubble saw.
    HubbleFlow = "hubble_flow", None;
    /// A line of an AWS VPC flow log.
    VpcFlow = "vpc_flow", None;
    /// A flow that another source tells (OCSF class 4001, NetFlow, IPFIX, GCP).
    Flow = "flow", None;
    /// A call in AWS CloudTrail.
    CloudTrail = "cloudtrail", None;
}

impl Category {
    /// The category of a kernel event.
    #[must_use]
    pub fn of(event: &Event) -> Self {
        match &event.activity {
            Activity::Exec { .. } => Self::ProcessCreation,
            Activity::Fork { .. } => Self::ProcessFork,
            Activity::Exit(_) => Self::ProcessTermination,
            Activity::CredentialChange { .. } => Self::CredentialChange,
            Activity::NamespaceChange { .. } => Self::NamespaceChange,
            Activity::FileOpen { flags, created, .. } => {
                if *created == Created::Yes || opens_for_writing(*flags) {
                    Self::FileEvent
                } else {
                    Self::FileAccess
                }
            }
            Activity::FileDelete { .. } => Self::FileDelete,
            Activity::FileRename { .. } => Self::FileRename,
            Activity::FileLink { .. } => Self::FileLink,
            Activity::FileMode { .. } => Self::FileMode,
            Activity::FileOwner { .. } => Self::FileOwner,
            Activity::Connect(_) => Self::NetworkConnection,
            Activity::Accept(_) => Self::NetworkAccept,
            Activity::Bind { .. } => Self::NetworkBind,
            Activity::Listen { .. } => Self::NetworkListen,
            Activity::SocketClose { .. } => Self::NetworkClose,
            Activity::DnsQuery { .. } => Self::DnsQuery,
            Activity::ModuleLoad { .. } => Self::DriverLoad,
            Activity::Bpf { .. } => Self::Bpf,
            Activity::Ptrace { .. } => Self::Ptrace,
            Activity::MemfdCreate { .. } => Self::Memfd,
            Activity::Mount { .. } => Self::Mount,
            Activity::ProcessVmWrite { .. } => Self::ProcessVmWrite,
            Activity::IoUringSetup { .. } => Self::IoUring,
            Activity::Record(record) => Self::of_record(record.kind),
        }
    }

    /// The category of a record.
    #[must_use]
    pub fn of_record(kind: RecordKind) -> Self {
        match kind {
            RecordKind::KubernetesAudit => Self::KubernetesAudit,
            RecordKind::Sshd => Self::Sshd,
            RecordKind::Sudo => Self::Sudo,
            RecordKind::Pam => Self::Pam,
            RecordKind::Okta => Self::Okta,
            RecordKind::Keycloak => Self::Keycloak,
            RecordKind::Entra => Self::Entra,
            RecordKind::Authentication => Self::Authentication,
            RecordKind::HubbleFlow => Self::HubbleFlow,
            RecordKind::VpcFlow => Self::VpcFlow,
            RecordKind::Flow => Self::Flow,
            RecordKind::CloudTrail => Self::CloudTrail,
        }
    }

    /// The kind of records behind it; `None` for what the kernel tells.
    #[must_use]
    pub fn record_kind(self) -> Option<RecordKind> {
        Some(match self {
            Self::KubernetesAudit => RecordKind::KubernetesAudit,
            Self::Sshd => RecordKind::Sshd,
            Self::Sudo => RecordKind::Sudo,
            Self::Pam => RecordKind::Pam,
            Self::Okta => RecordKind::Okta,
            Self::Keycloak => RecordKind::Keycloak,
            Self::Entra => RecordKind::Entra,
            Self::Authentication => RecordKind::Authentication,
            Self::HubbleFlow => RecordKind::HubbleFlow,
            Self::VpcFlow => RecordKind::VpcFlow,
            Self::Flow => RecordKind::Flow,
            Self::CloudTrail => RecordKind::CloudTrail,
            _ => return None,
        })
    }

    /// By its [`Category::name`].
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|category| category.name() == name)
    }
}

/// open(2) flags that can change the content: O_WRONLY, O_RDWR or O_TRUNC (Linux, asm-generic/fcntl.h).
fn opens_for_writing(flags: u32) -> bool {
    flags & 0o3 != 0 || flags & 0o1000 != 0
}

/// A set of categories.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct CategorySet(u64);

impl CategorySet {
    /// None.
    pub const EMPTY: Self = Self(0);

    /// These.
    #[must_use]
    pub const fn of(categories: &[Category]) -> Self {
        let mut bits = 0;
        let mut i = 0;
        while i < categories.len() {
            bits |= 1 << categories[i] as u8;
            i += 1;
        }
        Self(bits)
    }

    /// All that the node's own kernel events feed.
    #[must_use]
    pub fn kernel() -> Self {
        Category::ALL.iter().copied().filter(|category| category.class().is_some()).collect()
    }

    /// All that some source of this product can feed: kernel events and records.
    #[must_use]
    pub fn all() -> Self {
        Category::ALL.iter().copied().collect()
    }

    /// Whether it is in.
    #[must_use]
    pub const fn contains(self, category: Category) -> bool {
        self.0 & (1 << category as u8) != 0
    }

    /// In either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// In both.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// None in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those in it, in order.
    pub fn iter(self) -> impl Iterator<Item = Category> {
        Category::ALL.iter().copied().filter(move |category| self.contains(*category))
    }
}

impl FromIterator<Category> for CategorySet {
    fn from_iter<T: IntoIterator<Item = Category>>(categories: T) -> Self {
        Self(categories.into_iter().fold(0, |bits, category| bits | 1 << category as u8))
    }
}

/// Names, separated by commas.
impl fmt::Display for CategorySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, category) in self.iter().enumerate() {
            if position > 0 {
                f.write_str(", ")?;
            }
            f.write_str(category.name())?;
        }
        Ok(())
    }
}
