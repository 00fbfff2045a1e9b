//! kms-host: a KMS endpoint on TCP 1688.
//!
//! A host replica is either a relay, which answers each activation request with what a licensed host answered,
//! or a rehearsal host, which answers rehearsal clients under the site's own key. It never forms a response that a
//! Microsoft client accepts.
//!
//! ```text
//! client --1688--> serve (admission, PROXY header, time-outs)
//!                    |  rpc::Association: bytes <-> calls
//!                    +-> relay  --routing--> licensed host      (stub bytes are opaque)
//!                    +-> rehearsal --> ledger                   (sealed envelope, the KMS counting rule)
//!                              admin: /metrics /healthz /readyz /status /
//! ```

pub mod admin;
pub mod admission;
pub mod cli;
pub mod config;
pub mod http;
pub mod keyfile;
pub mod ledger;
pub mod metrics;
pub mod otlp;
pub mod rehearsal;
pub mod relay;
pub mod routing;
pub mod rpc;
pub mod run;
pub mod sealing;
pub mod serve;
pub mod telemetry;
