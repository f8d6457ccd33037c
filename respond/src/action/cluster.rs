//! The catalogue's part of the API server: one row for each action.

use crds::{Effect, Form, Parameters, TargetKind};
use model::{
    Account, ClusterAction, CollectEvidence, DenyImage, IsolatePod, IsolationForm, Label, MemoryCapture,
    Notify, RestoreObject, Scale, ScanImage, Taint, TaintEffect,
};

use super::Purpose;

/// An action in the API server that a playbook can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each is the model's action of the same name")]
pub enum ClusterKind {
    IsolatePod,
    Label,
    DetachPod,
    EvictPod,
    DeletePod,
    Cordon,
    Taint,
    Scale,
    PauseRollout,
    Suspend,
    RollBackImage,
    SubtractSubject,
    InvalidateTokens,
    DenyExec,
    DenyImage,
    DenyWrites,
    RestoreObject,
    ClampQuota,
    SuspendSync,
    CollectEvidence,
    ScanImage,
    Notify,
}

/// What is fixed about one of them.
struct Row {
    /// Kinds of target; the first is the default.
    targets: &'static [TargetKind],
    parameters: &'static [&'static str],
    purpose: Purpose,
    /// MITRE D3FEND technique.
    d3fend: &'static str,
    /// MITRE ATT&CK techniques that it is an answer to.
    attack: &'static [&'static str],
}

impl ClusterKind {
    /// All, in the order of docs/actions.md.
    pub const ALL: [Self; 22] = [
        Self::IsolatePod,
        Self::Label,
        Self::DetachPod,
        Self::EvictPod,
        Self::DeletePod,
        Self::Cordon,
        Self::Taint,
        Self::Scale,
        Self::PauseRollout,
        Self::Suspend,
        Self::RollBackImage,
        Self::SubtractSubject,
        Self::InvalidateTokens,
        Self::DenyExec,
        Self::DenyImage,
        Self::DenyWrites,
        Self::RestoreObject,
        Self::ClampQuota,
        Self::SuspendSync,
        Self::CollectEvidence,
        Self::ScanImage,
        Self::Notify,
    ];

    /// What it is for.
    #[must_use]
    pub fn purpose(self) -> Purpose {
        self.row().purpose
    }

