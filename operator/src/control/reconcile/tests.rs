//! Answers that a real API server cannot be made to give at a moment of the test's choice.

use std::time::Duration;

use kube::Client;
use kube::client::Body;
use serde_json::Value;

use super::*;
use crate::client::Gate;
use crate::control::Parts;
use crate::endpoint::Health;
use crate::settings::Settings;

/// What is asked of the API server is answered by `answer` from its method and path.
fn context(answer: impl Fn(&str, &str) -> (u16, Value) + Clone + Send + 'static) -> Arc<Context> {
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let (code, body) = answer(request.method().as_str(), request.uri().path());
        async move {
            http::Response::builder()
                .status(code)
                .body(Body::from(body.to_string().into_bytes()))
        }
    });
    let context = Context::new(Parts {
        client: Client::new(service, "office"),
        settings: Settings::default(),
        hosts: Arc::default(),
        children: Arc::default(),
        queue: crate::control::queue::Queue::default(),
        metrics: Arc::default(),
        health: Health::default(),
        instance: "test".to_owned(),
        resync: Duration::from_secs(300),
        replicas_every: Duration::from_secs(60),
        scratch: std::env::temp_dir(),
        gate: Gate::open(),
        turns: Arc::new(crate::control::upgrade::Turns::new(1)),
    });
    context.watches.shown(&crate::kinds::HOST);
    Arc::new(context)
}

fn paused() -> OfficeKmsHost {
    let mut host = crate::build::fixtures::host(json!({"rehearsal": {}}));
    host.metadata.resource_version = Some("1".to_owned());
    host.metadata.annotations = Some([(crate::api::PAUSED_ANNOTATION.to_owned(), "true".to_owned())].into());
    host
}

async fn looked_at(context: &Arc<Context>, host: OfficeKmsHost) -> (Next, &'static str) {
    let key = crate::control::hosts::key(&host);
    context.hosts.put(host);
    reconcile(context, &key).await
}

#[tokio::test]
async fn a_status_that_somebody_else_wrote_at_the_same_moment_is_tried_again_soon() {
    let conflict = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Conflict", "code": 409,
        "message": "Operation cannot be fulfilled on officekmshosts \"kms\": the object has been modified"});
    let beaten = context(move |_, _| (409, conflict.clone()));
    assert_eq!(looked_at(&beaten, paused()).await, (Next::Retry, "conflict"));

    let host = paused();
    let stored = serde_json::to_value(&host).expect("JSON");
    let well = context(move |_, _| (200, stored.clone()));
    let (next, result) = looked_at(&well, host).await;
    assert!(matches!(next, Next::After { .. }), "{next:?}");
    assert_eq!(result, "paused");
}

#[tokio::test]
async fn a_secret_that_cannot_be_read_now_calls_nobody_and_makes_no_key() {
    let away =
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 503, "message": "etcd is away"});
    let host = OfficeKmsHost {
        metadata: kube::api::ObjectMeta {
            annotations: None,
            ..paused().metadata
        },
        ..paused()
    };
    let stored = serde_json::to_value(&host).expect("JSON");
    let context = context(move |method, path| {
        assert!(!(method == "POST" && path.ends_with("/secrets")), "no key is made");
        match path {
            path if path.contains("/secrets/") => (503, away.clone()),
            path if path.ends_with("/status") => (200, stored.clone()),
            _ => (
                404,
                json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404, "message": "no"}),
            ),
        }
    });
    let key = crate::control::hosts::key(&host);
    assert_eq!(looked_at(&context, host).await, (Next::Retry, "failed"));
    let said = context.memory(|all| all.get(&key).and_then(|memory| memory.said().cloned()));
    let conditions = said.expect("a status was written").conditions;
    let of = |type_: &str| {
        conditions
            .iter()
            .find(|condition| condition.type_ == type_)
            .expect("it")
    };
    assert_eq!(
        (of("Stalled").status.as_str(), of("Ready").reason.as_str()),
        ("False", reason::API_UNAVAILABLE)
    );
}
