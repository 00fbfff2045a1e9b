//! Spans for a collector: OTLP over HTTP, as protobuf. Off unless a collector is named; then nothing of it exists.
//!
//! ```text
//! spans --> batches (bounded: what overflows is dropped) --> a thread of its own --> collector
//! ```
//!
//! Nothing waits for the collector. What it costs when it is away is one line of the log every ten seconds.

use std::time::{Duration, Instant};

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{ExporterBuildError, Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::EnvResourceDetector;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::runtime::Runtime;
use tracing::{Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::registry::LookupSpan;

use crate::telemetry::Quiet;

/// How long the collector may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long the process waits at its end for the collector to take what is left.
const FLUSH: Duration = Duration::from_secs(3);
/// Whose spans are sent; those of libraries are for their authors.
const OURS: [&str; 4] = ["kms_host", "kms_operator", "kms_dns", "wsman"];

/// Where spans are sent. Headers, sampling and further attributes come from OpenTelemetry's own variables.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct Collector {
    /// Collector of traces, as URL of its OTLP endpoint for HTTP, such as http://collector:4318. None given: no traces.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    otlp_endpoint: Option<String>,
}

/// Why spans cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum CollectorError {
    /// The endpoint or a variable of OpenTelemetry is wrong.
    #[error("the collector of traces is not usable: check --otlp-endpoint and the OTEL_ variables")]
    Exporter(#[source] ExporterBuildError),
    /// There is no thread for it, or no trust store.
    #[error("traces cannot be sent")]
    Io(#[source] std::io::Error),
}

/// Spans on their way to the collector.
#[derive(Debug)]
pub struct Traces(SdkTracerProvider);

impl Collector {
    /// Begins to send the spans of `service`, of which this process is `instance`; nothing where no collector is named.
    ///
    /// # Errors
    /// See [`CollectorError`].
    pub fn open(&self, service: &'static str, instance: &str) -> Result<Option<Traces>, CollectorError> {
        // As OpenTelemetry has it, an empty variable is none.
        let Some(endpoint) = self.otlp_endpoint.as_deref().filter(|endpoint| !endpoint.is_empty()) else {
            return Ok(None);
        };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Client::new().map_err(CollectorError::Io)?)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
            .with_timeout(TIMEOUT)
            .build()
            .map_err(CollectorError::Exporter)?;
        let name = std::env::var("OTEL_SERVICE_NAME").unwrap_or_else(|_| service.to_owned());
        let resource = Resource::builder_empty()
            .with_attributes([
                KeyValue::new("service.name", name),
                KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
                KeyValue::new("service.instance.id", instance.to_owned()),
            ])
            .with_detector(Box::new(EnvResourceDetector::new()))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource)
            .build();
        Ok(Some(Traces(provider)))
    }
}

impl Traces {
    /// The layer that turns our spans, down to `debug`, into the collector's.
    pub(crate) fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        let spans = Targets::new().with_targets(OURS.map(|target| (target, Level::DEBUG)));
        let layer = tracing_opentelemetry::layer()
            .with_tracer(self.0.tracer("officekms"))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false);
        layer.with_filter(spans)
    }

    /// Sends what is left, at the end of the process; what the collector does not take in time is lost.
    pub fn flush(self) {
        if let Err(error) = self.0.shutdown_with_timeout(FLUSH) {
            tracing::warn!(%error, "the last traces did not reach the collector");
        }
    }
}

/// The exporter's way to the collector. It is called in the exporter's own thread, which has no runtime: this one is for it
/// alone, and goes on while the program's ends.
#[derive(Debug)]
struct Client {
    runtime: Runtime,
    http: HyperClient<Connector>,
    quiet: Quiet,
}

type Connector = hyper_rustls::HttpsConnector<hyper_util::client::legacy::connect::HttpConnector>;

impl Client {
    fn new() -> std::io::Result<Self> {
        let provider = rustls::crypto::ring::default_provider();
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_provider_and_platform_verifier(provider)
            .map_err(std::io::Error::other)?
            .https_or_http()
            .enable_http1()
            .build();
        Ok(Self {
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build()?,
            http: HyperClient::new(connector, TIMEOUT, None),
            quiet: Quiet::default(),
        })
    }
}

#[async_trait::async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.runtime.block_on(self.http.send_bytes(request));
        let problem = match &answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("it answered {}", answer.status())),
            Err(error) => Some(error.to_string()),
        };
        if let Some((error, held_back)) = problem.zip(self.quiet.pass(Instant::now())) {
            tracing::warn!(error, held_back, "the collector does not take traces; they are dropped");
        }
        answer
    }
}
