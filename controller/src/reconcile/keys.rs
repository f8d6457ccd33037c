//! The authority of the cluster, in a Secret, and who gets a certificate of it: agents, for a service account token that is bound to
//! their pod or node.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::{
    ByteString,
    api::{
        authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus},
        core::v1::{ConfigMap, Secret},
    },
};
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};
use model::NodeId;
use wire::{
    enrol::{Certified, Certifying, Refused, Registrar},
    identity::{Authority, Subject},
};

use super::reach::{Failure, Reach};
use crate::config::Clock;

/// Secret and ConfigMap of this name hold the authority: with its key for the controller, without for the agents.
pub const AUTHORITY_NAME: &str = "hemostat-ca";
/// How long an authority is valid.
const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);
/// What a token must be for.
pub const AUDIENCE: &str = "hemostat";
/// The node that the bearer's pod or itself is on, as the API server tells it.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The API server does not give or take it.
    #[error("cannot {operation} the authority in {namespace}/{AUTHORITY_NAME}: {because}")]
    Store {
        /// What was tried.
        operation: &'static str,
        /// Where.
        namespace: String,
        /// Why not.
        because: String,
    },
    /// The Secret does not hold one.
    #[error("the Secret {namespace}/{AUTHORITY_NAME} has no usable {key}: {because}")]
    Unusable {
        /// Where.
        namespace: String,
        /// Which key of it.
        key: &'static str,
        /// Why not.
        because: String,
    },
    /// None could be made.
    #[error(transparent)]
    Make(#[from] wire::identity::IdentityError),
}

/// Reads the authority, or makes one where there is none, and shows its certificate in a ConfigMap.
pub(crate) async fn authority(
    reach: &Reach,
    namespace: &str,
    clock: &Clock,
) -> Result<Authority, AuthorityError> {
    let store = |operation, failure: Failure| AuthorityError::Store {
        operation,
        namespace: namespace.to_owned(),
        because: failure.to_string(),
    };
    let secrets: Api<Secret> = Api::namespaced(reach.client.clone(), namespace);
    let mut found = reach.read(secrets.get_opt(AUTHORITY_NAME)).await.map_err(|e| store("read", e))?;
    if found.is_none() {
        let made = Authority::create("Hemostat", clock(), AUTHORITY_LIFE)?;
        let data = BTreeMap::from([
            ("tls.crt".to_owned(), ByteString(made.certificate().as_bytes().to_vec())),
            ("tls.key".to_owned(), ByteString(made.key().into_bytes())),
        ]);
        let secret = Secret {
            metadata: meta(),
            type_: Some("kubernetes.io/tls".into()),
            data: Some(data),
            ..Secret::default()
        };
        found = match reach.write(secrets.create(&PostParams::default(), &secret)).await {
            Ok(secret) => Some(secret),
            // Another was quicker: that one's is the authority.
            Err(Failure::Conflict(_)) => {
                reach.read(secrets.get_opt(AUTHORITY_NAME)).await.map_err(|e| store("read", e))?
            }
            Err(error) => return Err(store("store", error)),
        };
    }
    let data = found.and_then(|secret| secret.data).unwrap_or_default();
    let text = |key: &'static str| {
        let unusable = |because: &str| AuthorityError::Unusable {
            namespace: namespace.to_owned(),
            key,
            because: because.to_owned(),
        };
        let bytes = data.get(key).ok_or_else(|| unusable("it is not there"))?;
        String::from_utf8(bytes.0.clone()).map_err(|_| unusable("it is no text"))
    };
    let authority = Authority::load(&text("tls.crt")?, &text("tls.key")?)?;
    show(reach, namespace, &authority).await.map_err(|e| store("show", e))?;
    Ok(authority)
}

async fn show(reach: &Reach, namespace: &str, authority: &Authority) -> Result<(), Failure> {
    let maps: Api<ConfigMap> = Api::namespaced(reach.client.clone(), namespace);
    let data = BTreeMap::from([("ca.crt".to_owned(), authority.certificate().to_owned())]);
    let map = ConfigMap { metadata: meta(), data: Some(data), ..ConfigMap::default() };
    let params = kube::api::PatchParams::apply(super::reach::MANAGER).force();
    reach.write(maps.patch(AUTHORITY_NAME, &params, &kube::api::Patch::Apply(&map))).await.map(drop)
}

fn meta() -> ObjectMeta {
    let labels = BTreeMap::from([("app.kubernetes.io/part-of".to_owned(), "hemostat".to_owned())]);
    ObjectMeta { name: Some(AUTHORITY_NAME.into()), labels: Some(labels), ..ObjectMeta::default() }
}

