//! The admin endpoint of a pod, through the API server, as `kubectl port-forward` reaches it: that needs no way into the
//! cluster's network, and no NetworkPolicy stands in it.

use std::fmt;

use anyhow::{Context as _, Result, anyhow, bail};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1;
use kms_host::config::ADMIN_PORT;
use kms_operator::api::OfficeKmsHost;
use kms_operator::build::common::{Component, selector};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};

use crate::cluster::why;

/// The longest answer that is read: 1,000 events are far below it.
const LONGEST: usize = 8 << 20;

/// A pod of a host replica.
#[derive(Debug, Clone)]
pub struct Pod {
    pods: Api<v1::Pod>,
    name: String,
}

impl fmt::Display for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pod {}", self.name)
    }
}

/// The running host replicas of a resource.
///
/// # Errors
/// When there is no such resource, none of its replicas runs, or neither may be looked up.
pub(super) async fn running(client: &Client, namespace: &str, name: &str) -> Result<Vec<Pod>> {
    let hosts: Api<OfficeKmsHost> = Api::namespaced(client.clone(), namespace);
    let about = || format!("OfficeKmsHost {namespace}/{name}");
    let host = hosts.get_opt(name).await.map_err(|error| anyhow!(why(&error)));
    let Some(host) = host.with_context(|| format!("cannot read {}", about()))? else {
        bail!("there is no {}", about());
    };
    let labels: Vec<String> = selector(&host, Component::Host)
        .iter()
        .map(|(label, value)| format!("{label}={value}"))
        .collect();
    let pods: Api<v1::Pod> = Api::namespaced(client.clone(), namespace);
    let found = pods.list(&ListParams::default().labels(&labels.join(","))).await;
    let found = found
        .map_err(|error| anyhow!(why(&error)))
        .with_context(|| format!("cannot list the pods of {}", about()))?;
    let running: Vec<Pod> = found
        .into_iter()
        .filter(runs)
        .map(|pod| Pod::new(&pods, &pod))
        .collect();
    if running.is_empty() {
        bail!("no replica of {} runs: see `kmsctl doctor {name}`", about());
    }
    Ok(running)
}

fn runs(pod: &v1::Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    phase == Some("Running") && pod.metadata.deletion_timestamp.is_none()
}

impl Pod {
    fn new(pods: &Api<v1::Pod>, pod: &v1::Pod) -> Self {
        Self {
            pods: pods.clone(),
            name: pod.name_any(),
        }
    }

    /// What the path answers.
    ///
    /// # Errors
    /// When the port cannot be forwarded, or no whole answer comes through it.
    pub(super) async fn get(&self, path: &str) -> Result<(StatusCode, String)> {
        let mut forwarder = self
            .pods
            .portforward(&self.name, &[ADMIN_PORT])
            .await
            .map_err(|error| anyhow!("its port cannot be forwarded: {}", why(&error)))?;
        let stream = forwarder
            .take_stream(ADMIN_PORT)
            .context("its port was not forwarded")?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::get(path)
            .header(header::HOST, self.name.as_str())
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())?;
        let exchange = async {
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), LONGEST).collect().await;
            let body = body.map_err(|error| anyhow!(error))?.to_bytes();
            Ok((status, String::from_utf8_lossy(&body).into_owned()))
        };
        tokio::pin!(exchange);
        tokio::select! {
            answer = &mut exchange => answer,
            // The connection ends once its answer is read, or by what is wrong with it.
            ended = connection => { ended?; exchange.await }
        }
    }
}