    /// MITRE D3FEND technique.
    #[must_use]
    pub fn d3fend(self) -> &'static str {
        self.row().d3fend
    }

    /// MITRE ATT&CK techniques that it is an answer to.
    #[must_use]
    pub fn attack(self) -> &'static [&'static str] {
        self.row().attack
    }

    /// Kinds of target that it takes; the first is the default.
    #[must_use]
    pub fn targets(self) -> &'static [TargetKind] {
        self.row().targets
    }

    /// Parameters that it takes.
    #[must_use]
    pub fn parameters(self) -> &'static [&'static str] {
        self.row().parameters
    }

    fn row(self) -> Row {
        use TargetKind::{Account, Channel, Namespace, Node, Object, Pod, Workload};
        let row = |targets, parameters, purpose, d3fend, attack| Row {
            targets,
            parameters,
            purpose,
            d3fend,
            attack,
        };
        match self {
            Self::IsolatePod => row(
                &[Pod],
                &["form"],
                Purpose::Contain,
                "D3-NI",
                &["T1041", "T1046", "T1071", "T1496.001", "T1572"],
            ),
            Self::Label => {
                row(&[Pod, Workload, Namespace, Node, Object], &["labels"], Purpose::Mark, "D3-AM", &[])
            }
            Self::DetachPod => row(&[Pod], &[], Purpose::Contain, "D3-EI", &["T1190", "T1505.003", "T1610"]),
            Self::EvictPod => row(&[Pod], &[], Purpose::Eradicate, "D3-PT", &["T1496.001", "T1610"]),
            Self::DeletePod => {
                row(&[Pod], &[], Purpose::Eradicate, "D3-PT", &["T1496.001", "T1550.001", "T1610"])
            }
            Self::Cordon => row(&[Node], &[], Purpose::Contain, "D3-EI", &["T1610", "T1611"]),
            Self::Taint => row(&[Node], &["effect"], Purpose::Contain, "D3-EI", &["T1610", "T1611"]),
            Self::Scale => row(
                &[Workload],
                &["replicas"],
                Purpose::Contain,
                "D3-PT",
                &["T1496.001", "T1610", "T1543.005"],
            ),
            Self::PauseRollout => {
                row(&[Workload], &[], Purpose::Contain, "D3-EI", &["T1195.002", "T1610", "T1677"])
            }
            Self::Suspend => row(&[Workload], &[], Purpose::Contain, "D3-EI", &["T1053.007", "T1496.001"]),
            Self::RollBackImage => {
                row(&[Workload], &[], Purpose::Eradicate, "D3-RS", &["T1195.002", "T1204.003", "T1525"])
            }
            Self::SubtractSubject => row(
                &[Account],
                &[],
                Purpose::Contain,
                "D3-UAP",
                &["T1078.004", "T1098.006", "T1528", "T1552.007", "T1613"],
            ),
            Self::InvalidateTokens => {
                row(&[Account], &[], Purpose::Eradicate, "D3-CR", &["T1528", "T1550.001", "T1552.007"])
            }
            Self::DenyExec => row(&[Namespace], &[], Purpose::Contain, "D3-ACH", &["T1059.013", "T1609"]),
            Self::DenyImage => {
                row(&[Namespace], &["image"], Purpose::Contain, "D3-EDL", &["T1204.003", "T1525", "T1610"])
            }
            Self::DenyWrites => row(
                &[Account],
                &[],
                Purpose::Contain,
                "D3-UAP",
                &["T1078.004", "T1098.006", "T1485", "T1543.005", "T1610"],
            ),
            Self::RestoreObject => {
                row(&[Object], &[], Purpose::Contain, "D3-RC", &["T1098.006", "T1557", "T1562.001"])
            }
            Self::ClampQuota => {
                row(&[Namespace], &[], Purpose::Contain, "D3-ACH", &["T1496", "T1499", "T1610"])
            }
            Self::SuspendSync => row(&[Workload, Object, Pod], &[], Purpose::Mark, "D3-ACH", &["T1677"]),
            Self::CollectEvidence => row(&[Pod], &["lines", "memory"], Purpose::Evidence, "D3-PA", &[]),
            Self::ScanImage => row(
                &[Pod],
                &["image"],
                Purpose::Evidence,
                "D3-AVE",
                &["T1190", "T1204.003", "T1525", "T1610"],
            ),
            Self::Notify => row(&[Channel], &["channel", "message"], Purpose::Tell, "D3-OTP", &[]),
        }
    }

    /// One with parameters of no importance.
    pub(super) fn example(self) -> ClusterAction {
        match self {
            Self::IsolatePod => ClusterAction::IsolatePod(IsolatePod::default()),
            Self::Label => ClusterAction::Label(Label::default()),
            Self::DetachPod => ClusterAction::DetachPod,
            Self::EvictPod => ClusterAction::EvictPod,
            Self::DeletePod => ClusterAction::DeletePod,
            Self::Cordon => ClusterAction::Cordon,
            Self::Taint => ClusterAction::Taint(Taint::default()),
            Self::Scale => ClusterAction::Scale(Scale::default()),
            Self::PauseRollout => ClusterAction::PauseRollout,
            Self::Suspend => ClusterAction::Suspend,
            Self::RollBackImage => ClusterAction::RollBackImage,
            Self::SubtractSubject => ClusterAction::SubtractSubject,
            Self::InvalidateTokens => ClusterAction::InvalidateTokens,
            Self::DenyExec => ClusterAction::DenyExec,
            Self::DenyImage => ClusterAction::DenyImage(DenyImage { image: String::new() }),
            Self::DenyWrites => ClusterAction::DenyWrites,
            Self::RestoreObject => ClusterAction::RestoreObject(RestoreObject::default()),
            Self::ClampQuota => ClusterAction::ClampQuota,
            Self::SuspendSync => ClusterAction::SuspendSync,
            Self::CollectEvidence => ClusterAction::CollectEvidence(CollectEvidence::default()),
            Self::ScanImage => ClusterAction::ScanImage(ScanImage { image: String::new() }),
            Self::Notify => ClusterAction::Notify(Notify::default()),
        }
    }

    /// The action with its parameters. `None`: an image or labels are needed, and none are known.
    pub(super) fn build(self, with: &Parameters) -> Option<ClusterAction> {
        Some(match self {
            Self::IsolatePod => ClusterAction::IsolatePod(IsolatePod {
                form: match with.form {
                    None | Some(Form::Auto) => IsolationForm::Auto,
                    Some(Form::Cilium) => IsolationForm::Cilium,
                    Some(Form::Admin) => IsolationForm::Admin,
                    Some(Form::Plain) => IsolationForm::Plain,
                },
            }),
            Self::Label => {
                let pairs = with.labels.iter().flatten().filter_map(|label| label.split_once('='));
                let labels: std::collections::BTreeMap<String, String> =
                    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
                if labels.is_empty() {
                    return None;
                }
                ClusterAction::Label(Label { labels })
            }
            Self::Taint => ClusterAction::Taint(Taint {
                effect: match with.effect {
                    None | Some(Effect::NoSchedule) => TaintEffect::NoSchedule,
                    Some(Effect::PreferNoSchedule) => TaintEffect::PreferNoSchedule,
                },
            }),
            Self::Scale => ClusterAction::Scale(Scale { replicas: with.replicas.unwrap_or(0) }),
            Self::DenyImage => ClusterAction::DenyImage(DenyImage { image: with.image.clone()? }),
            Self::CollectEvidence => {
                let usual = CollectEvidence::default();
                ClusterAction::CollectEvidence(CollectEvidence {
                    lines: with.lines.unwrap_or(usual.lines),
                    memory: super::memory(with),
                })
            }
            Self::ScanImage => ClusterAction::ScanImage(ScanImage { image: with.image.clone()? }),
            Self::Notify => {
                ClusterAction::Notify(Notify { message: with.message.clone().unwrap_or_default() })
            }
            plain => plain.example(),
        })
    }
}

/// What is added to an action's line for people.
pub(super) fn extra(action: &ClusterAction) -> String {
    match action {
        ClusterAction::IsolatePod(isolate) if isolate.form != IsolationForm::Auto => {
            format!(" by {:?}", isolate.form)
        }
        ClusterAction::Label(label) => {
            let all: Vec<String> =
                label.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
            format!(" with {}", all.join(", "))
        }
        ClusterAction::Taint(taint) => format!(": {:?}", taint.effect),
        ClusterAction::Scale(scale) => format!(" to {}", scale.replicas),
        ClusterAction::DenyImage(DenyImage { image }) | ClusterAction::ScanImage(ScanImage { image }) => {
            format!(": {image}")
        }
        ClusterAction::CollectEvidence(CollectEvidence { memory: MemoryCapture::Private, .. }) => {
            " with memory".into()
        }
        _ => String::new(),
    }
}

/// Whether an account is one that the cluster itself works with.
#[must_use]
pub(crate) fn is_system(account: &Account) -> bool {
    use model::AccountKind;
    match account.kind {
        AccountKind::ServiceAccount => false,
        AccountKind::User | AccountKind::Group => {
            account.name.starts_with("system:") && account.name != "system:anonymous"
        }
    }
}
