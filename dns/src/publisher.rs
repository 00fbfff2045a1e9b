//! What all publishers do alike, and the one loop that drives them: observe, plan, apply, and again after a lost race.

use std::net::SocketAddr;

use futures::future::BoxFuture;
use hickory_proto::op::ResponseCode;
use thiserror::Error;

use crate::exchange::ExchangeError;
use crate::plan::{Observed, Options, Plan, PlanError, plan};
use crate::records::{Desired, Entry};

/// How often a race is run again. Each lost one means that somebody else won theirs.
const RACES: usize = 8;

/// Reads and changes a zone. `rfc2136` and `manual` are here; one over WMI (Windows DNS) implements the same.
pub trait Publisher: Send + Sync {
    /// Its name in specs, status and metrics.
    fn kind(&self) -> &'static str;

    /// Reads what stands at the names that matter to `desired`.
    fn observe<'a>(&'a self, desired: &'a Desired) -> BoxFuture<'a, Result<Observed, PublishError>>;

    /// Carries a plan out as a whole or not at all, if its prerequisites hold.
    fn apply<'a>(&'a self, plan: &'a Plan) -> BoxFuture<'a, Result<(), PublishError>>;
}

/// Why nothing was published.
#[derive(Debug, Error)]
pub enum PublishError {
    /// What stands there forbids it.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// There is no server to turn to.
    #[error("the server's name {name} has no address; correct it, or see that DNS resolves it here")]
    NoAddress {
        /// The server as it was given.
        name: String,
    },
    /// No server answered.
    #[error("no server took the request")]
    Unreachable(#[source] ExchangeError),
    /// An answer that is not authoritative.
    #[error("{server} does not serve {zone}; name the zone's primary server, and its apex")]
    NotPrimary {
        /// Who answered.
        server: SocketAddr,
        /// The zone.
        zone: String,
    },
    /// NOTAUTH without a TSIG error, which is all that some servers say of a wrong key.
    #[error(
        "{server} is not the primary of {zone}, or does not accept the key {key} (NOTAUTH); name the zone's primary \
         server and its apex, and compare the key's name, algorithm and secret"
    )]
    NotAuth {
        /// Who answered.
        server: SocketAddr,
        /// The zone.
        zone: String,
        /// The key's name.
        key: String,
    },
    /// REFUSED.
    #[error("{server} refuses this key for {zone} (REFUSED); allow the key to read and update the records there")]
    Refused {
        /// Who answered.
        server: SocketAddr,
        /// The zone.
        zone: String,
    },
    /// BADKEY.
    #[error(
        "{server} does not know the key {key} with {algorithm} for this zone (BADKEY); compare name and algorithm on both sides, and allow the key there"
    )]
    BadKey {
        /// Who answered.
        server: SocketAddr,
        /// The key's name.
        key: String,
        /// The key's algorithm.
        algorithm: &'static str,
    },
    /// BADSIG.
    #[error("{server} knows the key {key} with another secret (BADSIG); correct the secret")]
    BadSignature {
        /// Who answered.
        server: SocketAddr,
        /// The key's name.
        key: String,
    },
    /// BADTIME.
    #[error("the clocks here and at {server} are {skew} s apart (BADTIME); set them right")]
    BadTime {
        /// Who answered.
        server: SocketAddr,
        /// The server's time less ours, in seconds, as far as it said.
        skew: i64,
    },
    /// NOTZONE.
    #[error("a record is not within {zone} for {server} (NOTZONE); correct the zone's apex")]
    NotZone {
        /// Who answered.
        server: SocketAddr,
        /// The zone.
        zone: String,
    },
    /// YXDOMAIN, YXRRSET, NXDOMAIN or NXRRSET: a prerequisite did not hold.
    #[error("somebody else changed {zone} at the same time, again and again; it is tried again later")]
    LostRace {
        /// The zone.
        zone: String,
    },
    /// An answer that is not whole although it came by TCP.
    #[error("{server} cut its answer short by TCP; see what stands between, and how many records the name has")]
    Truncated {
        /// Who answered.
        server: SocketAddr,
    },
    /// An answer whose signature is missing or false.
    #[error("the answer of {server} is not signed by the key {key}: {why}; something between may alter DNS")]
    Unsigned {
        /// Who answered.
        server: SocketAddr,
        /// The key's name.
        key: String,
        /// What is wrong with the signature.
        why: String,
    },
    /// Any other response code.
    #[error("{server} answered {code} for {zone}; its log says why")]
    Failed {
        /// Who answered.
        server: SocketAddr,
        /// The zone.
        zone: String,
        /// The response code.
        code: ResponseCode,
    },
    /// The account of a management interface was refused: trying again could lock it.
    #[error("{0}")]
    Denied(String),
    /// A publisher's own failure, such as that of a management interface.
    #[error("{0}")]
    Other(String),
}