/// Gives agents their certificates.
pub(crate) struct TokenDesk {
    pub(crate) reach: Reach,
    pub(crate) authority: Arc<Authority>,
    /// `system:serviceaccount:<namespace>:<name>` of the agents.
    pub(crate) account: String,
    /// How long a certificate is valid.
    pub(crate) life: Duration,
    pub(crate) clock: Clock,
}

impl Registrar for TokenDesk {
    fn certify(&self, token: String, request: String) -> Certifying<'_> {
        Box::pin(self.decide(token, request))
    }
}

impl TokenDesk {
    async fn decide(&self, token: String, request: String) -> Result<Certified, Refused> {
        let reviews: Api<TokenReview> = Api::all(self.reach.client.clone());
        let spec = TokenReviewSpec { audiences: Some(vec![AUDIENCE.into()]), token: Some(token) };
        let review = TokenReview { spec, ..TokenReview::default() };
        // It stores nothing, so that it needs no lead.
        let answer = self.reach.read(reviews.create(&PostParams::default(), &review)).await;
        let review = answer.map_err(|failure| match failure {
            Failure::Away(because) => {
                Refused::NotNow(format!("the token cannot be checked at present: {because}"))
            }
            other => Refused::NotNow(format!("the token cannot be checked: {other}")),
        })?;
        let node = bearer(&review.status.unwrap_or_default(), &self.account).map_err(Refused::NotYou)?;
        let subject = Subject::Node(NodeId::new(node));
        let certificate = self
            .authority
            .sign(&subject, &request, (self.clock)(), self.life)
            .map_err(|error| Refused::NotYou(error.to_string()))?;
        tracing::info!(?subject, "an agent got a certificate");
        Ok(Certified { certificate, authority: self.authority.certificate().to_owned() })
    }
}

/// The node for which a token speaks.
fn bearer(status: &TokenReviewStatus, account: &str) -> Result<String, String> {
    if status.authenticated != Some(true) {
        let why = status
            .error
            .clone()
            .unwrap_or_else(|| "it is unknown, has ended, or is for another audience".into());
        return Err(format!("the token is not valid for the audience {AUDIENCE:?}: {why}"));
    }
    if !status.audiences.as_ref().is_some_and(|for_whom| for_whom.iter().any(|one| one == AUDIENCE)) {
        return Err(format!("the token is not for the audience {AUDIENCE:?}"));
    }
    let user = status.user.clone().unwrap_or_default();
    let name = user.username.unwrap_or_default();
    if name != account {
        return Err(format!("{name} is not the agents' account {account}"));
    }
    let extra = user.extra.unwrap_or_default();
    match extra.get(NODE_NAME).map(Vec::as_slice) {
        Some([node]) if !node.is_empty() => Ok(node.clone()),
        _ => Err("the token is bound to no node and to no pod on one".into()),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::authentication::v1::UserInfo;

    use super::*;

    fn status(change: impl Fn(&mut TokenReviewStatus)) -> TokenReviewStatus {
        let mut status = TokenReviewStatus {
            authenticated: Some(true),
            audiences: Some(vec![AUDIENCE.into()]),
            user: Some(UserInfo {
                username: Some("system:serviceaccount:h:agent".into()),
                extra: Some(BTreeMap::from([(NODE_NAME.to_owned(), vec!["n1".to_owned()])])),
                ..UserInfo::default()
            }),
            ..TokenReviewStatus::default()
        };
        change(&mut status);
        status
    }

    fn node(change: impl Fn(&mut TokenReviewStatus)) -> Result<String, String> {
        bearer(&status(change), "system:serviceaccount:h:agent")
    }

    #[test]
    fn only_a_bound_token_of_the_agents_account_for_our_audience_speaks_for_a_node() {
        assert_eq!(node(|_| {}), Ok("n1".into()));
        assert!(node(|s| s.authenticated = Some(false)).unwrap_err().contains("not valid"));
        assert!(node(|s| s.authenticated = None).is_err());
        // An API server that does not know audiences answers without them: the token may be for anybody.
        assert!(node(|s| s.audiences = None).unwrap_err().contains("audience"));
        assert!(node(|s| s.audiences = Some(vec!["https://kubernetes".into()])).is_err());
        let other = |s: &mut TokenReviewStatus| {
            s.user.as_mut().unwrap().username = Some("system:serviceaccount:h:other".into())
        };
        assert!(node(other).unwrap_err().contains("is not the agents' account"));
        assert!(node(|s| s.user.as_mut().unwrap().extra = None).unwrap_err().contains("bound to no node"));
        let two = |s: &mut TokenReviewStatus| {
            s.user.as_mut().unwrap().extra =
                Some(BTreeMap::from([(NODE_NAME.to_owned(), vec!["a".into(), "b".into()])]));
        };
        assert!(node(two).is_err(), "which of them?");
    }
}
