//! Bytes of a log to records, one format a file. Pure: no clock, no file; what comes in is hostile (I11).
//!
//! A record that cannot be read is [`Rejected`] with the place and the reason, and never stops those behind it. Lines that are none of ours
//! (another program's, a header) give nothing. Identities come from the log where it has them, so that a log read twice gives the same events.

mod cloudtrail;
mod entra;
mod events;
mod gcp;
mod hubble;
mod json;
mod keycloak;
mod kubernetes;
mod linux;
mod netflow;
mod ocsf;
mod okta;
mod syslog;
mod time;
mod vpc;

use detect::schema::RecordBuilder;
use model::{Record, Timestamp, short_hash};

pub use time::{Zone, ZoneError};

/// Longest record, in bytes. The API server's own limit for a request is 3 MiB; what is recorded of one is far less.
pub const MAX_RECORD: usize = 1 << 20;

/// Records in one list (an `EventList`, a page of Okta's), at most.
pub const MAX_LIST: usize = 10_000;

/// What a log is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    /// audit.k8s.io/v1, one `Event` or `EventList` a line.
    KubernetesAudit,
    /// auth.log: sshd, sudo, PAM; RFC 3164, RFC 5424 or RFC 3339 lines.
    Auth,
    /// The same from `journalctl -o json`.
    Journal,
    /// Okta's System Log, an event or a page a line.
    Okta,
    /// Keycloak's user and admin events.
    Keycloak,
    /// Entra ID's sign-ins, as Graph gives them or as diagnostic settings export them.
    Entra,
    /// `hubble export`, `hubble observe -o json`.
    Hubble,
    /// AWS VPC flow log lines, with a header for other fields than version 2's.
    VpcFlow,
    /// OCSF classes 3002 (authentication) and 4001 (network activity).
    Ocsf,
    /// AWS CloudTrail, an event or a file's `Records` a line.
    CloudTrail,
    /// GCP's VPC flow logs, as Cloud Logging exports them.
    GcpFlow,
    /// Security events (RFC 8417: OpenID's shared signals and SCIM's provisioning events) as JSON.
    Events,
    /// Flows of NetFlow 9 and IPFIX exporters, decoded.
    Netflow,
}

impl Format {
    /// All, in order.
    pub const ALL: [Self; 13] = [
        Self::KubernetesAudit,
        Self::Auth,
        Self::Journal,
        Self::Okta,
        Self::Keycloak,
        Self::Entra,
        Self::Hubble,
        Self::VpcFlow,
        Self::Ocsf,
        Self::CloudTrail,
        Self::GcpFlow,
        Self::Events,
        Self::Netflow,
    ];

    /// As `--source` calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::KubernetesAudit => "kubernetes-audit",
            Self::Auth => "auth",
            Self::Journal => "journal",
            Self::Okta => "okta",
            Self::Keycloak => "keycloak",
            Self::Entra => "entra",
            Self::Hubble => "hubble",
            Self::VpcFlow => "vpc-flow",
            Self::Ocsf => "ocsf",
            Self::CloudTrail => "cloudtrail",
            Self::GcpFlow => "gcp-flow",
            Self::Events => "security-events",
            Self::Netflow => "netflow",
        }
    }

    /// By its [`Format::name`].
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Whether its records are JSON texts, so that files of them can be told apart without being read.
    #[must_use]
    pub fn is_json(self) -> bool {
        !matches!(self, Self::Auth | Self::Journal | Self::VpcFlow | Self::Netflow)
    }

    /// Whether there is somebody who posts it.
    #[must_use]
    pub fn is_posted(self) -> bool {
        self.is_json() && !matches!(self, Self::Hubble)
    }

    /// Under which paths of keys lists of records stand.
    pub(super) fn wrappers(self) -> &'static [&'static str] {
        match self {
            Self::KubernetesAudit => &["items"],
            Self::Okta => &["data.events"],
            Self::Entra => &["value", "records"],
            Self::CloudTrail => &["Records"],
            _ => &[],
        }
    }
}

/// A record and when it happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    /// When, by the clock of who tells it.
    pub time: Timestamp,
    /// What.
    pub record: Record,
}

/// Why a record is not taken, for its dead letter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {reason}")]
pub struct Rejected {
    /// Where in the record: a path, a column.
    pub place: String,
    /// Why.
    pub reason: String,
}

