//! What the replicas say of themselves: their `/status`, read through the admin port of each where it can be reached.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kms_host::admin::Status;
use kube::Api;
use kube::api::ListParams;
use tokio::time::timeout;

use crate::api::OfficeKmsHost;
use crate::build::names;

/// For one replica's answer.
const ANSWER: Duration = Duration::from_secs(3);
/// Replicas that are asked at the same time.
const AT_A_TIME: usize = 8;
/// Replicas that are asked at most.
const MOST: usize = 100;
/// A licensed host that is to show itself by its next answer is told as silent for so long after its last failure.
const FAILED_LATELY: Duration = Duration::from_mins(5);
/// Largest answer.
const LARGEST: usize = 1024 * 1024;

/// What the replicas said, in sum.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replicas {
    /// Those that answered.
    pub answered: usize,
    /// Those that do not reach the ledger, with what the first of them said.
    pub without_ledger: Option<(usize, String)>,
    /// The highest current count in the ledger.
    pub current: Option<u32>,
    /// The largest required count that a client asked for.
    pub required: u32,
    /// Distinct clients in 30 days, as relays count them.
    pub clients: Option<u64>,
    /// Files that a replica could not take over, with its words.
    pub reload: Option<String>,
    /// Licensed hosts that a replica gets no answers of, by name.
    pub silent: BTreeMap<String, Silence>,
}

/// A licensed host that replicas get no answers of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Silence {
    /// Where it is asked.
    pub address: String,
    /// Replicas that it did not answer.
    pub replicas: usize,
    /// What the first of them said went wrong.
    pub why: Option<String>,
}

/// Asks the replicas of a resource.
///
/// # Errors
/// When the API server does not say where they are.
pub async fn ask(host: &OfficeKmsHost, slices: &Api<EndpointSlice>) -> Result<Replicas, kube::Error> {
    let of_service = ListParams::default().labels(&format!("kubernetes.io/service-name={}", names::admin(host)));
    let addresses = addresses(&slices.list(&of_service).await?.items);
    let client = HttpClient::builder(TokioExecutor::new()).build(HttpConnector::new());
    let asked = futures::stream::iter(addresses)
        .map(|address| one(&client, address))
        .buffered(AT_A_TIME);
    let answers: Vec<Option<Status>> = asked.collect().await;
    Ok(sum(answers.into_iter().flatten()))
}

/// `address:port` of each replica that answers clients.
fn addresses(slices: &[EndpointSlice]) -> Vec<String> {
    let mut all = Vec::new();
    for slice in slices {
        let port = slice.ports.iter().flatten().find_map(|port| port.port);
        let Some(port) = port else { continue };
        for endpoint in &slice.endpoints {
            let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false);
            let Some(address) = endpoint.addresses.first().filter(|_| ready) else {
                continue;
            };
            all.push(match slice.address_type.as_str() {
                "IPv6" => format!("[{address}]:{port}"),
                _ => format!("{address}:{port}"),
            });
        }
    }
    all.sort();
    all.dedup();
    all.truncate(MOST);
    all
}

async fn one(client: &HttpClient<HttpConnector, Empty<Bytes>>, address: String) -> Option<Status> {
    let uri = format!("http://{address}/status").parse().ok()?;
    let read = async {
        let answer = client.get(uri).await.ok()?;
        let body = Limited::new(answer.into_body(), LARGEST).collect().await.ok()?;
        serde_json::from_slice(&body.to_bytes()).ok()
    };
    timeout(ANSWER, read).await.ok().flatten()
}

fn sum(answers: impl Iterator<Item = Status>) -> Replicas {
    let mut replicas = Replicas::default();
    for status in answers {
        replicas.answered += 1;
        if !status.ledger.available {
            let why = status
                .ledger
                .error
                .clone()
                .unwrap_or_else(|| "it does not say why".to_owned());
            let (count, first) = replicas.without_ledger.take().unwrap_or((0, why));
            replicas.without_ledger = Some((count + 1, first));
        }
        for count in &status.ledger.counts {
            replicas.current = replicas.current.max(Some(count.current_count));
            replicas.required = replicas.required.max(count.largest_required);
        }
        if let Some(routing) = &status.routing {
            replicas.clients = replicas.clients.max(Some(routing.distinct_clients));
        }
        for host in status.licensed_hosts {
            if host.is_silent(FAILED_LATELY) {
                let silence = replicas.silent.entry(host.name).or_insert_with(|| Silence {
                    address: host.address,
                    replicas: 0,
                    why: None,
                });
                silence.replicas += 1;
                silence.why = silence.why.take().or(host.last_failure.map(|failure| failure.error));
            }
        }
        let reload = status
            .config
            .last_reload
            .filter(|reload| !reload.applied)
            .and_then(|reload| reload.error);
        replicas.reload = replicas.reload.or(reload);
    }
    replicas
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_licensed_host_that_a_replica_gets_no_answers_of_is_silent() {
        let replica = |hosts: serde_json::Value| -> Status {
            serde_json::from_value(json!({
                "name": "a", "mode": "relay", "version": "1", "uptimeSeconds": 1, "ready": true, "draining": false,
                "config": {"generation": 1, "needsRestart": []}, "connections": {"open": 0, "sources": 0, "accepted": 0},
                "requests": {}, "refusals": {}, "licensedHosts": hosts,
                "ledger": {"available": true, "counts": [], "recentEvents": []}
            }))
            .expect("a status")
        };
        let host = |name: &str, health: &str, failure: serde_json::Value| {
            json!({"name": name, "address": format!("{name}:1688"), "health": health, "failures": 0, "answered": 0,
                "failed": 0, "idleConnections": 0, "lastFailure": failure})
        };
        let refused = json!({"secondsAgo": 3, "error": "connection refused"});
        // One that waits for a client to try it, which may be long in coming.
        let long_ago = json!({"secondsAgo": 301, "error": "connection refused"});
        let seen = sum([
            replica(json!([
                host("kms01", "well", refused.clone()),
                host("kms02", "ejected", json!(null))
            ])),
            replica(json!([
                host("kms01", "well", json!(null)),
                host("kms02", "trial", refused)
            ])),
            replica(json!([host("kms01", "trial", long_ago)])),
        ]
        .into_iter());
        let silence = Silence {
            address: "kms02:1688".into(),
            replicas: 2,
            why: Some("connection refused".into()),
        };
        assert_eq!(seen.silent, [("kms02".to_owned(), silence)].into());
    }

    #[test]
    fn only_replicas_that_answer_clients_are_asked() {
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"name": "kms-admin-1"}, "addressType": "IPv4", "ports": [{"port": 9100}],
            "endpoints": [
                {"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
                {"addresses": ["10.0.0.3"], "conditions": {"ready": true}}
            ]
        }))
        .expect("a slice");
        assert_eq!(addresses(&[slice]), ["10.0.0.1:9100", "10.0.0.3:9100"]);
    }
}
