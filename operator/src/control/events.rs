//! Kubernetes Events, sent beside the work: nothing waits for one, and what does not fit into the queue is dropped.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource as _};
use tokio::sync::mpsc;

use crate::api::OfficeKmsHost;
use crate::apply::FIELD_MANAGER;
use crate::metrics::Metrics;
use crate::notice::Notice;

/// Events that wait. More are dropped: status says the same.
const WAITING: usize = 4096;

/// Where notices go. Clones are the same.
#[derive(Debug, Clone)]
pub struct Events(mpsc::Sender<(Notice, ObjectReference)>);

impl Events {
    /// Starts to send events in the name of `instance`.
    #[must_use]
    pub fn start(client: Client, instance: String, metrics: Arc<Metrics>) -> Self {
        let (sender, mut receiver) = mpsc::channel::<(Notice, ObjectReference)>(WAITING);
        let reporter = Reporter {
            controller: format!("officekms.io/{FIELD_MANAGER}"),
            instance: Some(instance),
        };
        tokio::spawn(async move {
            let recorder = Recorder::new(client, reporter);
            while let Some((notice, about)) = receiver.recv().await {
                let event = Event {
                    type_: if notice.warning {
                        EventType::Warning
                    } else {
                        EventType::Normal
                    },
                    reason: notice.reason.to_owned(),
                    note: Some(notice.message),
                    action: notice.action.to_owned(),
                    secondary: None,
                };
                match recorder.publish(&event, &about).await {
                    Ok(()) => metrics.wrote("Event", "create"),
                    Err(error) => tracing::debug!(%error, object.r#ref = ?about.name, "an Event could not be written"),
                }
            }
        });
        Self(sender)
    }

    /// Sends an event about a resource.
    pub fn send(&self, about: &OfficeKmsHost, notice: Notice) {
        if self.0.try_send((notice, about.object_ref(&()))).is_err() {
            tracing::debug!("an Event was dropped: too many wait");
        }
    }
}
