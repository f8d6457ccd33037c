//! What each variable of an expression is made of; docs/playbooks.md lists it with its meaning, and a test compares it with the facts.

/// What a value is, as far as it is known before anything is evaluated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    /// Anything.
    Unknown,
    /// The entry of a list that has none.
    Nothing,
    /// True or false.
    Truth,
    /// A number of any sort: CEL compares them with one another.
    Number,
    /// A text.
    Text,
    /// A text that is always one of these.
    OneOf(&'static [&'static str]),
    /// Bytes.
    Bytes,
    /// Null, which may be compared with everything.
    Null,
    /// A list, with what its entries are.
    List(&'static Kind),
    /// A mapping with any keys, with what its values are.
    Map(&'static Kind),
    /// A mapping with certain keys.
    Record(&'static Record),
}

/// A mapping whose keys are known.
#[derive(Debug, PartialEq)]
pub(crate) struct Record {
    /// How messages call it.
    pub(crate) name: &'static str,
    /// Its keys; some are there for some kinds of events only.
    pub(crate) fields: &'static [(&'static str, Kind)],
}

impl Record {
    pub(super) fn field(&self, name: &str) -> Option<Kind> {
        self.fields.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
    }

    pub(super) fn names(&self) -> Vec<&'static str> {
        self.fields.iter().map(|(name, _)| *name).collect()
    }
}

/// The variable `name`.
pub(crate) fn variable(name: &str) -> Kind {
    match name {
        "incident" => Kind::Record(&INCIDENT),
        "findings" => Kind::List(&RECORDS[0]),
        "finding" => Kind::Record(&FINDING),
        "process" => Kind::Record(&PROCESS),
        "node" => Kind::Record(&NODE),
        "steps" => Kind::Map(&RECORDS[4]),
        _ => Kind::Unknown,
    }
}

/// Those that lists are made of.
pub(super) static RECORDS: [Kind; 5] = [
    Kind::Record(&FINDING),
    Kind::Record(&PROCESS),
    Kind::Record(&EVENT),
    Kind::Record(&INTELLIGENCE),
    Kind::Record(&STEP),
];

const TEXTS: Kind = Kind::List(&Kind::Text);
const LEVEL: Kind = Kind::OneOf(&["informational", "low", "medium", "high", "critical"]);
/// `model::FdKind`.
const DESCRIPTOR: Kind = Kind::OneOf(&["unknown", "closed", "file", "pipe", "socket", "device"]);

static INCIDENT: Record = Record {
    name: "`incident`",
    fields: &[
        ("id", Kind::Text),
        ("title", Kind::Text),
        ("severity", LEVEL),
        ("techniques", TEXTS),
        ("finding_count", Kind::Number),
        ("intelligence", Kind::List(&Kind::Record(&INTELLIGENCE))),
        ("intelligence_confidence", Kind::Number),
        ("sensitivity", TEXTS),
        ("classes", TEXTS),
        ("secrets", TEXTS),
        ("exposure", TEXTS),
        ("peers", TEXTS),
    ],
};

static INTELLIGENCE: Record = Record {
    name: "an entry of `incident.intelligence`",
    fields: &[
        ("observed", Kind::Text),
        ("indicator", Kind::Text),
        ("relation", Kind::Text),
        ("feed", Kind::Text),
        ("confidence", Kind::Number),
    ],
};

static FINDING: Record = Record {
    name: "`finding`",
    fields: &[
        ("id", Kind::Text),
        ("rule", Kind::Text),
        ("title", Kind::Text),
        ("level", LEVEL),
        ("techniques", TEXTS),
        ("tactics", TEXTS),
        ("count", Kind::Number),
        ("matched", Kind::Map(&Kind::Text)),
        ("event", Kind::Record(&EVENT)),
        ("process", Kind::Record(&PROCESS)),
    ],
};

static EVENT: Record = Record {
    name: "`finding.event`",
    fields: &[
        ("kind", Kind::Text),
        ("exposure", Kind::Text),
        ("requested", Kind::Text),
        ("path", Kind::Text),
        ("from", Kind::Text),
        ("remote_address", Kind::Text),
        ("remote_port", Kind::Number),
        ("name", Kind::Text),
        ("source", Kind::Text),
        ("principal", Kind::Record(&PRINCIPAL)),
        ("origin", Kind::Text),
        ("object", Kind::Record(&OBJECT)),
        ("fields", Kind::Map(&Kind::Unknown)),
    ],
};

static PRINCIPAL: Record =
    Record { name: "`finding.event.principal`", fields: &[("realm", Kind::Text), ("name", Kind::Text)] };

static OBJECT: Record = Record {
    name: "`finding.event.object`",
    fields: &[("kind", Kind::Text), ("namespace", Kind::Text), ("name", Kind::Text)],
};

static PROCESS: Record = Record {
    name: "`process`",
    fields: &[
        ("pid", Kind::Number),
        ("start", Kind::Number),
        ("exe", Kind::Text),
        ("backing", Kind::OneOf(&["file", "memfd", "deleted"])),
        ("command_line", Kind::Text),
        ("args", TEXTS),
        ("cwd", Kind::Text),
        ("uid", Kind::Number),
        ("euid", Kind::Number),
        ("tty", Kind::Text),
        ("stdio", Kind::Record(&STDIO)),
        ("cgroup", Kind::Record(&CGROUP)),
        ("workload", Kind::Record(&WORKLOAD)),
    ],
};

static STDIO: Record = Record {
    name: "`process.stdio`",
    fields: &[("stdin", DESCRIPTOR), ("stdout", DESCRIPTOR), ("stderr", DESCRIPTOR)],
};

static CGROUP: Record =
    Record { name: "`process.cgroup`", fields: &[("id", Kind::Number), ("path", Kind::Text)] };

static WORKLOAD: Record = Record {
    name: "`process.workload`",
    fields: &[
        ("kind", Kind::OneOf(&["container", "unit", "host", "unresolved"])),
        ("unit", Kind::Text),
        ("container", Kind::Text),
        ("pod", Kind::Text),
    ],
};

static NODE: Record = Record { name: "`node`", fields: &[("name", Kind::Text)] };

/// What a step has.
static STEP: Record = Record {
    name: "a step",
    fields: &[
        ("state", Kind::Text),
        ("succeeded", Kind::Truth),
        ("failed", Kind::Truth),
        ("outputs", Kind::Map(&Kind::Unknown)),
        ("observed", TEXTS),
    ],
};
