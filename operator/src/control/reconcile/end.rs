//! The end of a resource, which waits as long as something of it is outside of the cluster.

use kms_host::telemetry::chain;
use kube::ResourceExt as _;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use super::{ON_ITS_WAY, TOGETHER, Work};
use crate::api::OfficeKmsHost;
use crate::apply::{ApplyError, Verb};
use crate::control::outside::{Seen, has_zones};
use crate::control::queue::Next;
use crate::dns::resource::FINALIZER;
use crate::kinds::HOST;

impl Work<'_> {
    /// Holds the resource back from deletion as long as something of it is outside of the cluster.
    pub(super) async fn set_finalizer(&mut self, seen: &Seen) {
        let there = self
            .host
            .metadata
            .finalizers
            .iter()
            .flatten()
            .any(|name| name == FINALIZER);
        let wanted = match &seen.dns {
            Some(outcome) => outcome.finalizer,
            // Not looked at yet: as it is.
            None if has_zones(self.host) => there,
            None => false,
        };
        if there == wanted {
            return;
        }
        if let Err(error) = self.patch_finalizer(wanted).await {
            self.failed(&error);
        }
    }

    async fn patch_finalizer(&self, wanted: bool) -> Result<(), ApplyError> {
        let others = self
            .host
            .metadata
            .finalizers
            .iter()
            .flatten()
            .filter(|name| *name != FINALIZER);
        let finalizers: Vec<&str> = others.map(String::as_str).chain(wanted.then_some(FINALIZER)).collect();
        // With the version that this was decided on: somebody else's finalizer is never lost.
        let patch = json!({"metadata": {"resourceVersion": self.host.resource_version(), "finalizers": finalizers}});
        let api: Api<OfficeKmsHost> = Api::namespaced(self.context.client.clone(), &self.key.namespace);
        match api
            .patch(&self.key.name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
        {
            Ok(host) => {
                self.context.metrics.wrote("OfficeKmsHost", "patch");
                self.context.hosts.put(host);
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(ApplyError::of(
                error,
                Verb::Patch,
                &HOST,
                &self.key.namespace,
                &self.key.name,
            )),
        }
    }

    /// A resource that is being deleted: children go with it by their owner references, outside state by its task.
    pub(super) async fn end(&mut self, seen: Seen, paused: bool) -> (Next, &'static str) {
        let ours = self
            .host
            .metadata
            .finalizers
            .iter()
            .flatten()
            .any(|name| name == FINALIZER);
        if !ours {
            return (
                Next::After {
                    again: self.context.resync,
                    hold: TOGETHER,
                },
                "gone",
            );
        }
        if seen.cleaned.as_ref().is_some_and(|cleaned| cleaned.done) {
            return match self.patch_finalizer(false).await {
                Ok(()) => (
                    Next::After {
                        again: self.context.resync,
                        hold: TOGETHER,
                    },
                    "gone",
                ),
                Err(error) => {
                    tracing::warn!(error = chain(&error), object.r#ref = %self.key, "the finalizer could not be removed");
                    (Next::Retry, "failed")
                }
            };
        }
        match self.write_status(seen, paused).await {
            Ok(_) => (
                Next::After {
                    again: ON_ITS_WAY,
                    hold: TOGETHER,
                },
                "progressing",
            ),
            Err(error) => {
                tracing::warn!(error = chain(&error), object.r#ref = %self.key, "the status could not be written");
                (Next::Retry, "failed")
            }
        }
    }
}
