//! docs/examples/licensing.yaml from nothing to "Licensed" without Kubernetes: two rehearsal hosts with the configuration
//! that the manifest gives them, their licensing looked after as `kmsctl up` and the operator do, clients that reach the
//! count, and what `kmsctl dlv` shows of it.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use kms_host::ledger::{Ledger, MemoryLedger, Millis};
use kms_host::rehearsal::management::licences::rehearsal_confirmation_id;
use kms_operator::api::OfficeKmsHost;
use kms_operator::licensing::resource::{Outcome, Session, Shared, visit};
use kms_operator::licensing::store::{FileStore, InMemory, Store};
use kms_operator::secrets::Objects;
use std::net::SocketAddr;
use system_tests::rehearsal::{Manifest, Rehearsal};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

/// What is logged, at every level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The resource in front, looked after again and again.
struct Front {
    host: OfficeKmsHost,
    session: Session,
    ledger: Arc<MemoryLedger>,
    now: Timestamp,
    told: Vec<String>,
}

impl Front {
    fn of(manifest: &Manifest, hosts: &[(&str, SocketAddr)]) -> Result<Self> {
        let mut host = manifest.hosts.get("kms").context("a resource")?.clone();
        for licensed in host.spec.licensed_hosts.iter_mut().flatten() {
            let (_, at) = hosts
                .iter()
                .find(|(name, _)| *name == licensed.name)
                .context("a host")?;
            let management = licensed.management.as_mut().context("management")?;
            management.address = Some(at.ip().to_string());
            management.port = Some(at.port().into());
        }
        Ok(Self {
            host,
            session: Session::default(),
            ledger: Arc::default(),
            now: Timestamp::now(),
            told: Vec::new(),
        })
    }

    async fn look(&mut self, secrets: &Objects, store: &dyn Store) -> Outcome {
        let ledger = Shared::Ledger(Arc::clone(&self.ledger) as Arc<dyn Ledger>);
        let looked = visit(&self.host, secrets, &self.session, store, &ledger, self.now);
        let outcome = looked.await;
        self.told
            .extend(outcome.notices.iter().map(|notice| notice.reason.to_owned()));
        self.host
            .status
            .get_or_insert_default()
            .licensed_hosts
            .clone_from(&outcome.rows);
        self.now += outcome.again_in;
        outcome
    }

    async fn look_until(
        &mut self,
        secrets: &Objects,
        store: &dyn Store,
        condition: &str,
        reason: &str,
    ) -> Result<Outcome> {
        for _ in 0..20 {
            let outcome = self.look(secrets, store).await;
            if verdict(&outcome, condition).is_some_and(|(_, found)| found == reason) {
                return Ok(outcome);
            }
        }
        anyhow::bail!("{condition} does not become {reason}: {:?}", self.host.status)
    }
}

fn verdict<'a>(outcome: &'a Outcome, condition: &str) -> Option<(Option<bool>, &'a str)> {
    let found = outcome.conditions.iter().find(|(kind, _)| *kind == condition);
    found.map(|(_, verdict)| (verdict.status, verdict.reason))
}