impl Rejected {
    fn at(place: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { place: place.into(), reason: reason.into() }
    }
}

/// Where a line stands, for what the line itself does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Where the line begins in it.
    pub offset: u64,
    /// When it is read: for log lines without a year.
    pub now: Timestamp,
}

/// Reads lines of one format; knows the header where the format has one.
#[derive(Debug, Clone)]
pub struct Reader {
    format: Format,
    zone: Zone,
    columns: vpc::Columns,
}

impl Reader {
    /// A reader of `format`; times that name no zone are of `zone`.
    #[must_use]
    pub fn new(format: Format, zone: Zone) -> Self {
        Self { format, zone, columns: vpc::Columns::default() }
    }

    /// What it reads.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// A file is read from its middle: its first line may be a header.
    pub fn first_line(&mut self, line: &[u8]) {
        self.columns = vpc::Columns::default();
        if self.format == Format::VpcFlow
            && let Ok(line) = std::str::from_utf8(without_mark(line))
            && let Some(columns) = vpc::Columns::header(line)
        {
            self.columns = columns;
        }
    }

    /// Appends the records of a line. Good records of a list are kept where another of them is wrong; the first that is wrong is told.
    ///
    /// # Errors
    /// Why the line, or one record of it, is not taken.
    pub fn read(&mut self, line: &[u8], place: Place, told: &mut Vec<Told>) -> Result<(), Rejected> {
        let from = told.len();
        let outcome = self.read_unnamed(line, place, told);
        for (number, one) in told.iter_mut().skip(from).enumerate() {
            name(&mut one.record, line, place, number);
        }
        outcome
    }

    /// As [`Reader::read`], for whoever calls [`name`] on those records of which the identity matters.
    ///
    /// # Errors
    /// As [`Reader::read`].
    pub(crate) fn read_unnamed(
        &mut self,
        line: &[u8],
        place: Place,
        told: &mut Vec<Told>,
    ) -> Result<(), Rejected> {
        if line.len() > MAX_RECORD {
            return Err(Rejected::at("line", format!("{} bytes, at most {MAX_RECORD}", line.len())));
        }
        let line = record_of(line);
        if line.is_empty() {
            return Ok(());
        }
        match self.format {
            Format::KubernetesAudit => kubernetes::read(line, told),
            Format::Auth => syslog::read_line(line, place.now, &self.zone, told),
            Format::Journal => syslog::read_journal(line, told),
            Format::Okta => json::each(line, &[], okta::read, told),
            Format::Keycloak => json::each(line, &[], keycloak::read, told),
            Format::Entra => json::each(line, &["value", "records"], entra::read, told),
            Format::Hubble => json::each(line, &[], hubble::read, told),
            Format::VpcFlow => self.columns.read(line, told),
            Format::Ocsf => json::each(line, &[], ocsf::read, told),
            Format::CloudTrail => json::each(line, &["Records"], cloudtrail::read, told),
            Format::GcpFlow => json::each(line, &[], gcp::read, told),
            Format::Events => json::each(line, &[], events::read, told),
            Format::Netflow => netflow::read(line, told),
        }
    }
}

/// Gives a record an identity where its log gives it none: what it says and where it stands, alike whenever it is read, whatever the file is
/// called by then. It is the record `number` of `line`.
pub(crate) fn name(record: &mut Record, line: &[u8], place: Place, number: usize) {
    if record.id.is_empty() {
        let (offset, number) = (place.offset.to_string(), number.to_string());
        let text = String::from_utf8_lossy(record_of(line));
        record.id = short_hash([offset.as_str(), number.as_str(), text.as_ref()], 12);
    }
}

/// What of a line is a record.
fn record_of(line: &[u8]) -> &[u8] {
    without_mark(line).trim_ascii()
}

/// Without the mark that some programs put in front of UTF-8 (U+FEFF): the record behind it is as good as any.
pub(super) fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

/// `success` or `failure`.
fn outcome_word(success: bool) -> &'static str {
    if success { "success" } else { "failure" }
}

/// A record that is whole.
fn told(builder: RecordBuilder, time: Timestamp) -> Told {
    Told { time, record: builder.build() }
}

#[cfg(test)]
mod tests;
