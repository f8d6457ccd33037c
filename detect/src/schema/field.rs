//! The one table of fields.

use model::FactName;

use crate::schema::{
    Category::{
        self, Authentication, Bpf, CloudTrail, CredentialChange, DnsQuery, DriverLoad, Entra, FileAccess,
        FileDelete, FileEvent, FileLink, FileMode, FileOwner, FileRename, Flow, HubbleFlow, IoUring,
        Keycloak, KubernetesAudit, Memfd, Mount, NamespaceChange, NetworkAccept, NetworkBind, NetworkClose,
        NetworkConnection, NetworkListen, Okta, Pam, ProcessCreation, ProcessFork, ProcessTermination,
        ProcessVmWrite, Ptrace, Sshd, Sudo, VpcFlow,
    },
    CategorySet,
};

/// What a field's values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A text.
    Text,
    /// A text that keywords look into.
    Keyword,
    /// A whole number.
    Number,
    /// `true` or `false`.
    Bool,
    /// An IPv4 or IPv6 address.
    Address,
    /// A point in time.
    Time,
    /// Several texts; a test holds if it holds for one of them.
    List,
}

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub struct FieldSpec {
    /// The field.
    pub field: Field,
    /// Its name in Sigma rules.
    pub name: &'static str,
    /// Other names that Sigma rules use for the same.
    pub aliases: &'static [&'static str],
    /// Names in `service: auditd` rules.
    pub auditd: &'static [&'static str],
    /// What its values are.
    pub kind: Kind,
    /// Events that may have it; in all others it is absent.
    pub categories: CategorySet,
    /// What it holds.
    pub doc: &'static str,
}

macro_rules! fields {
    ($($field:ident $name:literal $aliases:tt $auditd:tt $kind:ident $categories:expr, $doc:literal;)*) => {
        /// A field of events. `as usize` is its position in the table.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Field { $(#[doc = $doc] $field,)* }

        impl Field {
            /// All, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$field,)*];

            const FACTS: &'static [FactName] = &[$(FactName::new($name),)*];

            const TABLE: &'static [FieldSpec] = &[$(FieldSpec {
                field: Self::$field,
                name: $name,
                aliases: &$aliases,
                auditd: &$auditd,
                kind: Kind::$kind,
                categories: $categories,
                doc: $doc,
            },)*];
        }
    };
}

const fn only(categories: &[Category]) -> CategorySet {
    CategorySet::of(categories)
}

/// All kernel categories: those whose events have a process.
const KERNEL: CategorySet = only(&[
    ProcessCreation,
    ProcessFork,
    ProcessTermination,
    CredentialChange,
    NamespaceChange,
    FileEvent,
    FileAccess,
    FileDelete,
    FileRename,
    FileLink,
    FileMode,
    FileOwner,
    NetworkConnection,
    NetworkAccept,
    NetworkBind,
    NetworkListen,
    NetworkClose,
    DnsQuery,
    DriverLoad,
    Bpf,
    Ptrace,
    ProcessVmWrite,
    Memfd,
    Mount,
    IoUring,
]);
const LINUX_AUTH: CategorySet = only(&[Sshd, Sudo, Pam]);
/// Identity providers, clouds, and logins that come as OCSF.
const PROVIDER: CategorySet = only(&[Okta, Keycloak, Entra, Authentication, CloudTrail]);
const AUTH: CategorySet = LINUX_AUTH.union(PROVIDER);
const FLOWS: CategorySet = only(&[HubbleFlow, VpcFlow, Flow]);
const K8S: CategorySet = only(&[KubernetesAudit]);
const RECORDS: CategorySet = K8S.union(AUTH).union(FLOWS);
const ANY: CategorySet = KERNEL.union(RECORDS);
const OKTA: CategorySet = only(&[Okta]);
const KEYCLOAK: CategorySet = only(&[Keycloak]);
const ENTRA: CategorySet = only(&[Entra]);
const HUBBLE: CategorySet = only(&[HubbleFlow]);
const VPC: CategorySet = only(&[VpcFlow]);
const OTHER_FLOW: CategorySet = only(&[Flow]);
const TRAIL: CategorySet = only(&[CloudTrail]);
const FILE: CategorySet =
    only(&[FileEvent, FileAccess, FileDelete, FileRename, FileLink, FileMode, FileOwner]);
const PEERED: CategorySet = only(&[NetworkConnection, NetworkAccept, NetworkClose]).union(FLOWS);
const SOCKET: CategorySet = PEERED.union(only(&[NetworkBind, NetworkListen]));

