//! What a controller does once it leads: the journal is taken over, the core started, everything that hangs on it begun in its order, and
//! agents let in last.

use std::{path::Path, sync::Arc, time::Duration};

use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::{Api, Client, api::PostParams};
use model::{Account, RuleBundle};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wire::{
    identity::{Credentials, LiveCredentials, Subject},
    link::{ListenConfig, listen},
};

use super::{
    ClusterConfig, ClusterError, again, endpoint,
    guard::Guards,
    joined::start_reconcilers,
    keys::{self, TokenDesk},
    lease::Election,
    logs,
    probes::Stage,
    reach::{Failure, Reach},
    reports,
    serving::{OWN_LIFE, Serving},
    succession,
    unread::Unread,
    vigil,
};
use crate::{
    Controller, ControllerConfig, ControllerHandle, StartError,
    attribute::{self, Pods},
    health::HealthBoard,
    ledger::Ledger,
    metrics::Metrics,
    witness::Witness,
};

/// How long a new leader waits for the former one to let go of the journal.
const HAND_OVER: Duration = Duration::from_secs(60);
/// How long it waits for what is looked at before a run is automatic.
const LOOKED: Duration = Duration::from_secs(15);

pub(super) async fn lead(
    client: &Client,
    config: &ClusterConfig,
    mut controller: ControllerConfig,
    election: &mut Election,
    stage: &watch::Sender<Stage>,
    inside: &watch::Sender<Option<(HealthBoard, Arc<Metrics>)>>,
    stop: &CancellationToken,
) -> Result<(), ClusterError> {
    let reach = Reach::new(client.clone(), election.until.clone());
    let me = patiently(stop, || who_am_i(&reach)).await;
    let Some(me) = me else { return Ok(()) };
    let me = me.map_err(|because| ClusterError::Identity { because })?;
    let clock = controller.clock.clone();
    let authority = Arc::new(keys::authority(&reach, &config.namespace, &clock).await?);
    let own = LiveCredentials::new(
        authority.issue(&Subject::Controller, clock(), OWN_LIFE)?,
        authority.certificate().to_owned(),
    );
    let (witness, told) = Witness::new();
    controller.witness = Some(witness);
    let (ledger, to_keep) = Ledger::new();
    controller.ledger = Some(ledger);
    let pods = Pods::new(Default::default(), clock.clone());
    controller.pods = Some(pods.clone());
    controller.own_namespace = Some(config.namespace.clone());
    let certain = election.until.clone();
    let leads: crate::config::Leads =
        Arc::new(move || certain.borrow().is_some_and(|until| std::time::Instant::now() < until));
    controller.leads = Some(Arc::clone(&leads));
    // Before anything is done by the journal that is here: whether it is that of the last leader.
    let term = election.term.borrow().clone();
    let before = term.as_ref().and_then(|term| term.journal_before.as_deref());
    let journal = succession::take_up(&controller, before)?;
    let stands_there = election.tell_journal(&journal);
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        to = election.lost() => return Err(ClusterError::Deposed { to }),
        () = stands_there => {}
    }
    let crash = Arc::clone(&controller.crash);
    let marks = Arc::new(controller.classes.annotations());
    let state = controller.journal.parent().unwrap_or(Path::new(".")).to_owned();
    let Some(handle) = take_over(controller, stop).await? else { return Ok(()) };
    let parts = handle.inside();
    inside.send_replace(Some((parts.health.clone(), Arc::clone(&parts.metrics))));

    let unread = Unread::new(parts.health.clone());
    parts.tasks.spawn(unread.clone().of_pods(pods.clone(), parts.stop.clone()));
    parts.tasks.spawn(attribute::watch(
        pods.clone(),
        client.clone(),
        attribute::WatchConfig { marks, ..attribute::WatchConfig::default() },
        parts.stop.clone(),
    ));
    let executor = Arc::new(act::Executor::new(
        client.clone(),
        act::ActConfig {
            evidence: state.join("evidence"),
            sent: state.join("sent"),
            channels: config.channels.clone(),
            own: act::Own {
                namespace: config.namespace.clone(),
                accounts: vec![Account::of_user(&account_of(&config.agents))],
            },
            scanner: config.scanner.clone(),
            leads,
            clock: clock.clone(),
        },
    ));
    let attacher = handle.attacher();
    let attach: act::Attach = Arc::new(move |link| attacher.attach(link));
    parts.tasks.spawn(act::serve(Arc::clone(&executor), attach, parts.stop.clone()));
    let (bundle, bundles) = watch::channel(Arc::new(RuleBundle::default()));
    let (scoped, policies) = watch::channel(None);
    let guards =
        Guards { pods: pods.clone(), home: config.namespace.as_str().into(), policies, clock: clock.clone() };
    let (ready, mut is_ready) = watch::channel(false);
    let mirror = start_reconcilers(
        (&reach, &unread, &pods),
        config,
        &parts,
        me,
        told,
        (bundle, scoped),
        ready,
        (&clock, &state, crash),
    );
    let epoch = term.as_ref().map_or(0, |term| term.epoch);
    let reports = reports::Reports::new(reach.clone(), config.namespace.clone(), parts.health.clone(), epoch);
    parts.tasks.spawn(reports.keep(to_keep, parts.inbox.clone(), parts.stop.clone()));
    // By these it is known whether it is paused by label, and what is underway: who answers before asks.
    let looked = tokio::time::timeout(LOOKED, pods.looked_at(&["Namespace", "Node", "ReplicaSet"]));
    tokio::select! {
        late = looked => if late.is_err() {
            tracing::warn!("namespaces, nodes and ReplicaSets are not all told of yet: what depends on them is asked");
        },
        () = stop.cancelled() => {}
        _ = election.lost() => {}
    }
    let heard = tokio::select! {
        () = again::hear_once(&reach, config, &mirror, &mut is_ready, &parts, (&state, &journal)) => None,
        () = stop.cancelled() => Some(Ok(())),
        to = election.lost() => Some(Err(ClusterError::Deposed { to })),
    };
    if let Some(ended) = heard {
        drop(parts);
        handle.shutdown().await;
        return ended;
    }
    // What it shows is what the core knows: only now it does.
    parts.tasks.spawn(vigil::keep(Arc::clone(&mirror), executor, parts.stop.clone()));
    parts.tasks.spawn(mirror.run(parts.revision.clone(), parts.stop.clone()));
    let desk = TokenDesk {
        reach: reach.clone(),
        authority: Arc::clone(&authority),
        account: account_of(&config.agents),
        life: config.certificate_life,
        clock: clock.clone(),
    };
    let listening = ListenConfig {
        registrar: Some(Arc::new(desk)),
        epoch,
        ..ListenConfig::new(config.links, Credentials::Live(own.clone()))
    };
    let listener = match listen(listening).await {
        Ok(listener) => listener,
        Err(error) => {
            handle.shutdown().await;
            return Err(error.into());
        }
    };
    tracing::info!(address = %listener.address, "agents are listened for");
    if let Some(service) = config.service.clone() {
        parts.tasks.spawn(endpoint::lead(reach.clone(), config.clone(), service, parts.stop.clone()));
    }
    let logs = match logs::follow(config, &state, &handle, bundles.clone(), &clock) {
        Ok(logs) => logs,
        Err(error) => {
            listener.close().await;
            handle.shutdown().await;
            return Err(error.into());
        }
    };
    // The core ends with the last of those who could ask it something.
    drop(parts);
    let serving = Serving { handle, logs, listener, bundles, guards, authority, own, clock };
    let ended = serving.until(election, stage, &mut is_ready, stop).await;
    inside.send_replace(None);
    ended
}

