//! Where [`model`] becomes bytes and bytes become [`model`]: the only module that knows both.

use model::{
    AgentEpoch, CommandOutcome, Down, NodeCommand, NodeGuard, NodeId, NodeStatus, Report, RulesPart, Seq, Up,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    identity::is_node_name,
    link::{FrameError, MAX_FRAME, PROTOCOL},
    proto::{self, agent_frame, controller_frame},
};

/// Version of every JSON body. It changes when an old reader would misread a new body; a mere added field does not.
const BODY_VERSION: u32 = 1;

/// What stands between two bodies and [`MAX_FRAME`]: envelope fields, of which keys are the longest.
const ENVELOPE: usize = 4096;

/// A frame on its way up, as the controller's end sees it.
pub(crate) fn up_from_frame(frame: proto::AgentFrame) -> Result<Up, FrameError> {
    match frame.frame.ok_or(FrameError::Unknown)? {
        agent_frame::Frame::Hello(hello) => {
            if hello.protocol != PROTOCOL {
                return Err(FrameError::Protocol { found: hello.protocol });
            }
            if !is_node_name(&hello.node) {
                return Err(FrameError::NodeName(hello.node.chars().take(256).collect()));
            }
            Ok(Up::Hello { node: NodeId::new(hello.node), epoch: AgentEpoch(hello.epoch) })
        }
        agent_frame::Frame::Report(report) => {
            let body = read::<Report>("report", report.body)?;
            Ok(Up::Report { seq: Seq(report.seq), report: Box::new(body) })
        }
        agent_frame::Frame::Status(body) => {
            Ok(Up::Status(Box::new(read::<NodeStatus>("status", Some(body))?)))
        }
        agent_frame::Frame::Outcome(outcome) => {
            let body = read::<CommandOutcome>("outcome", outcome.body)?;
            if body.key.as_str() != outcome.key || body.phase != outcome.phase {
                return Err(FrameError::Contradiction {
                    kind: "outcome",
                    inner: format!("{}/{}", body.key, body.phase),
                    outer: format!("{}/{}", outcome.key, outcome.phase),
                });
            }
            Ok(Up::Outcome(Box::new(body)))
        }
    }
}

/// A message on its way up, as bytes.
pub(crate) fn frame_from_up(up: &Up) -> Result<proto::AgentFrame, FrameError> {
    let frame = match up {
        Up::Hello { node, epoch } => agent_frame::Frame::Hello(proto::Hello {
            protocol: PROTOCOL,
            node: node.as_str().to_owned(),
            epoch: epoch.0,
        }),
        Up::Report { seq, report } => {
            agent_frame::Frame::Report(proto::Report { seq: seq.0, body: Some(write("report", report)?) })
        }
        Up::Status(status) => agent_frame::Frame::Status(write("status", status)?),
        Up::Outcome(outcome) => agent_frame::Frame::Outcome(proto::Outcome {
            key: outcome.key.as_str().to_owned(),
            phase: outcome.phase.clone(),
            body: Some(write("outcome", outcome)?),
        }),
    };
    Ok(proto::AgentFrame { frame: Some(frame) })
}

/// What comes down, as the agent's end sees it.
#[derive(Debug)]
pub(crate) enum FromController {
    /// The connection is accepted by this leadership; 0 where there is no election.
    Welcome { epoch: u64 },
    /// For the agent.
    Down(Down),
    /// An outcome is in the controller's hands.
    OutcomeReceived { key: String, phase: String },
}

impl FromController {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Welcome { .. } => "a welcome",
            Self::Down(Down::Ack { .. }) => "an acknowledgement",
            Self::Down(Down::Command(_)) => "a command",
            Self::Down(Down::Rules(_)) => "rules",
            Self::Down(Down::Guard(_)) => "what is left alone",
            Self::OutcomeReceived { .. } => "a receipt",
        }
    }
}

/// A frame on its way down, as the agent's end sees it.
pub(crate) fn from_controller(frame: proto::ControllerFrame) -> Result<FromController, FrameError> {
    match frame.frame.ok_or(FrameError::Unknown)? {
        controller_frame::Frame::Welcome(welcome) if welcome.protocol == PROTOCOL => {
            Ok(FromController::Welcome { epoch: welcome.epoch })
        }
        controller_frame::Frame::Welcome(welcome) => Err(FrameError::Protocol { found: welcome.protocol }),
        controller_frame::Frame::Ack(ack) => Ok(FromController::Down(Down::Ack { upto: Seq(ack.upto) })),
        controller_frame::Frame::Command(body) => {
            let command = read::<NodeCommand>("command", Some(body))?;
            Ok(FromController::Down(Down::Command(Box::new(command))))
        }
        controller_frame::Frame::Rules(part) => {
            if part.parts > RulesPart::MAX_PARTS || part.part >= part.parts {
                return Err(FrameError::Parts { part: part.part, parts: part.parts });
            }
            let proto::RulesPart { digest, part, parts, data } = part;
            Ok(FromController::Down(Down::Rules(Box::new(RulesPart { digest, part, parts, data }))))
        }
        controller_frame::Frame::Guard(body) => {
            let guard = read::<NodeGuard>("guard", Some(body))?;
            if !guard.is_bounded() {
                return Err(FrameError::Unbounded { kind: "guard" });
            }
            Ok(FromController::Down(Down::Guard(Box::new(guard))))
        }
        controller_frame::Frame::OutcomeReceived(receipt) => {
            Ok(FromController::OutcomeReceived { key: receipt.key, phase: receipt.phase })
        }
    }
}

