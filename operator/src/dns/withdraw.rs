//! Taking records away: of a resource that is being deleted, and from places that its spec has left.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kms_dns::records::Desired;

use super::input::{self, HeldBack};
use super::presence::Action;
use super::round::{Limits, Task, clean_up as take_away};
use super::session::Session;
use super::settings::{check, owner};
use crate::api::status::{PublishedBy, ZoneStatus};
use crate::api::{DeletionPolicy, OfficeKmsHost, SKIP_CLEANUP_ANNOTATION};
use crate::notice::Notice;
use crate::secrets::{Objects, ReadSecrets};

/// How long a deleted resource waits for its records to be taken away.
pub const CLEAN_UP_LIMIT: SignedDuration = SignedDuration::from_mins(10);
/// After a try that did not go well.
const SOON: Duration = Duration::from_secs(30);

/// What became of the clean-up of a deleted resource.
#[derive(Debug, Clone, PartialEq)]
pub struct Cleaned {
    /// Whether the finalizer can go.
    pub done: bool,
    /// What is still there, for the condition; empty when nothing is.
    pub left: Vec<String>,
    /// Events of Kubernetes.
    pub notices: Vec<Notice>,
    /// When to try again.
    pub again_in: Duration,
}

/// Takes away what stands outside, for a resource that is being deleted.
pub async fn clean_up(
    host: &OfficeKmsHost,
    secrets: &dyn ReadSecrets,
    session: &Session,
    limits: &Limits,
    now: Timestamp,
) -> Cleaned {
    let stored: &[ZoneStatus] = host.status.as_ref().map_or(&[], |status| &status.dns);
    let mut cleaned = Cleaned {
        done: true,
        left: Vec::new(),
        notices: Vec::new(),
        again_in: SOON,
    };
    let places: Vec<(&str, &PublishedBy)> = stored
        .iter()
        .flat_map(|row| row.published_by.iter().map(|place| (row.zone.as_str(), place)))
        .collect();
    if places.is_empty() {
        return cleaned;
    }
    let zones: Vec<&str> = places.iter().map(|(zone, _)| *zone).collect();
    let annotations = host.metadata.annotations.as_ref();
    let skipped = annotations
        .and_then(|all| all.get(SKIP_CLEANUP_ANNOTATION))
        .is_some_and(|value| value == "true");
    if skipped || host.spec.deletion_policy == DeletionPolicy::Retain {
        let why = if skipped {
            SKIP_CLEANUP_ANNOTATION
        } else {
            "deletionPolicy: Retain"
        };
        let message = format!("records stay behind in {} ({why})", zones.join(", "));
        cleaned
            .notices
            .push(Notice::warning("CleaningUp", "CleanUpSkipped", &message));
        return cleaned;
    }
    let objects = Objects::read(secrets, &input::names(None, stored)).await;
    let objects = objects.or_else(&session.credentials());
    let outcomes = withdraw(&places, &objects, session, limits, now).await;
    cleaned.left = outcomes.into_iter().filter_map(Result::err).collect();
    if cleaned.left.is_empty() {
        let message = format!("our records were taken away from {}", zones.join(", "));
        cleaned
            .notices
            .push(Notice::normal("CleaningUp", "RecordsTakenAway", &message));
        return cleaned;
    }
    let deleted_at = host.metadata.deletion_timestamp.as_ref().map_or(now, |at| at.0);
    let message = cleaned.left.join("; ");
    if now.duration_since(deleted_at) >= CLEAN_UP_LIMIT {
        let message = format!("records stay behind, remove them by hand: {message}");
        cleaned
            .notices
            .push(Notice::warning("CleaningUp", "RecordsLeftBehind", &message));
        return cleaned;
    }
    let message = format!(
        "records could not be taken away yet: {message}; it is given up {} minutes after the deletion, or at once with the \
         annotation {SKIP_CLEANUP_ANNOTATION}: \"true\"",
        CLEAN_UP_LIMIT.as_mins()
    );
    cleaned
        .notices
        .push(Notice::warning("CleaningUp", "CleanUpFailing", &message));
    cleaned.done = false;
    cleaned
}

/// Takes away what stands in these places.
pub(super) async fn withdraw(
    places: &[(&str, &PublishedBy)],
    objects: &Objects,
    session: &Session,
    limits: &Limits,
    now: Timestamp,
) -> Vec<Result<(), String>> {
    let held = |mark: &str| session.held_back(mark, now);
    let tasks: Vec<Result<Option<Task>, String>> = places
        .iter()
        .map(|(zone, place)| {
            let mut task = leftover(zone, place, objects, &held)?;
            task.iter_mut()
                .for_each(|task| session.take_turns(&mut task.zone.publisher));
            Ok(task)
        })
        .collect();
    let doable: Vec<Task> = tasks.iter().filter_map(|task| task.clone().ok().flatten()).collect();
    let mut outcomes = take_away(&doable, limits).await.into_iter();
    tasks
        .into_iter()
        .map(|task| match task {
            Ok(Some(_)) => outcomes.next().unwrap_or(Ok(())),
            Ok(None) => Ok(()),
            Err(why) => Err(why),
        })
        .collect()
}

fn leftover(zone: &str, place: &PublishedBy, objects: &Objects, held: &HeldBack<'_>) -> Result<Option<Task>, String> {
    let Some(input) = input::leftover(zone, place, objects, held) else {
        return Ok(None);
    };
    // There may be no such field any more, so only what is wrong is told.
    let checked = check(0, &input).map_err(|problems| {
        let told: Vec<String> = problems.into_iter().map(|problem| problem.message).collect();
        format!("{zone}: {}", told.join("; "))
    })?;
    let owner = owner(&place.owner).map_err(|problem| format!("{zone}: {}", problem.message))?;
    let desired = Desired::new(checked.name.clone(), checked.apex.clone(), owner, checked.ttl, &[])
        .map_err(|error| format!("{zone}: {error}"))?;
    Ok(Some(Task {
        zone: checked,
        stood: desired.clone(),
        desired,
        silent: None,
        action: Action::Withdraw {
            why: "the zone is not published through this any more".to_owned(),
        },
    }))
}
