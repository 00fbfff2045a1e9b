//! Traces, as a collector receives them: OTLP over HTTP.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use kms_operator::api::OfficeKmsHost;
use kube::api::{Api, PostParams};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use serde_json::json;
use system_tests::operator::{becomes, cluster};
use system_tests::program::{Process, path};

/// A collector, and the requests that it has received.
struct Collector {
    address: SocketAddr,
    received: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
}

impl Collector {
    async fn start() -> Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let received: Arc<Mutex<Vec<_>>> = Arc::default();
        let kept = Arc::clone(&received);
        let take = move |body: Bytes| async move {
            let request = ExportTraceServiceRequest::decode(body).expect("an OTLP request");
            kept.lock().expect("no thread panicked").push(request);
        };
        let routes = Router::new().route("/v1/traces", post(take));
        tokio::spawn(async { axum::serve(listener, routes).await });
        Ok(Self { address, received })
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All spans, each with the name of its service.
    fn spans(&self) -> Vec<(String, Span)> {
        let received = self.received.lock().expect("no thread panicked");
        let resources = received.iter().flat_map(|request| &request.resource_spans);
        let spans = resources.flat_map(|of| {
            let service = of
                .resource
                .as_ref()
                .and_then(|resource| text(&resource.attributes, "service.name"));
            let spans = of.scope_spans.iter().flat_map(|scope| scope.spans.clone());
            spans.map(move |span| (service.clone().unwrap_or_default(), span))
        });
        spans.collect()
    }
}

fn text(attributes: &[KeyValue], name: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == name)?;
    match &found.value {
        Some(AnyValue {
            value: Some(Value::StringValue(text)),
        }) => Some(text.clone()),
        _ => None,
    }
}

/// Tells a process to end, and waits until it has.
async fn end(process: Process) -> Result<()> {
    let id = process.id().to_string();
    anyhow::ensure!(Command::new("kill").args(["-TERM", &id]).status()?.success());
    becomes("the process has ended", async || {
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        Ok(status.lines().any(|line| line.starts_with("State:\tZ")))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_sees_what_the_operator_does() -> Result<()> {
    let Some(plane) = cluster("a_collector_sees_what_the_operator_does").await? else {
        return Ok(());
    };
    let collector = Collector::start().await?;
    let folder = tempfile::tempdir()?;
    let mut command = Command::new(path("kms-operator")?);
    command
        .env("KUBECONFIG", plane.kubeconfig()?)
        .args(["--leader-election=false", "--listen=127.0.0.1:0", "--instance=traced"])
        .args(["--log=error", "--otlp-endpoint", &collector.url()])
        .arg("--scratch-directory")
        .arg(folder.path());
    let process = Process::start(&mut command, &folder.path().join("log"))?;
    let hosts: Api<OfficeKmsHost> = Api::default_namespaced(plane.client()?);
    let host = serde_json::from_value(json!({
        "apiVersion": "officekms.io/v1alpha1", "kind": "OfficeKmsHost", "metadata": {"name": "kms"},
        "spec": {"replicas": 1, "ledger": {"memory": {}}, "licensedHosts": [{"name": "kms01", "address": "192.0.2.7"}]}
    }))?;
    hosts.create(&PostParams::default(), &host).await?;
    becomes("the resource was looked at", async || {
        Ok(hosts
            .get("kms")
            .await?
            .status
            .is_some_and(|status| !status.conditions.is_empty()))
    })
    .await?;
    // What was not sent yet is sent at the end, whatever the log leaves out.
    end(process).await?;

    let spans = collector.spans();
    assert!(spans.iter().all(|(service, _)| service == "kms-operator"), "{spans:#?}");
    let named = |name: &'static str| spans.iter().map(|(_, span)| span).filter(move |span| span.name == name);
    let resource = |span: &&Span| text(&span.attributes, "object.ref").as_deref() == Some("default/kms");
    let reconciled: Vec<&Span> = named("reconcile").filter(resource).collect();
    assert!(!reconciled.is_empty(), "{spans:#?}");
    assert!(
        reconciled
            .iter()
            .any(|span| text(&span.attributes, "result").as_deref() == Some("progressing"))
    );
    let applied = named("apply").find(|span| text(&span.attributes, "child.kind").as_deref() == Some("Deployment"));
    let applied = applied.context("the Deployment was applied")?;
    assert_eq!(text(&applied.attributes, "result").as_deref(), Some("Created"));
    assert!(reconciled.iter().any(|span| span.span_id == applied.parent_span_id));
    let look = named("look").find(resource).context("its replicas were looked for")?;
    assert!(look.parent_span_id.is_empty() && text(&look.attributes, "kind").is_some());
    Ok(())
}

#[tokio::test]
async fn a_collector_sees_each_request_of_a_replica() -> Result<()> {
    let collector = Collector::start().await?;
    let folder = tempfile::tempdir()?;
    let port = system_tests::program::free_port()?;
    let file = folder.path().join("kms-host.yaml");
    // A licensed host that refuses connections: the client is told so, and the trace shows who was asked.
    let nobody = system_tests::program::free_port()?;
    std::fs::write(
        &file,
        format!(
            "listen: ['127.0.0.1:{port}']\nlog: {{filter: error}}\n\
             relay: {{licensedHosts: [{{name: kms01, address: 127.0.0.1, port: {nobody}}}]}}\n"
        ),
    )?;
    let mut command = Command::new(path("kms-host")?);
    command
        .arg("--config")
        .arg(&file)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url());
    let process = Process::start(&mut command, &folder.path().join("log"))?;
    becomes("a client is served", async || {
        let options = kms_host::rpc::ConnectOptions::default();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut connection = kms_host::rpc::Connection::connect(address, &options).await?;
        let order = kms_host::rpc::DataRepresentation::LITTLE_ENDIAN;
        // Without a host that answers, the connection is closed.
        Ok(connection.call(0, order, b"request").await.is_err())
    })
    .await?;
    end(process).await?;

    let spans = collector.spans();
    let named = |name: &str| spans.iter().find(|(_, span)| span.name == name).cloned();
    let (service, request) = named("request").with_context(|| format!("{spans:#?}"))?;
    assert_eq!(service, "kms-host");
    assert_eq!(text(&request.attributes, "client.addr").as_deref(), Some("127.0.0.1"));
    assert_eq!(text(&request.attributes, "result").as_deref(), Some("Closed"));
    let (_, attempt) = named("attempt").context("who was asked")?;
    assert_eq!(text(&attempt.attributes, "host").as_deref(), Some("kms01"));
    assert_eq!(attempt.parent_span_id, request.span_id);
    Ok(())
}