impl PublishError {
    /// A bounded label for metrics.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::Plan(_) => "conflict",
            Self::NoAddress { .. } => "no_address",
            Self::Unreachable(_) => "unreachable",
            Self::NotPrimary { .. } => "notprimary",
            Self::NotAuth { .. } => "notauth",
            Self::Refused { .. } => "refused",
            Self::BadKey { .. } => "badkey",
            Self::BadSignature { .. } => "badsig",
            Self::BadTime { .. } => "badtime",
            Self::NotZone { .. } => "notzone",
            Self::LostRace { .. } => "race",
            Self::Truncated { .. } => "truncated",
            Self::Unsigned { .. } => "unsigned",
            Self::Denied(_) => "denied",
            Self::Failed { .. } | Self::Other(_) => "failed",
        }
    }

    /// Whether trying again can help without anybody's doing.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Unreachable(_) | Self::LostRace { .. } | Self::Truncated { .. } | Self::Failed { .. }
        )
    }
}

/// What was done.
#[derive(Debug, Clone, PartialEq)]
pub struct Published {
    /// The plan that was carried out, or that found nothing to do.
    pub plan: Plan,
    /// How many races were lost before.
    pub lost_races: usize,
}

/// Brings a zone to what is desired; `desired` without entries takes away what is ours.
///
/// # Errors
/// When it cannot be done. Then nothing of it was done, unless the answer to a change got lost.
pub async fn publish(
    publisher: &dyn Publisher,
    desired: &Desired,
    options: &Options,
) -> Result<Published, PublishError> {
    let mut lost_races = 0;
    loop {
        let observed = publisher.observe(desired).await?;
        let plan = plan(desired, &observed, options)?;
        if plan.changes.is_empty() {
            return Ok(Published { plan, lost_races });
        }
        match publisher.apply(&plan).await {
            Ok(()) => return Ok(Published { plan, lost_races }),
            Err(PublishError::LostRace { zone }) if lost_races < RACES => {
                tracing::debug!(zone, "another change came first; the zone is read again");
                lost_races += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Looks at what stands in a zone of `desired`, and of what its owner published besides, and changes nothing: those records,
/// and a plan that keeps them.
///
/// # Errors
/// When the zone cannot be read.
pub async fn standing(publisher: &dyn Publisher, desired: &Desired) -> Result<(Desired, Plan), PublishError> {
    let observed = publisher.observe(desired).await?;
    let (marks, owner) = (observed.marks(), desired.owner.to_string());
    let ours = |entry: &Entry| marks.iter().any(|mark| mark.owner == owner && mark.is_for(entry));
    let entries = observed.entries().into_keys();
    let standing = Desired {
        entries: entries
            .filter(|entry| desired.entries.contains(entry) || ours(entry))
            .collect(),
        ..desired.clone()
    };
    let plan = plan(&standing, &observed, &Options::default())?;
    Ok((standing, plan))
}

/// Takes away what `desired`'s owner published in its zone.
///
/// # Errors
/// As [`publish`].
pub async fn withdraw(publisher: &dyn Publisher, desired: &Desired) -> Result<Published, PublishError> {
    publish(publisher, &desired.withdrawn(), &Options::default()).await
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::names::ZoneName;
    use crate::records::Endpoint;

    /// Loses the first races, then holds.
    struct Contested {
        to_lose: Mutex<usize>,
    }

    impl Publisher for Contested {
        fn kind(&self) -> &'static str {
            "contested"
        }

        fn observe<'a>(&'a self, _: &'a Desired) -> BoxFuture<'a, Result<Observed, PublishError>> {
            Box::pin(async { Ok(Observed::default()) })
        }

        fn apply<'a>(&'a self, plan: &'a Plan) -> BoxFuture<'a, Result<(), PublishError>> {
            Box::pin(async {
                let mut to_lose = self.to_lose.lock().unwrap();
                if *to_lose == 0 {
                    return Ok(());
                }
                *to_lose -= 1;
                Err(PublishError::LostRace {
                    zone: plan.apex.to_string(),
                })
            })
        }
    }

    async fn race(to_lose: usize) -> Result<Published, PublishError> {
        let zone: ZoneName = "corp.example.com".parse().unwrap();
        let endpoint = Endpoint {
            target: "kms.example.com".parse().unwrap(),
            addresses: [].into(),
            port: 1688,
            priority: 0,
            weight: 0,
        };
        let desired = Desired::new(zone.clone(), zone, "c1".parse().unwrap(), 60, &[endpoint]).unwrap();
        let publisher = Contested {
            to_lose: Mutex::new(to_lose),
        };
        publish(&publisher, &desired, &Options::default()).await
    }

    #[tokio::test]
    async fn lost_races_are_run_again_but_not_for_ever() {
        assert_eq!(race(3).await.unwrap().lost_races, 3);
        let error = race(100).await.unwrap_err();
        assert!(matches!(error, PublishError::LostRace { .. }) && error.is_transient());
    }
}
