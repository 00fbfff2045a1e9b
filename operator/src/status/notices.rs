//! What Events tell of a status: what turned. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::api::OfficeKmsHostStatus;
use crate::conditions::{kind, reason};
use crate::notice::Notice;

/// What Events say that was being done.
const ACTION: &str = "Reconciling";

/// Events for what changed between two statuses: only about transitions.
#[must_use]
pub fn notices(before: Option<&OfficeKmsHostStatus>, after: &OfficeKmsHostStatus) -> Vec<Notice> {
    fn find<'a>(status: &'a OfficeKmsHostStatus, type_: &str) -> Option<&'a Condition> {
        status.conditions.iter().find(|condition| condition.type_ == type_)
    }
    let known = |word: &str| reason::ALL.into_iter().find(|known| *known == word);
    let mut notices = Vec::new();
    for (type_, bad) in [
        (kind::READY, "False"),
        (kind::STALLED, "True"),
        (kind::LEDGER_READY, "False"),
        (kind::HOSTS_ANSWER, "False"),
        (kind::PAUSED, "True"),
    ] {
        let was = before.and_then(|before| find(before, type_));
        let Some(is) = find(after, type_) else { continue };
        let Some(word) = known(&is.reason) else { continue };
        let turned = was.map(|was| was.status.as_str()) != Some(is.status.as_str());
        let worse = is.status == bad && was.is_some_and(|was| was.reason != is.reason);
        let good = is.status != bad && is.status != "Unknown";
        match type_ {
            // From nothing to not ready is no news, nor is each step on the way; Stalled tells what is wrong.
            kind::READY if turned && good => notices.push(Notice::normal(ACTION, word, &is.message)),
            kind::READY if turned && was.is_some() => notices.push(Notice::warning(ACTION, word, &is.message)),
            kind::READY => {}
            _ if is.status == bad && (turned || worse) => notices.push(Notice::warning(ACTION, word, &is.message)),
            _ if good && turned && was.is_some_and(|was| was.status == bad) => {
                let message = format!("{type_} is {} again", is.status);
                notices.push(Notice::normal(ACTION, word, &message));
            }
            _ => {}
        }
    }
    notices
}
