//! Looks after the licensed hosts of resources that manage them, as the operator does.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use futures::future::join_all;
use jiff::Timestamp;
use kms_host::routing::Explanation;
use kms_operator::api::OfficeKmsHost;
use kms_operator::licensing::resource::{Outcome, Session, Shared, visit};
use kms_operator::licensing::store::InMemory;
use kube::ResourceExt as _;

use super::replicas::{Relaying, Replica, Running};
use super::story::say;
use crate::admin::Admin;
use crate::output::{Format, print};
use crate::{dlv, fleet};

/// Looks that hosts may take from nothing to Licensed: a step each.
const LOOKS: usize = 60;

/// Never looked at more often than this.
const SOONEST: Duration = Duration::from_secs(1);

/// How often a relay is asked whether it knows of a host that is licensed by now. It reads the ledger every two seconds.
const GLANCES: usize = 300;

/// The pause between them.
const GLANCE: Duration = Duration::from_millis(100);

/// How long a host may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The resources that manage their licensed hosts.
pub(super) struct Licensing<'a> {
    keepers: Vec<Keeper<'a>>,
    running: &'a Running,
}

struct Keeper<'a> {
    relaying: &'a Relaying,
    /// With the status that the last look gave.
    host: OfficeKmsHost,
    session: Session,
    store: InMemory,
}

impl<'a> Licensing<'a> {
    /// Those of what runs here.
    pub(super) fn of(running: &'a Running) -> Self {
        let is_managed = |relaying: &&Relaying| {
            let mut hosts = relaying.host.spec.licensed_hosts.iter().flatten();
            hosts.any(|host| host.management.is_some())
        };
        let keeper = |relaying: &'a Relaying| Keeper {
            relaying,
            host: relaying.host.clone(),
            session: Session::default(),
            store: InMemory::default(),
        };
        Self {
            keepers: running.relaying.iter().filter(is_managed).map(keeper).collect(),
            running,
        }
    }

    /// Brings hosts that are to be managed to Licensed, step by step, and waits until the relays know it.
    ///
    /// # Errors
    /// When a host does not get there; what it waits for is in the message.
    pub(super) async fn reach_licensed(&mut self) -> Result<()> {
        for keeper in &mut self.keepers {
            let name = keeper.host.name_any();
            say(format_args!(
                "{name} brings its licensed hosts to Licensed over WS-Management:"
            ))?;
            // Time is told to each look, so that nobody waits for the next one.
            let mut now = Timestamp::now();
            let mut last = None;
            for _ in 0..LOOKS {
                let outcome = keeper.look(now).await?;
                now += outcome.again_in;
                let settled = outcome.notices.is_empty();
                let verdict = outcome
                    .conditions
                    .into_iter()
                    .find(|(kind, _)| *kind == "HostsLicensed");
                last = verdict.map(|(_, verdict)| verdict);
                // Once licensed, a host's settings are put right.
                if settled && last.as_ref().is_some_and(|verdict| verdict.status == Some(true)) {
                    break;
                }
            }
            match last {
                Some(verdict) if verdict.status == Some(true) => say(format_args!("  {}\n", verdict.message))?,
                Some(verdict) => bail!("{name}: {}: {}", verdict.reason, verdict.message),
                None => bail!("{name}: nothing is known of its licensed hosts"),
            }
            for relay in self.running.of(&name) {
                knows_a_host(relay).await?;
            }
        }
        Ok(())
    }

    /// Goes on for as long as the replicas run.
    pub(super) async fn keep(self) {
        if self.keepers.is_empty() {
            return std::future::pending().await;
        }
        join_all(self.keepers.into_iter().map(Keeper::keep)).await;
    }

    /// What `kmsctl dlv` prints of them for one product.
    ///
    /// # Errors
    /// When the hosts cannot be asked, or nothing can be printed.
    pub(super) async fn dlv(&self, product: &str) -> Result<()> {
        for keeper in &self.keepers {
            let fleet = fleet::of(&keeper.host, &keeper.relaying.secrets, None, PATIENCE).await?;
            let report = dlv::of(fleet, &[product.to_owned()]).await?;
            say(format_args!(
                "\nkmsctl dlv {} --product {product}:",
                keeper.host.name_any()
            ))?;
            print(Format::Table, &report)?;
        }
        Ok(())
    }
}

/// Waits until a relay has a host to send clients to.
async fn knows_a_host(relay: &Replica) -> Result<()> {
    let admin = Admin::at(relay.admin)?;
    for _ in 0..GLANCES {
        let route: Explanation = admin.get("/explain/127.0.0.1").await?;
        if !route.order.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(GLANCE).await;
    }
    bail!("{} still knows of no licensed host to send clients to", relay.name)
}

impl Keeper<'_> {
    async fn look(&mut self, now: Timestamp) -> Result<Outcome> {
        let Relaying { secrets, ledger, .. } = self.relaying;
        let ledger = Shared::Ledger(Arc::clone(ledger));
        let outcome = visit(&self.host, secrets, &self.session, &self.store, &ledger, now).await;
        for notice in &outcome.notices {
            say(format_args!("  {}: {}", notice.reason, notice.message))?;
        }
        let status = self.host.status.get_or_insert_default();
        status.licensed_hosts.clone_from(&outcome.rows);
        Ok(outcome)
    }

    async fn keep(mut self) {
        loop {
            let again_in = match self.look(Timestamp::now()).await {
                Ok(outcome) => outcome.again_in,
                Err(error) => {
                    tracing::warn!("{error:#}");
                    SOONEST
                }
            };
            tokio::time::sleep(again_in.max(SOONEST)).await;
        }
    }
}
