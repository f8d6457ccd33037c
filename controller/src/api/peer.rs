//! Who is at the other end of the control socket.

use std::fs;

use model::Actor;

/// Why a peer is not let in.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The kernel did not say who it is.
    #[error("the peer's credentials cannot be read: {0}")]
    Unreadable(#[from] std::io::Error),
    /// Neither root nor the controller's own user.
    #[error("uid {uid} may not use the control socket: run as root or as the controller's user")]
    Foreign {
        /// Who it is.
        uid: u32,
    },
}

/// Who a uid is, for the audit log: `user:<name>`, or `user:uid-<n>` where there is no name.
#[must_use]
pub fn actor_of_uid(uid: u32) -> Actor {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let found: u32 = fields.nth(1)?.parse().ok()?;
        (found == uid && !name.is_empty()).then(|| name.to_owned())
    });
    Actor::new(format!("user:{}", name.unwrap_or_else(|| format!("uid-{uid}"))))
}

/// The actor at the other end, if it may come in: root or the controller's own user. The kernel vouches for it (SO_PEERCRED).
pub(super) fn actor_of(stream: &tokio::net::UnixStream) -> Result<Actor, PeerError> {
    let uid = stream.peer_cred()?.uid();
    if uid != 0 && uid != rustix::process::geteuid().as_raw() {
        return Err(PeerError::Foreign { uid });
    }
    Ok(actor_of_uid(uid))
}
