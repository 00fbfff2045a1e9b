//! WS-Management (WS-Man) for WMI classes: a client for licensed hosts, and the server side that rehearsal hosts show.
//!
//! The core never opens a socket: [`envelope`] writes what is sent, [`reply`] and [`fault`] read what came back, and
//! [`value`] holds what WMI properties can be. [`client`] carries it over HTTP: TLS with a CA bundle or a pinned
//! certificate, Basic, NTLM with channel bindings, and NTLM message sealing where there is no TLS. [`server`] answers
//! the same operations for any [`server::Provider`] of classes.
//!
//! ```text
//! client::Client -> envelope -> [sealing] -> HTTP(S) -> server::serve -> wql -> Provider
//!                <- reply/fault <-                   <-
//! ```
//!
//! Nothing here knows what a licence is but [`hresult`], the table of Windows codes in words that everyone shares.
//! No shell is ever opened on a host: classes, properties and methods only.
//!
//! Sources: DSP0226 (WS-Management), DSP0227 (WS-CIM binding), MS-WSMV, MS-WSMAN, MS-NLMP.

pub mod client;
pub mod envelope;
pub mod fault;
pub mod hresult;
pub mod names;
pub mod ntlm;
pub mod reply;
pub mod sealing;
pub mod server;
pub mod tls;
pub mod value;
pub mod xml;