fields! {
    // the process that did it
    Image "Image" ["SourceImage", "ProcessPath"] ["exe"] Keyword KERNEL, "Path of the executable as the kernel resolved it";
    CommandLine "CommandLine" ["ProcessCommandLine"] ["proctitle"] Keyword KERNEL, "Arguments joined by single spaces, secrets masked";
    Args "Args" [] [] List KERNEL, "The arguments one by one";
    CurrentDirectory "CurrentDirectory" [] ["cwd"] Text KERNEL, "Working directory at exec";
    Comm "Comm" ["ProcessName"] ["comm"] Text KERNEL, "The task's 15-byte name, chosen by the program";
    ProcessId "ProcessId" ["SourceProcessId"] ["pid"] Number KERNEL, "Process id in the initial pid namespace";
    User "User" ["UserName", "SourceUser"] [] List KERNEL, "Real user: the numeric id, and also `root` for 0";
    Uid "Uid" [] ["uid"] Number KERNEL, "Real user id";
    Gid "Gid" [] ["gid"] Number KERNEL, "Real group id";
    Euid "Euid" [] ["euid", "fsuid", "suid"] Number KERNEL, "Effective user id";
    Egid "Egid" [] ["egid", "fsgid", "sgid"] Number KERNEL, "Effective group id";
    LoginUid "LoginUid" [] ["auid"] Number KERNEL, "User id of the login session; absent where none was set";
    Tty "Tty" [] ["tty"] Text KERNEL, "Controlling terminal, for example `pts3`; absent without one";
    Capabilities "Capabilities" [] [] List KERNEL, "Effective capabilities, for example `CAP_SYS_ADMIN`";
    ExeBacking "ExeBacking" [] [] Text KERNEL, "Where the image lives: `file`, `memfd` or `deleted`";
    ParentImage "ParentImage" [] [] Text KERNEL, "Image of the parent at fork time";
    ParentCommandLine "ParentCommandLine" [] [] Text KERNEL, "Arguments of the parent";
    ParentProcessId "ParentProcessId" [] ["ppid"] Number KERNEL, "Process id of the parent at fork time";
    ParentCurrentDirectory "ParentCurrentDirectory" [] [] Text KERNEL, "Working directory of the parent";
    ParentUser "ParentUser" [] [] List KERNEL, "Real user of the parent, as in `User`";
    ParentComm "ParentComm" ["ParentProcessName"] [] Text KERNEL, "Task name of the parent";
    GrandparentImage "GrandparentImage" [] [] Text KERNEL, "Image of the parent's parent";
    GrandparentCommandLine "GrandparentCommandLine" [] [] Text KERNEL, "Arguments of the parent's parent";
    AncestorImages "AncestorImages" [] [] List KERNEL, "Images of all known ancestors, from the parent upwards";
    Exposure "Exposure" [] [] Text KERNEL, "Whether the network can reach the process: `listens` itself, `behind_listener` (an ancestor in its workload listens), or `none`; `listens_locally` and `behind_local_listener` where that is on loopback or a unix socket only";
    Stdin "Stdin" [] [] Text KERNEL, "What standard input was at exec: `closed`, `file`, `pipe`, `socket` or `device`; absent where unknown";
    Stdout "Stdout" [] [] Text KERNEL, "What standard output was at exec";
    Stderr "Stderr" [] [] Text KERNEL, "What standard error was at exec";
    // where it runs
    Computer "Computer" ["ComputerName", "Hostname", "host"] ["node"] Text KERNEL.union(LINUX_AUTH), "The node's name; of a login the host's, as its log gives it";
    UtcTime "UtcTime" ["EventTime", "TimeCreated", "@timestamp", "timestamp", "requestReceivedTimestamp", "published", "createdDateTime"] [] Time ANY, "When it happened, by the clock of who tells it";
    Workload "Workload" [] [] Text KERNEL, "What the process's cgroup belongs to: `container`, `unit`, `host` or `unresolved`";
    InContainer "InContainer" [] [] Bool KERNEL, "Whether it runs in a container; absent where that could not be resolved";
    ContainerId "ContainerId" [] [] Text KERNEL, "The runtime's full container id";
    ContainerRuntime "ContainerRuntime" [] [] Text KERNEL, "`containerd`, `crio`, `docker`, `podman` or `unnamed`";
    PodUid "PodUid" [] [] Text KERNEL, "Kubernetes pod uid";
    SystemdUnit "SystemdUnit" [] [] Text KERNEL, "systemd unit, for example `ssh.service`";
    CgroupPath "CgroupPath" [] [] Text KERNEL, "Path below the cgroup2 mount";
    // process events
    RequestedImage "RequestedImage" [] [] Text only(&[ProcessCreation]), "The path as the caller gave it to exec";
    ChildProcessId "ChildProcessId" [] [] Number only(&[ProcessFork]), "Process id of the new process";
    ExitCode "ExitCode" [] ["exit"] Number only(&[ProcessTermination]), "Exit status; absent if a signal ended it";
    ExitSignal "ExitSignal" [] ["sig"] Number only(&[ProcessTermination]), "Signal that ended it; absent if none did";
    PreviousUid "PreviousUid" [] ["old-uid"] Number only(&[CredentialChange]), "Real user id before";
    PreviousEuid "PreviousEuid" [] [] Number only(&[CredentialChange]), "Effective user id before";
    PreviousGid "PreviousGid" [] [] Number only(&[CredentialChange]), "Real group id before";
    GainedCapabilities "GainedCapabilities" [] [] List only(&[CredentialChange]), "Capabilities that became effective by it";
    NamespaceCall "NamespaceCall" [] [] Text only(&[NamespaceChange]), "`setns` or `unshare`";
    ChangedNamespaces "ChangedNamespaces" [] [] List only(&[NamespaceChange]), "`mnt`, `pid`, `net`, `user`, `uts`, `ipc`, `cgroup`";
    // files
    TargetFilename "TargetFilename" ["FileName", "TargetFileName"] [] Keyword FILE, "The file; of a rename or link the new name";
    SourceFilename "SourceFilename" ["SourceFileName"] [] Keyword only(&[FileRename, FileLink]), "Old name of a rename; what a link points at";
    FileOperation "FileOperation" [] [] Text FILE, "`create`, `write`, `read`, `delete`, `rename`, `hardlink`, `symlink`, `chmod` or `chown`";
    OpenFlags "OpenFlags" [] [] List only(&[FileEvent, FileAccess]), "open(2) flags by name, for example `O_TRUNC`";
    FilePermissions "FilePermissions" [] ["mode"] Number only(&[FileMode]), "New permission bits, their octal digits: `4755`";
    SetUid "SetUid" [] [] Bool only(&[FileMode]), "The new bits have the set-user-id bit";
    SetGid "SetGid" [] [] Bool only(&[FileMode]), "The new bits have the set-group-id bit";
    Executable "Executable" [] [] Bool only(&[FileMode]), "The new bits let somebody execute it";
    NewOwnerUid "NewOwnerUid" [] ["ouid"] Number only(&[FileOwner]), "New user id; absent if unchanged";
    NewOwnerGid "NewOwnerGid" [] ["ogid"] Number only(&[FileOwner]), "New group id; absent if unchanged";
    // network
    DestinationIp "DestinationIp" ["dst_ip", "DestinationAddress", "dst"] [] Address PEERED.union(only(&[DnsQuery])), "The end that was connected to: remote for `Initiated: true`, ours for `false`; of a DNS question the server";
    DestinationPort "DestinationPort" ["dst_port"] [] Number PEERED.union(only(&[DnsQuery])), "Port of `DestinationIp`";
    DestinationIsIpv6 "DestinationIsIpv6" [] [] Bool PEERED.union(only(&[DnsQuery])), "Whether `DestinationIp` is IPv6";
    SourceIp "SourceIp" ["src_ip", "SourceAddress", "src"] [] Address SOCKET, "The end that connected; of bind and listen our own; absent before the kernel has chosen it";
    SourcePort "SourcePort" ["src_port"] [] Number SOCKET, "Port of `SourceIp`; absent before the kernel has chosen it";
    SourceIsIpv6 "SourceIsIpv6" [] [] Bool SOCKET, "Whether `SourceIp` is IPv6";
    Protocol "Protocol" ["proto"] [] Text SOCKET, "`tcp`, `udp`, or the protocol's number";
    Initiated "Initiated" [] [] Bool only(&[NetworkConnection, NetworkAccept]), "`true` for connect, `false` for accept";
    SentBytes "SentBytes" [] [] Number only(&[NetworkClose]).union(FLOWS), "Bytes sent: payload of a socket; of a flow as its log counts them";
    ReceivedBytes "ReceivedBytes" [] [] Number only(&[NetworkClose, Flow]), "Bytes received, likewise";
    QueryName "QueryName" ["query", "record_name"] [] Keyword only(&[DnsQuery, HubbleFlow]), "Name asked, lower case, no final dot";
    QueryType "QueryType" ["record_type", "qtype_name"] [] Text only(&[DnsQuery]), "Type asked, by name where it has one: `A`, `TXT`";
    // kernel
    ImageLoaded "ImageLoaded" ["ModuleName"] [] Keyword only(&[DriverLoad]), "Kernel module's name or file";
    BpfCommand "BpfCommand" [] [] Text only(&[Bpf]), "bpf(2) command, for example `BPF_PROG_LOAD`";
    BpfProgramType "BpfProgramType" [] [] Text only(&[Bpf]), "Program type of BPF_PROG_LOAD, for example `kprobe`";
    BpfName "BpfName" [] [] Text only(&[Bpf]), "Name of the program or map";
    PtraceRequest "PtraceRequest" [] [] Text only(&[Ptrace]), "For example `PTRACE_ATTACH`";
    TargetProcessId "TargetProcessId" [] ["opid"] Number only(&[Ptrace, ProcessVmWrite]), "The other process";
    TargetImage "TargetImage" [] [] Text only(&[Ptrace, ProcessVmWrite]), "Image of the other process, where it is known";
    TargetCommandLine "TargetCommandLine" [] ["ocomm"] Text only(&[Ptrace, ProcessVmWrite]), "Arguments of the other process, where it is known";
    MemfdName "MemfdName" [] [] Keyword only(&[Memfd]), "Name given to memfd_create";
    MemfdFlags "MemfdFlags" [] [] List only(&[Memfd]), "For example `MFD_CLOEXEC`";
    MountSource "MountSource" [] [] Keyword only(&[Mount]), "What is mounted";
    MountPoint "MountPoint" [] [] Keyword only(&[Mount]), "Where";
    FilesystemType "FilesystemType" [] [] Text only(&[Mount]), "For example `proc`";
    MountFlags "MountFlags" [] [] List only(&[Mount]), "For example `MS_BIND`";
    IoUringEntries "IoUringEntries" [] [] Number only(&[IoUring]), "Submission queue entries asked for";
    // the auditd view of the same events
    AuditType "AuditType" [] ["type"] List KERNEL, "Types of the records that auditd writes for it, for example `SYSCALL`, `EXECVE`, `PATH`";
    AuditSyscall "AuditSyscall" [] ["syscall", "SYSCALL"] List KERNEL, "The system call, by name and x86-64 number";
    AuditName "AuditName" [] ["name"] List KERNEL, "Paths of its PATH records";
    AuditNameType "AuditNameType" [] ["nametype"] List KERNEL, "Kinds of its PATH records: `NORMAL`, `CREATE`, `DELETE`";
    AuditSuccess "AuditSuccess" [] ["success"] Text KERNEL, "`yes`: only what succeeded is seen, except connect";
    AuditA0 "AuditA0" [] ["a0"] Text only(&[ProcessCreation]), "First argument of an EXECVE record";
    AuditA1 "AuditA1" [] ["a1"] Text only(&[ProcessCreation]), "Second argument of an EXECVE record";
    AuditA2 "AuditA2" [] ["a2"] Text only(&[ProcessCreation]), "Third argument of an EXECVE record";
    AuditA3 "AuditA3" [] ["a3"] Text only(&[ProcessCreation]), "Fourth argument of an EXECVE record";
    AuditA4 "AuditA4" [] ["a4"] Text only(&[ProcessCreation]), "Fifth argument of an EXECVE record";
    AuditA5 "AuditA5" [] ["a5"] Text only(&[ProcessCreation]), "Sixth argument of an EXECVE record";
    AuditA6 "AuditA6" [] ["a6"] Text only(&[ProcessCreation]), "Seventh argument of an EXECVE record";
    AuditA7 "AuditA7" [] ["a7"] Text only(&[ProcessCreation]), "Eighth argument of an EXECVE record";
    AuditA8 "AuditA8" [] ["a8"] Text only(&[ProcessCreation]), "Ninth argument of an EXECVE record";
    AuditA9 "AuditA9" [] ["a9"] Text only(&[ProcessCreation]), "Tenth argument of an EXECVE record";
    // records of all kinds
    RecordId "RecordId" ["auditID", "uuid"] [] Text RECORDS, "The record's identity in its log";
    Message "Message" ["message", "msg"] [] Keyword LINUX_AUTH.union(only(&[Authentication])), "The log line, without time, host and program";
    // Kubernetes audit log
    Stage "stage" [] [] Text K8S, "`ResponseComplete`, `ResponseStarted` (a watch or exec that goes on) or `Panic`; `RequestReceived` is not taken in";
    Verb "verb" [] [] Text K8S, "Request verb: `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection` …";
    ObjectResource "objectRef.resource" ["resource"] [] Text K8S, "Resource, plural";
    ObjectSubresource "objectRef.subresource" ["subresource"] [] Text K8S, "Subresource, for example `exec`";
    ObjectNamespace "objectRef.namespace" ["namespace"] [] Text K8S, "Namespace";
    ObjectName "objectRef.name" [] [] Text K8S, "Object name";
    ObjectApiGroup "objectRef.apiGroup" ["apiGroup"] [] Text K8S, "API group; absent for the core group";
    ObjectApiVersion "objectRef.apiVersion" ["apiVersion"] [] Text K8S, "API version";
    RequestUser "user.username" ["username"] [] Text K8S, "Who asked";
    RequestGroups "user.groups" [] [] List K8S, "Groups of who asked";
    RequestPod "user.extra.authentication.kubernetes.io/pod-name" [] [] List K8S, "Pod whose token was used";
    RequestPodUid "user.extra.authentication.kubernetes.io/pod-uid" [] [] List K8S, "uid of that pod";
    ImpersonatedUser "impersonatedUser.username" [] [] Text K8S, "As whom it was asked";
    ImpersonatedGroups "impersonatedUser.groups" [] [] List K8S, "Groups of that";
    RequestSourceIps "sourceIPs" [] [] List K8S, "Where from, through which proxies";
    RequestUserAgent "userAgent" ["user_agent", "client.userAgent.rawUserAgent"] [] Text K8S.union(PROVIDER), "User agent, as the client gives it";
    RequestUri "requestURI" [] [] Keyword K8S, "Path and query";
    ExecCommand "ExecCommand" [] [] Keyword K8S, "The command of an exec, its words joined by single spaces";
    ResponseCode "responseStatus.code" [] [] Number K8S, "HTTP status of the answer";
    ResponseReason "responseStatus.reason" [] [] Text K8S, "Why, for example `Forbidden`";
    AuthorizationDecision "annotations.authorization.k8s.io/decision" [] [] Text K8S, "`allow` or `forbid`";
    AuthorizationReason "annotations.authorization.k8s.io/reason" [] [] Text K8S, "Which binding allowed it";
    PodImages "requestObject.spec.containers.image" [] [] List K8S, "Images of all containers of the pod or pod template, init and ephemeral ones too";
    PodContainers "requestObject.spec.containers.name" [] [] List K8S, "Names of these containers";
    PodCommands "requestObject.spec.containers.command" [] [] List K8S, "Command and arguments of each, joined by single spaces";
    PodPrivileged "requestObject.spec.containers.securityContext.privileged" [] [] Bool K8S, "Whether one of them is privileged";
    PodEscalation "requestObject.spec.containers.securityContext.allowPrivilegeEscalation" [] [] Bool K8S, "Whether one of them says that it may gain privileges";
    PodRunAsUser "requestObject.spec.containers.securityContext.runAsUser" [] [] List K8S, "User ids that the pod and its containers ask for";
    PodCapabilities "requestObject.spec.containers.securityContext.capabilities.add" ["capabilities"] [] List K8S, "Capabilities that one of them adds";
    PodHostPaths "requestObject.spec.volumes.hostPath.path" ["hostPath"] [] List K8S, "Paths of the node that the pod mounts";
    PodHostNetwork "requestObject.spec.hostNetwork" [] [] Bool K8S, "Whether it is in the node's network";
    PodHostPid "requestObject.spec.hostPID" [] [] Bool K8S, "Whether it sees the node's processes";
    PodHostIpc "requestObject.spec.hostIPC" [] [] Bool K8S, "Whether it is in the node's IPC namespace";
    PodServiceAccount "requestObject.spec.serviceAccountName" [] [] Text K8S, "Service account of the pod";
    PodNode "requestObject.spec.nodeName" [] [] Text K8S, "Node that the request itself chooses";
    RoleRefName "requestObject.roleRef.name" [] [] Text K8S, "Role that a binding gives";
    RoleSubjects "requestObject.subjects.name" [] [] List K8S, "To whom";
    RoleSubjectKinds "requestObject.subjects.kind" [] [] List K8S, "`User`, `Group`, `ServiceAccount`";
    RoleVerbs "requestObject.rules.verbs" [] [] List K8S, "Verbs that a role allows";
    RoleResources "requestObject.rules.resources" [] [] List K8S, "Resources that a role allows";
    WebhookUrls "requestObject.webhooks.clientConfig.url" [] [] List K8S, "Where an admission webhook sends objects; absent where it names a service";
    ServiceType "requestObject.spec.type" [] [] Text K8S, "Type of a service, for example `NodePort`";
    ServiceExternalIps "requestObject.spec.externalIPs" [] [] List K8S, "Addresses that a service claims";
    SignerName "requestObject.spec.signerName" [] [] Text K8S, "Signer of a certificate request";
    TokenSeconds "requestObject.spec.expirationSeconds" [] [] Number K8S, "Lifetime asked for: of a token, of a certificate";
    // logins
    AuthAction "AuthAction" [] [] Text AUTH, "`login`, `logout`, `session` (opened), `elevate` (sudo, su), `mfa`, `account`, `credential`, `policy` or `other`";
    AuthUser "TargetUserName" ["acct", "user"] [] Text AUTH, "Account; of sudo and su who asks";
    AuthRunAs "RunAsUser" ["USER"] [] Text only(&[Sudo, Pam]), "As whom sudo and su run";
    AuthOutcome "AuthOutcome" ["res"] [] Text AUTH, "`success` or `failure`";
    AuthMethod "AuthMethod" [] [] Text AUTH, "For example `publickey`, `password`";
    AuthReason "FailureReason" [] [] Text AUTH, "Why it failed, in the source's words";
    AuthSourceIp "IpAddress" ["addr", "ipAddress", "client.ipAddress", "IPAddress", "sourceIPAddress"] [] Address AUTH, "Where from";
    AuthSourcePort "IpPort" [] [] Number LINUX_AUTH, "Port there";
    AuthRemoteHost "RemoteHost" ["rhost"] [] Text LINUX_AUTH, "Where from, as PAM names it";
    AuthService "AuthService" [] [] Text AUTH, "What logs in: `sshd`, `sudo`, `su`, `okta` …";
    AuthTerminal "AuthTerminal" ["TTY"] [] Text LINUX_AUTH, "Terminal";
    AuthCommand "SudoCommand" ["COMMAND"] [] Keyword only(&[Sudo]), "What sudo runs";
    AuthDirectory "SudoDirectory" ["PWD"] [] Text only(&[Sudo]), "Where sudo was called";
    AuthInvalidUser "InvalidUser" [] [] Bool only(&[Sshd]), "`true` where the host has no such account";
    AuthTrust "AuthTrust" [] [] Text LINUX_AUTH, "Who vouches for the line: `vouched` (journald asked the kernel who wrote it), `claimed` (nobody: any local user may write to syslog under any name), `contradicted` (another wrote it; nothing else of it is taken), `ambiguous` (a sudo line that holds a second command or user)";
    AuthKey "KeyFingerprint" [] [] Text only(&[Sshd]), "Fingerprint of the key, for example `SHA256:…`";
    AuthCountry "SourceCountry" ["client.geographicalContext.country", "Location", "location.countryOrRegion"] [] Text PROVIDER, "Country, as the provider places the address";
    AuthApplication "Application" ["AppDisplayName", "appDisplayName"] [] Text PROVIDER, "Application that was logged in to";
    // Okta System Log
    OktaEventType "eventType" ["eventtype"] [] Text OKTA.union(TRAIL), "For example `user.session.start`; of CloudTrail `AwsApiCall`, `AwsConsoleSignIn`";
    OktaMessage "displayMessage" ["displaymessage"] [] Text OKTA, "The same for people";
    OktaSeverity "severity" [] [] Text OKTA, "`DEBUG`, `INFO`, `WARN` or `ERROR`";
    OktaResult "outcome.result" [] [] Text OKTA, "`SUCCESS`, `FAILURE`, `ALLOW`, `DENY`, `CHALLENGE` …";
    OktaReason "outcome.reason" [] [] Text OKTA, "Why";
    OktaActor "actor.alternateId" ["actor.alternateid"] [] Text OKTA, "Who, usually a mail address";
    OktaActorType "actor.type" [] [] Text OKTA, "For example `User`, `SystemPrincipal`";
    OktaActorName "actor.displayName" ["actor.displayname"] [] Text OKTA, "Who, for people";
    OktaTargets "target.alternateId" ["target.alternateid"] [] List OKTA, "To whom or what";
    OktaTargetNames "target.displayName" ["target.displayname"] [] List OKTA, "The same for people";
    OktaTargetTypes "target.type" [] [] List OKTA, "For example `User`, `AppInstance`, `ROLE`";
    OktaZone "client.zone" [] [] Text OKTA, "Okta's network zone";
    OktaDevice "client.device" [] [] Text OKTA, "For example `Computer`";
    OktaIsProxy "securityContext.isProxy" ["securitycontext.isproxy"] [] Bool OKTA, "Whether Okta knows the address for an anonymising proxy";
    OktaAsOrg "securityContext.asOrg" ["securitycontext.asorg"] [] Text OKTA, "Who owns the network";
    OktaBehaviors "debugContext.debugData.behaviors" ["debugcontext.debugdata.behaviors"] [] Text OKTA, "What is new for this user, as Okta writes it: `{New Device=POSITIVE, …}`";
    OktaRisk "debugContext.debugData.risk" ["debugcontext.debugdata.risk"] [] Text OKTA, "Okta's risk, as it writes it";
    OktaThreat "debugContext.debugData.threatSuspected" ["debugcontext.debugdata.threatsuspected"] [] Text OKTA, "Whether Okta suspects a threat";
    OktaRequestUri "debugContext.debugData.requestUri" ["debugcontext.debugdata.requesturi"] [] Text OKTA, "Path of the request";
    OktaSession "authenticationContext.externalSessionId" [] [] Text OKTA, "Okta's session";
    OktaCredential "authenticationContext.credentialType" [] [] Text OKTA, "For example `PASSWORD`, `OTP`";
    // Keycloak
    KeycloakType "type" [] [] Text KEYCLOAK, "Of a user event, for example `LOGIN_ERROR`";
    KeycloakRealm "realmId" ["realmName"] [] Text KEYCLOAK, "Realm";
    KeycloakClient "clientId" [] [] Text KEYCLOAK, "Client that was logged in to";
    KeycloakUserId "userId" [] [] Text KEYCLOAK, "Id of the user";
    KeycloakError "error" [] [] Text KEYCLOAK, "For example `invalid_user_credentials`";
    KeycloakUsername "details.username" [] [] Text KEYCLOAK, "Name given";
    KeycloakMethod "details.auth_method" [] [] Text KEYCLOAK, "For example `openid-connect`";
    KeycloakProvider "details.identity_provider" [] [] Text KEYCLOAK, "Identity provider behind Keycloak";
    KeycloakRedirect "details.redirect_uri" [] [] Text KEYCLOAK, "Where the login leads";
    KeycloakGrant "details.grant_type" [] [] Text KEYCLOAK, "OAuth grant";
    KeycloakOperation "operationType" [] [] Text KEYCLOAK, "Of an admin event: `CREATE`, `UPDATE`, `DELETE`, `ACTION`";
    KeycloakResourceType "resourceType" [] [] Text KEYCLOAK, "For example `REALM_ROLE_MAPPING`";
    KeycloakResourcePath "resourcePath" [] [] Text KEYCLOAK, "For example `users/…/role-mappings/realm`";
    KeycloakAdminUser "authDetails.userId" [] [] Text KEYCLOAK, "Which admin";
    KeycloakAdminClient "authDetails.clientId" [] [] Text KEYCLOAK, "Through which client";
    KeycloakAdminRealm "authDetails.realmId" ["authDetails.realmName"] [] Text KEYCLOAK, "Realm of the admin";
    // Entra ID sign-ins
    EntraResultType "ResultType" ["resultType", "status.errorCode", "Status.errorCode"] [] Number ENTRA, "Error code, 0 for success";
    EntraResult "ResultDescription" ["Resultdescription", "resultDescription", "status.failureReason"] [] Text ENTRA, "The same for people";
    EntraStatus "Status" [] [] Text ENTRA, "`Success` or `Failure`";
    EntraUser "UserPrincipalName" ["userPrincipalName"] [] Text ENTRA, "Who";
    EntraUserType "UserType" ["userType"] [] Text ENTRA, "`member` or `guest`";
    EntraAppId "AppId" ["appId"] [] Text ENTRA, "Id of the application";
    EntraClientApp "ClientAppUsed" ["clientAppUsed", "ClientApp"] [] Text ENTRA, "For example `Browser`, `IMAP4`";
    EntraResource "ResourceDisplayName" ["resourceDisplayName"] [] Text ENTRA, "What the token is for";
    EntraAccess "ConditionalAccessStatus" ["conditionalAccessStatus"] [] Text ENTRA, "`success`, `failure` or `notApplied`";
    EntraRequirement "AuthenticationRequirement" ["authenticationRequirement"] [] Text ENTRA, "`singleFactorAuthentication` or `multiFactorAuthentication`";
    EntraProtocol "AuthenticationProtocol" ["authenticationProtocol"] [] Text ENTRA, "For example `deviceCode`, `ropc`";
    EntraRiskState "RiskState" ["riskState"] [] Text ENTRA, "For example `atRisk`";
    EntraRiskLevel "RiskLevelDuringSignIn" ["riskLevelDuringSignIn"] [] Text ENTRA, "`none`, `low`, `medium`, `high`";
    EntraRiskAggregated "RiskLevelAggregated" ["riskLevelAggregated"] [] Text ENTRA, "The same over time";
    EntraRiskTypes "RiskEventTypes" ["riskEventTypes", "riskEventTypes_v2", "riskEventType"] [] List ENTRA, "For example `unfamiliarFeatures`";
    EntraInteractive "IsInteractive" ["isInteractive"] [] Bool ENTRA, "Whether a person was there";
    EntraTrustType "DeviceDetail.trusttype" ["DeviceDetail.trustType", "deviceDetail.trustType"] [] Text ENTRA, "How the device is joined; empty for an unknown one";
    EntraDeviceOs "DeviceDetail.operatingSystem" ["deviceDetail.operatingSystem"] [] Text ENTRA, "Operating system, as the client gives it";
    EntraCompliant "DeviceDetail.isCompliant" ["deviceDetail.isCompliant"] [] Bool ENTRA, "Whether the device is compliant";
    EntraTokenIssuer "TokenIssuerType" ["tokenIssuerType"] [] Text ENTRA, "For example `AzureAD`";
    // flows
    FlowVerdict "FlowVerdict" ["action"] [] Text FLOWS, "`forwarded` or `dropped`";
    FlowDirection "FlowDirection" ["direction"] [] Text FLOWS, "`ingress` or `egress`, from where it was seen";
    FlowDropReason "DropReason" [] [] Text HUBBLE, "Why it was dropped, for example `POLICY_DENIED`";
    FlowSourceNamespace "SourceNamespace" [] [] Text HUBBLE.union(OTHER_FLOW), "Kubernetes namespace of the source";
    FlowSourcePod "SourcePod" [] [] Text HUBBLE.union(OTHER_FLOW), "Pod of the source";
    FlowSourceWorkload "SourceWorkload" [] [] Text HUBBLE, "Its workload";
    FlowSourceLabels "SourceLabels" [] [] List HUBBLE, "Cilium's labels of the source: `reserved:world` is outside of the cluster";
    FlowDestinationNamespace "DestinationNamespace" [] [] Text HUBBLE.union(OTHER_FLOW), "Kubernetes namespace of the destination";
    FlowDestinationPod "DestinationPod" [] [] Text HUBBLE.union(OTHER_FLOW), "Pod of the destination";
    FlowDestinationWorkload "DestinationWorkload" [] [] Text HUBBLE, "Its workload";
    FlowDestinationLabels "DestinationLabels" [] [] List HUBBLE, "Cilium's labels of the destination";
    FlowDestinationNames "DestinationHostname" ["dest_host"] [] List HUBBLE, "DNS names that led to the destination's address";
    FlowHttpMethod "HttpMethod" ["cs-method"] [] Text HUBBLE, "Method of a request that Hubble saw";
    FlowHttpUrl "HttpUrl" ["c-uri"] [] Keyword HUBBLE, "URL of a request that Hubble saw";
    FlowPackets "Packets" [] [] Number FLOWS, "Packets";
    FlowAccount "AccountId" ["account-id"] [] Text VPC.union(OTHER_FLOW), "AWS account; GCP project";
    FlowInterface "InterfaceId" ["interface-id"] [] Text VPC, "Network interface";
    FlowInstance "InstanceId" ["instance-id"] [] Text VPC.union(OTHER_FLOW), "Instance";
    FlowService "DestinationService" ["pkt-dst-aws-service"] [] Text VPC, "AWS service behind the destination";
    FlowExporter "Exporter" [] [] Address OTHER_FLOW, "Address of the NetFlow or IPFIX exporter";
    FlowTcpFlags "TcpFlags" ["tcpControlBits"] [] Number OTHER_FLOW, "TCP flags of all packets of the flow together (RFC 9293): 2 is SYN alone, an attempt that nobody answered or somebody refused";
    FlowSeconds "DurationSeconds" [] [] Number OTHER_FLOW, "From the flow's first packet to its last";
    // security events (RFC 8417)
    SecurityEvents "SecurityEvent" [] [] List only(&[Authentication]), "Kinds of a security event: `credential-compromise`, `session-revoked`, `prov:create:full` …";
    // AWS CloudTrail
    CloudEvent "eventName" ["event_name"] [] Text TRAIL, "The call, for example `StopLogging`";
    CloudSource "eventSource" ["event_source"] [] Text TRAIL, "Of which service, for example `iam.amazonaws.com`";
    CloudRegion "awsRegion" [] [] Text TRAIL, "Region";
    CloudError "errorCode" [] [] Text TRAIL, "Why it failed; absent where it did not";
    CloudErrorMessage "errorMessage" [] [] Text TRAIL, "The same for people";
    CloudReadOnly "readOnly" [] [] Bool TRAIL, "Whether nothing was changed";
    CloudAccount "recipientAccountId" [] [] Text TRAIL, "Account in whose trail it stands";
    CloudUserType "userIdentity.type" ["userIdentity.Type"] [] Text TRAIL, "Who: `Root`, `IAMUser`, `AssumedRole`, `AWSService` …";
    CloudUserArn "userIdentity.arn" [] [] Text TRAIL, "Who, in full";
    CloudUserName "userIdentity.userName" [] [] Text TRAIL, "Name of an IAM user";
    CloudUserAccount "userIdentity.accountId" [] [] Text TRAIL, "Account of who asked";
    CloudInvokedBy "userIdentity.invokedBy" [] [] Text TRAIL, "AWS service that asked for somebody";
    CloudIssuer "userIdentity.sessionContext.sessionIssuer.arn" [] [] Text TRAIL, "Role or user behind a session";
    CloudMfa "userIdentity.sessionContext.attributes.mfaAuthenticated" [] [] Bool TRAIL, "Whether the session began with a second factor";
    CloudLoginMfa "additionalEventData.MFAUsed" ["additionalEventData.MfaUsed"] [] Text TRAIL, "Whether a console login had a second factor: `Yes` or `No`";
    CloudLogin "responseElements.ConsoleLogin" [] [] Text TRAIL, "`Success` or `Failure`";
    CloudTargetUser "requestParameters.userName" [] [] Text TRAIL, "User that is to be changed";
    CloudTargetRole "requestParameters.roleName" [] [] Text TRAIL, "Role that is to be changed";
    CloudTargetGroup "requestParameters.groupName" [] [] Text TRAIL, "Group that is to be changed";
    CloudPolicyArn "requestParameters.policyArn" [] [] Text TRAIL, "Policy that is attached or detached";
    CloudPolicyDocument "requestParameters.policyDocument" [] [] Text TRAIL, "Policy that is written, as JSON";
    CloudName "requestParameters.name" [] [] Text TRAIL, "Name of what is to be changed, for example of a trail";
    CloudSecurityGroup "requestParameters.groupId" [] [] Text TRAIL, "Security group that is to be changed";
    CloudNetworks "requestParameters.ipPermissions.items.ipRanges.items.cidrIp" ["requestParameters.cidrIp"] [] List TRAIL, "Networks that a security group lets in, IPv6 ones too";
    CloudPorts "requestParameters.ipPermissions.items.fromPort" ["requestParameters.fromPort"] [] List TRAIL, "First port of each range that it lets in; absent for all ports";
    CloudBucket "requestParameters.bucketName" [] [] Text TRAIL, "Bucket";
}

impl Field {
    /// Its row of the table.
    #[must_use]
    pub fn spec(self) -> &'static FieldSpec {
        &Self::TABLE[self as usize]
    }

    /// Its Sigma name.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.spec().name
    }

    /// Its Sigma name, as records have it.
    #[must_use]
    pub(super) fn fact(self) -> FactName {
        Self::FACTS[self as usize]
    }

    /// Whether events of the category may have it.
    #[must_use]
    pub fn exists_in(self, category: Category) -> bool {
        self.spec().categories.contains(category)
    }
}

impl Category {
    /// Fields that its events may have, in the order of the table.
    pub fn fields(self) -> impl Iterator<Item = Field> {
        Field::ALL.iter().copied().filter(move |field| field.exists_in(self))
    }

    /// Fields that keywords look into.
    pub fn keyword_fields(self) -> impl Iterator<Item = Field> {
        self.fields().filter(|field| field.spec().kind == Kind::Keyword)
    }
}