#[tokio::test]
async fn the_example_brings_two_hosts_to_licensed_and_clients_to_the_count() -> Result<()> {
    let log = Log::default();
    let writer = log.clone();
    // All of it runs on this thread.
    let _logging = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish()
        .set_default();
    let mut manifest = Manifest::read()?;
    // A word that stands nowhere else.
    manifest.set("kms-account", "password", "said-nowhere-else")?;
    let (first, second) = (
        Rehearsal::start(&manifest, "kms01")?,
        Rehearsal::start(&manifest, "kms02")?,
    );
    let hosts = [("kms01", first.management), ("kms02", second.management)];
    let folder = tempfile::tempdir()?;
    let journal = folder.path().join("journal.json");
    let store = FileStore::new(&journal);
    let mut front = Front::of(&manifest, &hosts)?;
    assert_eq!(
        first.client(1).await?.0,
        0xC004_F042,
        "without a key a host serves nobody"
    );

    // Nobody has called yet.
    let confirmations = manifest.secrets.remove("kms-confirmations").context("a Secret")?;
    let outcome = front
        .look_until(&manifest.objects(), &store, "HostsLicensed", "AwaitingConfirmation")
        .await?;
    for row in &outcome.rows {
        let product = row.products.iter().find(|product| product.name == "OfficeLTSC2024");
        let shown = product
            .and_then(|product| product.installation_id.as_ref())
            .context("an installation ID")?;
        let voice = rehearsal_confirmation_id(&shown.replace('-', ""));
        let given = confirmations.string_data.as_ref().and_then(|data| data.get(&row.name));
        ensure!(
            given == Some(&voice),
            "docs/examples/licensing.yaml: {} is to be \"{voice}\"",
            row.name
        );
    }
    assert_eq!(
        first.client(1).await?.0,
        0xC004_F041,
        "a key that is not activated serves nobody"
    );

    // The confirmation IDs come, one of them mistyped at first: nothing is sent.
    manifest
        .secrets
        .insert("kms-confirmations".to_owned(), confirmations.clone());
    manifest.set("kms-confirmations", "kms02", "12345")?;
    front
        .look_until(&manifest.objects(), &store, "HostsLicensed", "ConfirmationMalformed")
        .await?;
    manifest.secrets.insert("kms-confirmations".to_owned(), confirmations);
    let secrets = manifest.objects();
    let outcome = front.look_until(&secrets, &store, "HostsLicensed", "Licensed").await?;
    assert_eq!(verdict(&outcome, "HostsUnequal"), Some((Some(false), "ProductsEqual")));
    assert_eq!(
        verdict(&outcome, "ThresholdMet").map(|(status, _)| status),
        Some(Some(false))
    );

    let mut counts = Vec::new();
    for number in 1..=5 {
        counts.push(first.client(number).await?);
    }
    assert_eq!(counts.last(), Some(&(0, Some(5))), "{counts:?}");
    front
        .look_until(&secrets, &store, "ThresholdMet", "CountReached")
        .await?;
    let facts = front
        .ledger
        .routes(Millis(0), Millis(front.now.as_millisecond()))
        .await?
        .facts;
    let known: Vec<_> = facts
        .iter()
        .map(|(host, fact)| (host.as_str(), fact.licensed, fact.current_count.unwrap_or(0)))
        .collect();
    assert_eq!(known, [("kms01", Some(true), 5), ("kms02", Some(true), 0)]);

    for (reason, times) in [
        ("KeyInstalled", 4),
        ("Activated", 2),
        ("Confirmed", 2),
        ("HostLicensed", 2),
    ] {
        let told = front.told.iter().filter(|told| *told == reason).count();
        assert_eq!(told, times, "{reason} in {:?}", front.told);
    }
    let logged = log.text();
    ensure!(
        logged.contains("method=\"Activate\"") && logged.contains("TRACE"),
        "the log is heard"
    );
    let said = format!(
        "{:?}{:?}{}{logged}",
        front.host.status,
        front.told,
        std::fs::read_to_string(&journal)?
    );
    for secret in manifest
        .secrets
        .values()
        .flat_map(|secret| secret.string_data.iter().flatten())
    {
        ensure!(
            secret.0 == "username" || !said.contains(secret.1),
            "{} is told",
            secret.0
        );
    }

    // What `kmsctl dlv` prints of the first host.
    let management = front
        .host
        .spec
        .licensed_hosts
        .as_ref()
        .and_then(|hosts| hosts[0].management.clone());
    let licensed = &front.host.spec.licensed_hosts.as_ref().context("hosts")?[0];
    let management = management.context("management")?;
    let (endpoint, credentials) = kms_operator::reach::Reach::to_host(licensed, &management)
        .resolve(&secrets)
        .map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
    let client = wsman::client::Client::new(endpoint, credentials, wsman::client::Limits::default())?;
    let licences = kmsctl::dlv::read(&client, &[]).await?;
    let lines: Vec<String> = licences
        .iter()
        .flat_map(|licence| licence.lines(&jiff::tz::TimeZone::UTC))
        .collect();
    for line in [
        "License Status: Licensed",
        "Partial Product Key: 2024A",
        "    Current count: 5",
    ] {
        ensure!(
            lines.iter().any(|shown| shown.trim() == line.trim()),
            "{line} is not in {lines:#?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_host_that_is_off_and_a_wrong_password_are_told_and_the_other_host_is_licensed() -> Result<()> {
    let mut manifest = Manifest::read()?;
    let first = Rehearsal::start(&manifest, "kms01")?;
    let off = system_tests::name_server::free_address()?;
    let store = InMemory::default();
    let mut front = Front::of(&manifest, &[("kms01", first.management), ("kms02", off)])?;
    let outcome = front
        .look_until(&manifest.objects(), &store, "HostsLicensed", "HostUnreachable")
        .await?;
    assert!(outcome.again_in <= Duration::from_secs(15), "{:?}", outcome.again_in);
    for _ in 0..10 {
        front.look(&manifest.objects(), &store).await;
    }
    let rows = &front.host.status.as_ref().context("a status")?.licensed_hosts;
    assert_eq!(rows[0].licensed, Some(true), "{rows:?}");
    assert_eq!((rows[1].licensed, rows[1].reachable), (None, Some(false)));
    assert_eq!(
        front.told.iter().filter(|told| *told == "HostUnreachable").count(),
        1,
        "{:?}",
        front.told
    );

    // Somebody changes the account's password: one refusal, and the next try comes with the right Secret.
    manifest.set("kms-account", "password", "wrong")?;
    let outcome = front
        .look_until(&manifest.objects(), &store, "HostsLicensed", "AccessDenied")
        .await?;
    let refused = outcome.rows.iter().find(|row| row.name == "kms01").context("a row")?;
    assert_eq!(refused.licensed, None);
    let memory = store.load().await?;
    assert_eq!(memory.patience.get("kms01").map(|patience| patience.failures), Some(1));
    manifest.set("kms-account", "password", "rehearsal")?;
    for _ in 0..2 {
        front.look(&manifest.objects(), &store).await;
    }
    let rows = &front.host.status.as_ref().context("a status")?.licensed_hosts;
    assert_eq!(rows[0].licensed, Some(true), "{rows:?}");
    Ok(())
}
