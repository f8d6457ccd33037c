use model::{
    ActionFailure, ActionId, CommandKey, FindingId, IncidentId, NodeAction, Phase, Pid, ProcessKey, Report,
    Target, Timestamp,
};
use wire::link::{ControllerLink, in_process};

use super::*;
use crate::spool::MIN_LIMIT;

const LONG: Duration = Duration::from_secs(20);

struct Refusing;

impl Commands for Refusing {
    fn carry_out(&self, command: &NodeCommand) -> CommandOutcome {
        CommandOutcome {
            key: command.key.clone(),
            action_id: command.action_id.clone(),
            phase: command.phase.name().into(),
            at: Timestamp(0),
            result: Err(ActionFailure::Expired),
        }
    }
}

struct Scene {
    controller: ControllerLink,
    spool: Arc<Mutex<Spool>>,
    news: Arc<Notify>,
    others: mpsc::Sender<Up>,
    drain: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    _folder: tempfile::TempDir,
}

fn scene(reports: u64, drain_limit: Duration) -> Scene {
    let folder = tempfile::tempdir().unwrap();
    let spool = Arc::new(Mutex::new(Spool::open(folder.path(), MIN_LIMIT).unwrap()));
    let node = NodeId::new("n");
    let (link, controller) = in_process(node.clone(), 8);
    let (news, drain) = (Arc::new(Notify::new()), CancellationToken::new());
    let (others, others_in) = mpsc::channel(4);
    add(&spool, 0..reports);
    let uplink = Uplink {
        node,
        epoch: AgentEpoch(1),
        link,
        spool: Arc::clone(&spool),
        news: Arc::clone(&news),
        commands: Arc::new(Refusing),
        others: others_in,
        drain: drain.clone(),
        drain_limit,
    };
    let task = tokio::spawn(uplink.run());
    Scene { controller, spool, news, others, drain, task, _folder: folder }
}

fn add(spool: &Mutex<Spool>, numbers: std::ops::Range<u64>) {
    let mut spool = spool.lock().unwrap();
    for n in numbers {
        spool
            .append(&Report::Repeat {
                finding: FindingId::new(n.to_string()),
                count: n,
                last: Timestamp(0),
                moments: model::Moments::default(),
            })
            .unwrap();
    }
    spool.sync().unwrap();
}

impl Scene {
    async fn report(&mut self) -> (Seq, u64) {
        loop {
            match self.controller.up.recv().await.unwrap() {
                Up::Report { seq, report } => match *report {
                    Report::Repeat { count, .. } => return (seq, count),
                    other => panic!("{other:?}"),
                },
                Up::Hello { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn reports_go_up_in_order_and_leave_the_spool_when_acknowledged() {
    let mut scene = scene(700, LONG);
    for expected in 0..700 {
        let (seq, number) = scene.report().await;
        assert_eq!(number, expected);
        if expected % 10 == 9 {
            scene.controller.down.send(Down::Ack { upto: seq }).await.unwrap();
        }
    }
    add(&scene.spool, 700..701);
    scene.news.notify_one();
    let (seq, number) = scene.report().await;
    assert_eq!(number, 700);
    scene.drain.cancel();
    scene.controller.down.send(Down::Ack { upto: seq }).await.unwrap();
    scene.task.await.unwrap();
    assert_eq!(scene.spool.lock().unwrap().bytes(), 0);
}

#[tokio::test]
async fn without_acknowledgements_only_a_window_is_on_its_way_and_outcomes_still_pass() {
    let mut scene = scene(WINDOW as u64 + 50, LONG);
    for expected in 0..WINDOW as u64 {
        assert_eq!(scene.report().await.1, expected);
    }
    let command = NodeCommand {
        key: CommandKey::new("k"),
        action_id: ActionId::new("a"),
        incident: IncidentId::new("i"),
        node: NodeId::new("n"),
        deadline: Timestamp(0),
        action: NodeAction::Stop,
        target: Target::Process { process: ProcessKey { pid: Pid(1), start: model::BootNs(0) } },
        phase: Phase::Capture,
    };
    scene.controller.down.send(Down::Command(Box::new(command))).await.unwrap();
    match scene.controller.up.recv().await.unwrap() {
        Up::Outcome(outcome) => assert_eq!((outcome.key.as_str(), outcome.phase.as_str()), ("k", "capture")),
        other => panic!("{other:?}"),
    }
    drop(scene.controller);
    scene.task.await.unwrap();
}

#[tokio::test]
async fn an_unacknowledged_report_ends_the_drain_at_its_limit_and_stays() {
    let mut scene = scene(1, Duration::ZERO);
    assert_eq!(scene.report().await.1, 0);
    scene.drain.cancel();
    scene.task.await.unwrap();
    drop(scene.others);
    assert!(scene.spool.lock().unwrap().bytes() > 0);
}
