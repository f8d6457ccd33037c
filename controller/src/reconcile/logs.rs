//! The logs that are followed here, judged by the rules that nodes are given.

use std::{path::Path, sync::Arc};

use detect::matcher::Swap;
use model::RuleBundle;
use tokio::sync::watch;

use super::{ClusterConfig, rules};
use crate::{
    ControllerHandle,
    ingest::{self, IngestConfig, IngestError, IngestHandle, Start, Zone},
};

/// Follows the logs, by the rules that nodes are given.
pub(super) fn follow(
    config: &ClusterConfig,
    state: &Path,
    handle: &ControllerHandle,
    mut bundles: watch::Receiver<Arc<RuleBundle>>,
    clock: &crate::Clock,
) -> Result<IngestHandle, IngestError> {
    let rules = Arc::new(Swap::new(rules::set_of(&RuleBundle::default())));
    let ingest = IngestConfig {
        sources: config.sources.clone(),
        state: state.join("sources"),
        start: Start::Now,
        rules: Arc::clone(&rules),
        clock: clock.clone(),
        poll: IngestConfig::POLL,
        zone: Zone::of_this_machine(),
    };
    if !config.sources.is_empty() {
        let inside = handle.inside();
        inside.tasks.spawn(async move {
            loop {
                let bundle = Arc::clone(&bundles.borrow_and_update());
                match tokio::task::spawn_blocking(move || rules::set_of(&bundle)).await {
                    Ok(set) => drop(rules.replace(set)),
                    Err(error) => tracing::error!(%error, "the rules for logs could not be compiled"),
                }
                tokio::select! {
                    () = inside.stop.cancelled() => return,
                    changed = bundles.changed() => if changed.is_err() { return },
                }
            }
        });
    }
    ingest::start(&ingest, &handle.attacher())
}
