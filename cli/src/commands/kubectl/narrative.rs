//! The whole story as one document, as the controller keeps it of incidents that need a person (kind Narrative).

use anyhow::Result;
use crds::narrative::Narrative;
use kube::{Api, ResourceExt as _};
use narrate::Document;
use serde_json::Value;

use super::Cluster;
use crate::{
    commands::incidents::Form,
    exit::{Ended, Exit},
    render::write_out,
};

/// Shows it in the form that was asked for.
pub(super) async fn show(cluster: &Cluster, name: &str, form: Form) -> Result<Exit> {
    let incident = cluster.incident(name).await?;
    let (name, namespace) = (incident.name_any(), incident.namespace().unwrap_or_default());
    let api: Api<Narrative> = Api::namespaced(cluster.client.clone(), &namespace);
    let kept = match api.get_opt(&name).await {
        Ok(Some(kept)) => kept,
        // A kind that is not there is answered like an object that is not there.
        Ok(None) => {
            let message = format!(
                "no narrative is kept of {name}: there is one where a person is needed; `kubectl hemostat show {name}` and `timeline` tell what its objects say"
            );
            return Err(Ended::with(Exit::Unknown, message));
        }
        Err(error) => return Err(cluster.refused(error)),
    };
    let mut text = rendered(&kept.spec.document, form).map_err(|because| {
        Ended::with(Exit::Bad, format!("the narrative of {name} cannot be shown: {because}"))
    })?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    write_out(&text)?;
    Ok(Exit::Good)
}

/// What stands in an object of the API server may be anybody's: each form makes it harmless again, and what points nowhere is not drawn.
fn rendered(json: &str, form: Form) -> Result<String, String> {
    let strange = |error: serde_json::Error| format!("another version wrote it, or nobody of ours: {error}");
    let mut value: Value = serde_json::from_str(json).map_err(strange)?;
    show_what_hides(&mut value);
    let document: Document = serde_json::from_value(value).map_err(strange)?;
    if !document.is_whole() {
        return Err("it is not one that Hemostat wrote".into());
    }
    match form {
        Form::Html => Ok(narrate::html::render(&document)),
        Form::Md => Ok(narrate::markdown::render(&document)),
        Form::Json => serde_json::to_string_pretty(&document).map_err(|error| error.to_string()),
    }
}

/// In every text, what a terminal would obey and what turns or hides writing.
fn show_what_hides(value: &mut Value) {
    match value {
        Value::String(text) => *text = narrate::shown(text, usize::MAX),
        Value::Array(items) => items.iter_mut().for_each(show_what_hides),
        Value::Object(map) => map.values_mut().for_each(show_what_hides),
        _ => {}
    }
}