/// A message on its way down, as bytes.
pub(crate) fn frame_from_down(down: &Down) -> Result<proto::ControllerFrame, FrameError> {
    let frame = match down {
        Down::Ack { upto } => controller_frame::Frame::Ack(proto::Ack { upto: upto.0 }),
        Down::Command(command) => controller_frame::Frame::Command(write("command", command)?),
        Down::Rules(part) => {
            if part.data.len() + ENVELOPE > MAX_FRAME {
                return Err(FrameError::TooLarge { kind: "rules", size: part.data.len() });
            }
            let RulesPart { digest, part, parts, data } = part.as_ref().clone();
            controller_frame::Frame::Rules(proto::RulesPart { digest, part, parts, data })
        }
        Down::Guard(guard) => controller_frame::Frame::Guard(write("guard", guard)?),
    };
    Ok(proto::ControllerFrame { frame: Some(frame) })
}

/// The controller's first word.
pub(crate) fn welcome(epoch: u64) -> proto::ControllerFrame {
    proto::ControllerFrame {
        frame: Some(controller_frame::Frame::Welcome(proto::Welcome { protocol: PROTOCOL, epoch })),
    }
}

/// The controller's end has handed the outcome on.
pub(crate) fn outcome_received(outcome: &CommandOutcome) -> proto::ControllerFrame {
    proto::ControllerFrame {
        frame: Some(controller_frame::Frame::OutcomeReceived(proto::OutcomeReceived {
            key: outcome.key.as_str().to_owned(),
            phase: outcome.phase.clone(),
        })),
    }
}

fn read<T: DeserializeOwned>(kind: &'static str, body: Option<proto::Body>) -> Result<T, FrameError> {
    let body = body.ok_or(FrameError::Missing { kind, field: "body" })?;
    if body.version != BODY_VERSION {
        return Err(FrameError::BodyVersion { kind, found: body.version, expected: BODY_VERSION });
    }
    serde_json::from_slice(&body.json).map_err(|source| FrameError::Body { kind, source })
}

fn write<T: Serialize>(kind: &'static str, value: &T) -> Result<proto::Body, FrameError> {
    let json = serde_json::to_vec(value).map_err(|source| FrameError::Body { kind, source })?;
    if json.len() + ENVELOPE > MAX_FRAME {
        return Err(FrameError::TooLarge { kind, size: json.len() });
    }
    Ok(proto::Body { version: BODY_VERSION, json })
}

#[cfg(test)]
mod tests {
    use model::{ActionFailure, ActionId, CommandKey, PodGuard, Timestamp};

    use super::*;

    fn outcome() -> CommandOutcome {
        CommandOutcome {
            key: CommandKey::new("k"),
            action_id: ActionId::new("act-1"),
            phase: "apply".into(),
            at: Timestamp(7),
            result: Err(ActionFailure::Expired),
        }
    }

    #[test]
    fn what_goes_up_comes_out_the_same() {
        for up in
            [Up::Hello { node: NodeId::new("n1"), epoch: AgentEpoch(3) }, Up::Outcome(Box::new(outcome()))]
        {
            assert_eq!(up_from_frame(frame_from_up(&up).unwrap()).unwrap(), up);
        }
    }

    #[test]
    fn what_is_left_alone_comes_out_the_same_and_keeps_its_bounds() {
        let mut guard = NodeGuard {
            generation: 7,
            pods: [("u".to_owned(), PodGuard::Never { because: "x".into() })].into(),
            units: vec!["a.service".into()],
            ..NodeGuard::default()
        };
        let sent = Down::Guard(Box::new(guard.clone()));
        match from_controller(frame_from_down(&sent).unwrap()).unwrap() {
            FromController::Down(down) => assert_eq!(down, sent),
            other => panic!("{other:?}"),
        }
        guard.nothing = Some("x".repeat(NodeGuard::MAX_BECAUSE + 1));
        let long = from_controller(frame_from_down(&Down::Guard(Box::new(guard))).unwrap());
        assert!(matches!(long, Err(FrameError::Unbounded { kind: "guard" })));
    }

    #[test]
    fn unknown_frames_and_versions_are_named() {
        let error = up_from_frame(proto::AgentFrame { frame: None }).unwrap_err().to_string();
        assert!(error.contains("no kind of frame that protocol 1 knows"), "{error}");

        let mut frame = frame_from_up(&Up::Outcome(Box::new(outcome()))).unwrap();
        if let Some(agent_frame::Frame::Outcome(outcome)) = &mut frame.frame {
            outcome.body.as_mut().unwrap().version = 9;
        }
        let error = up_from_frame(frame).unwrap_err().to_string();
        assert!(error.contains("outcome has version 9, this side reads 1"), "{error}");
    }

    #[test]
    fn an_envelope_that_contradicts_its_body_is_refused() {
        let mut frame = frame_from_up(&Up::Outcome(Box::new(outcome()))).unwrap();
        if let Some(agent_frame::Frame::Outcome(outcome)) = &mut frame.frame {
            outcome.key = "other".into();
        }
        assert!(matches!(up_from_frame(frame), Err(FrameError::Contradiction { .. })));
    }

    #[test]
    fn broken_json_is_refused_with_its_place() {
        let frame = proto::AgentFrame {
            frame: Some(agent_frame::Frame::Status(proto::Body {
                version: BODY_VERSION,
                json: b"{\"node\":".to_vec(),
            })),
        };
        let error = up_from_frame(frame).unwrap_err().to_string();
        assert!(error.contains("line 1 column"), "{error}");
    }
}