/// Starts the core, as soon as a former leader on the same volume has let go of the journal.
async fn take_over(
    config: ControllerConfig,
    stop: &CancellationToken,
) -> Result<Option<ControllerHandle>, StartError> {
    let until = tokio::time::Instant::now() + HAND_OVER;
    loop {
        match Controller::start(config.clone()).await {
            Ok(handle) => return Ok(Some(handle)),
            Err(StartError::Store(error)) if tokio::time::Instant::now() < until => {
                tracing::warn!(%error, "the journal cannot be taken over yet");
            }
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
        }
    }
}

/// Who the API server knows us as: nobody may decide in this name.
async fn who_am_i(reach: &Reach) -> Result<String, Failure> {
    let reviews: Api<SelfSubjectReview> = Api::all(reach.client.clone());
    let review = reach.read(reviews.create(&PostParams::default(), &SelfSubjectReview::default())).await?;
    let name = review.status.and_then(|status| status.user_info).and_then(|user| user.username);
    name.ok_or_else(|| Failure::Missing("name in the API server's answer".into()))
}

/// Again and again while the API server is away; `None` when it is time to stop.
async fn patiently<T, F>(stop: &CancellationToken, mut ask: impl FnMut() -> F) -> Option<Result<T, String>>
where
    F: Future<Output = Result<T, Failure>>,
{
    loop {
        match ask().await {
            Ok(value) => return Some(Ok(value)),
            Err(failure) if failure.is_away() => {
                tokio::select! {
                    () = stop.cancelled() => return None,
                    () = tokio::time::sleep(Duration::from_secs(1)) => {}
                }
            }
            Err(failure) => return Some(Err(failure.to_string())),
        }
    }
}

/// `namespace/name` as the API server knows it.
fn account_of(agents: &str) -> String {
    format!("system:serviceaccount:{}", agents.replace('/', ":"))
}
